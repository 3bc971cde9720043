package container

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNewNetwork calls a function on a thread that is in a network namespace of its own, which goes with it.
func inNewNetwork(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func addLink(name string) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = name
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: "peer"})
}

// The next container may have the address of the one that is replaced, while that is still cleared away.
func TestHaltTakesTheWire(t *testing.T) {
	d := testDeployment(t)
	in := checkRuns(t, d, mustApply(t, d, script(t, d, "works", "status-works.sexp")))
	in.Generation.Environment.Network = Network{netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.1")}
	inNewNetwork(t, func() error {
		if err := addLink(in.wire()); err != nil {
			return err
		}
		clear := in.halt(t.Context())
		_, err := netlink.LinkByName(in.wire())
		var missing netlink.LinkNotFoundError
		if !errors.As(err, &missing) {
			t.Errorf("the wire is left: %v", err)
		}
		return clear()
	})
}
