package guixtest

import (
	"testing"

	"github.com/genenetwork/guixci/internal/ports"
)

// FreePort is [ports.Free], failing the test if there is none.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := ports.Free()
	if err != nil {
		t.Fatal(err)
	}
	return port
}
