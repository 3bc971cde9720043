// Package guixtest tells tests whether there is a real Guix to test against.
//
// A test that needs one begins with
//
//	guixtest.Require(t)
//
// .ci/test runs such tests inside the box ("go test -exec", see package
// guixbox), or directly on a machine that has a working Guix; in both cases the
// paths are the real ones, /gnu/store and /var/guix.
package guixtest

import (
	"os"
	"testing"
)

// Env is the environment variable that says where the Guix comes from:
// "box" inside the box, "host" on a machine that has one, empty for none.
const Env = "GUIXCI_TEST_GUIX"

// Require skips the test, saying why, unless there is a real Guix at hand.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv(Env) == "" {
		t.Skip("needs a real Guix: run .ci/test, or set " + Env + "=host where Guix works")
	}
}

// InBox reports whether the Guix at hand is the box's, whose packages are
// stand-ins made of Debian's: what is specific to that may be expected only there.
func InBox() bool { return os.Getenv(Env) == "box" }
