package container

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
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

// Neither end of a wire may have the address of somebody else, such as this machine's own gateway. TestRealRouterRefusal
// shows what comes of that.
func TestCheckGateway(t *testing.T) {
	inNewNetwork(t, func() error {
		if err := addLink("wire"); err != nil {
			return err
		}
		link, err := netlink.LinkByName("wire")
		if err != nil {
			return err
		}
		lan, err := netlink.ParseAddr("192.0.2.1/24")
		if err != nil {
			return err
		}
		for _, hop := range []string{"192.0.2.254", "192.0.2.253"} {
			by := &netlink.NexthopInfo{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(hop)}
			route := &netlink.Route{Gw: by.Gw}
			if hop == "192.0.2.253" {
				_, far, _ := net.ParseCIDR("198.51.100.0/24")
				route = &netlink.Route{Dst: far, MultiPath: []*netlink.NexthopInfo{by, {LinkIndex: by.LinkIndex, Gw: net.ParseIP("192.0.2.252")}}}
			} else if err := errors.Join(netlink.AddrAdd(link, lan), netlink.LinkSetUp(link)); err != nil {
				return err
			}
			if err := netlink.RouteAdd(route); err != nil {
				return err
			}
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: alone(netip.MustParseAddr("10.77.0.2")), Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		for address, says := range map[string]string{
			"192.0.2.1": "", "10.77.0.1": "", "fd00::1": "", "10.77.0.2": "there is a route to it",
			"192.0.2.254": "has a route by it", "192.0.2.253": "has a route by it", "192.0.2.252": "has a route by it",
		} {
			for kind, check := range map[string]func(netip.Addr) error{"gateway": checkGateway, "address": checkAddress} {
				want := says
				if address == "192.0.2.1" && kind == "address" {
					want = "is one of this machine"
				}
				err := check(netip.MustParseAddr(address))
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%s %s: %v, want %q", kind, address, err, want)
				}
			}
		}
		return nil
	})
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
