//go:build bench

package inferior_test

import (
	"testing"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// The modes with very many jobs, in full: it takes a quarter of an hour. The
// Guix must be from a profile for images, which ask what channels they are of.
//
//	go test -tags bench -exec "guixbox exec --" -run ModesInFull -timeout 1h ./inferior
func TestGuixModesInFull(t *testing.T) {
	guixtest.Require(t)
	for _, build := range []string{"core", "all"} {
		t.Run(build, func(t *testing.T) { compareWithCuirass(t, "", build, system) })
	}
}
