package container

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Network is one that a container has for itself: two ends of a wire, veth(4), one inside, called eth0,
// and one on the host. Its ports are its own then. The system must have been built to have its
// own network, as "guix system container" does without --network.
//
// The container reaches what the host forwards for it; the host forwards nothing by itself.
// Only our own [Supervisor] can run it: no other runner lays the wire when it starts a container again.
// The zero Network is what the system was built with, and nothing is added.
type Network struct {
	// Address is the container's, and Gateway the host's end, which is its way to everywhere.
	// Several containers may have the same Gateway.
	Address netip.Addr `json:"address,omitzero"`
	Gateway netip.Addr `json:"gateway,omitzero"`
}

func (n Network) isPrivate() bool { return n != Network{} }

// String returns "ADDRESS by GATEWAY"; empty for none.
func (n Network) String() string {
	if !n.isPrivate() {
		return ""
	}
	return n.Address.String() + " by " + n.Gateway.String()
}

// readNetwork reads (network (address A) (gateway B)).
func (n *Network) readNetwork(f form) error {
	if err := f.fields(0, table{"address": toAddress(&n.Address), "gateway": toAddress(&n.Gateway)}); err != nil {
		return err
	}
	if !n.Address.IsValid() || !n.Gateway.IsValid() {
		return f.errorf("needs an address and a gateway")
	}
	return nil
}

func toAddress(to *netip.Addr) func(form) error {
	return func(f form) error {
		text, err := f.only()
		if err != nil {
			return err
		}
		if *to, err = netip.ParseAddr(text); err != nil {
			return f.errorAt(0, "%q is not an address", text)
		}
		return nil
	}
}

// sharesNetwork is how a run-container says whether its container has the network of the host.
var sharesNetwork = regexp.MustCompile(`#:namespaces\s+\(if\s+(#[tf])\s+\(delq\s+\(quote\s+net\)`)

// hasHostNetwork reports whether the containers of a script have the network of the host.
func hasHostNetwork(script string) bool { return saysOfNetwork(script) == "#t" }

// hasOwnNetwork reports whether the containers of a script have a network of their own. Of a script that
// somebody else has made neither may be known.
func hasOwnNetwork(script string) bool { return saysOfNetwork(script) == "#f" }

func saysOfNetwork(script string) string {
	text, err := os.ReadFile(script)
	if found := sharesNetwork.FindSubmatch(text); err == nil && found != nil {
		return string(found[1])
	}
	return ""
}

// checkNetwork returns why the generation cannot have the network it is to have.
func checkNetwork(g *Generation, was standing) error {
	n := g.Environment.Network
	if !n.isPrivate() {
		return nil
	}
	var errs []error
	switch {
	case !n.Address.IsValid() || !n.Gateway.IsValid() || n.Address.Is4() != n.Gateway.Is4() || n.Address == n.Gateway:
		return fmt.Errorf("network %v: an address and another one of the same kind as its gateway are needed", n)
	case g.Environment.Runner != "":
		errs = append(errs, fmt.Errorf("network %v: runner %q may start the container by itself, and it would have no network then: have guixci supervise it, (runner supervisor)", n, g.Environment.Runner))
	}
	if hasHostNetwork(g.Script) {
		errs = append(errs, fmt.Errorf("network %v: the system has that of the host: build it without --network, (network? #f)", n))
	}
	if !was.freesAddress(n.Address, g) {
		errs = append(errs, checkAddress(n.Address))
	}
	if !was.freesAddress(n.Gateway, g) {
		errs = append(errs, checkGateway(n.Gateway))
	}
	return errors.Join(errs...)
}

// freesAddress reports whether an address becomes free before g starts.
func (s standing) freesAddress(a netip.Addr, g *Generation) bool {
	has := func(in *Instance) bool { return in != nil && in.Generation.Environment.Network.Address == a }
	return has(s.beside) || has(s.running) && !g.beside(s)
}

// checkAddress looks for somebody who has the address: this machine, another container on it, or
// one that it reaches others by.
func checkAddress(a netip.Addr) error {
	own, err := isOwn(a)
	if err != nil {
		return err
	}
	if own {
		return fmt.Errorf("address %v is one of this machine", a)
	}
	return checkRoutes(a)
}

// checkGateway looks for somebody else who has the address that this machine is to have, which would reach itself
// in the place of that one; were it its own gateway, nobody by the routes that it is told of from then on.
func checkGateway(a netip.Addr) error {
	own, err := isOwn(a)
	if own || err != nil {
		return err
	}
	return checkRoutes(a)
}

// isOwn reports whether this machine has an address.
func isOwn(a netip.Addr) (bool, error) {
	own, err := net.InterfaceAddrs()
	return slices.ContainsFunc(own, func(o net.Addr) bool {
		p, err := netip.ParsePrefix(o.String())
		return err == nil && p.Addr() == a
	}), err
}

// checkRoutes looks for the address among those to which, and by which, this machine has routes.
func checkRoutes(a netip.Addr) error {
	all, err := routes()
	if err != nil {
		return fmt.Errorf("look for address %v: %w", a, err)
	}
	for _, r := range all {
		if r.Dst != nil && r.Dst.String() == alone(a).String() {
			return fmt.Errorf("address %v is in use: there is a route to it, %v", a, r)
		}
		by := r.Gw.Equal(a.AsSlice())
		for _, hop := range r.MultiPath {
			by = by || hop.Gw.Equal(a.AsSlice())
		}
		if by {
			return fmt.Errorf("address %v is in use: this machine has a route by it, %v", a, r)
		}
	}
	return nil
}

// routes returns the routes of this machine. It asks again when others have changed them meanwhile.
func routes() (all []netlink.Route, err error) {
	for range 10 {
		all, err = netlink.RouteList(nil, netlink.FAMILY_ALL)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// alone returns the network of one address.
func alone(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// wire is the name of the host's end. No two runs that there can be at a time share one.
func (in *Instance) wire() string {
	place := sha256.Sum256([]byte(in.runDir()))
	return fmt.Sprintf("guixci%x", place[:4])
}

// innerEnd is the name of the container's end.
const innerEnd = "eth0"

// connect lays the wire between the container and the host. It goes with either end.
func (in *Instance) connect() error {
	n := in.Generation.Environment.Network
	if !n.isPrivate() {
		return nil
	}
	ns, err := in.Process.networkNamespace()
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	if err := n.connect(in.wire(), ns); err != nil {
		return fmt.Errorf("connect the container to network %v: %w", n, err)
	}
	return nil
}

func (n Network) connect(wire string, ns int) error {
	own, err := netns.Get()
	if err != nil {
		return err
	}
	defer own.Close()
	if own.Equal(netns.NsHandle(ns)) {
		return errors.New("it has that of the host: build the system without --network")
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = wire
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: innerEnd, PeerNamespace: netlink.NsFd(ns)}); err != nil {
		return fmt.Errorf("add link %s: %w", wire, err)
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer host.Close()
	there, err := netlink.NewHandleAt(netns.NsHandle(ns), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer there.Close()
	if _, err := setUp(host, wire, n.Gateway, n.Address); err != nil {
		return fmt.Errorf("set up %s: %w", wire, err)
	}
	link, err := setUp(there, innerEnd, n.Address, n.Gateway)
	if err == nil {
		err = there.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: n.Gateway.AsSlice()})
	}
	if err != nil {
		return fmt.Errorf("set up %s in the container: %w", innerEnd, err)
	}
	return nil
}

// setUp gives one end of a wire its address, and the way to the other one.
func setUp(h *netlink.Handle, name string, address, other netip.Addr) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if err != nil {
		return nil, err
	}
	// There is nobody to ask whether an address is taken, which takes a while.
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: alone(address), Flags: unix.IFA_F_NODAD}); err != nil {
		return nil, err
	}
	if err := h.LinkSetUp(link); err != nil {
		return nil, err
	}
	return link, h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: alone(other), Scope: netlink.SCOPE_LINK, Src: address.AsSlice()})
}

// disconnect takes the wire away, if there is one: the kernel would, but not at once.
func (in *Instance) disconnect() error {
	if !in.Generation.Environment.Network.isPrivate() {
		return nil
	}
	link, err := netlink.LinkByName(in.wire())
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", in.wire(), err)
	}
	return nil
}

// inNetwork calls a function on a thread that has entered the network namespace of a process. Sockets that it
// makes stay there. The thread ends with it, and is never used for anything else.
func inNetwork(p Process, f func() error) (err error) {
	ns, err := p.networkNamespace()
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good
		if err = unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter network of process %d: %w", p.PID, err)
			return
		}
		err = f()
	}()
	<-done
	return err
}
