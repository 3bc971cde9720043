package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A router is one of this machine's, in a network of both: another network namespace, which answers at an address beyond
// it, too.
type router struct {
	address   netip.Addr // by which this machine has a route
	near, far net.Listener
}

func startRouter(t *testing.T) *router {
	t.Helper()
	r := &router{address: freeAddress(t)}
	wire, far := fmt.Sprintf("router%x", r.address.As4()), freeAddress(t)
	laid, end := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // for good: the namespace goes with the thread
		laid <- r.lay(wire, far)
		<-end
	}()
	if err := <-laid; err != nil {
		t.Fatal(err)
	}
	if err := r.route(); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the router") })}
	go server.Serve(r.near)
	go server.Serve(r.far)
	t.Cleanup(func() {
		server.Close()
		close(end)
		if link, err := netlink.LinkByName(wire); err == nil { // else it has just gone with its other end
			netlink.LinkDel(link)
		}
	})
	return r
}

// lay has this thread leave for a network namespace of its own, and lays a wire from there to where it was.
func (r *router) lay(wire string, far netip.Addr) error {
	home, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	there, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer there.Close()
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	attributes := netlink.NewLinkAttrs()
	attributes.Name = wire
	if err := home.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: "lan", PeerNamespace: netlink.NsFd(ns)}); err != nil {
		return err
	}
	own := r.address.As4()
	own[3] ^= 1 // a network of two: other tests may have other addresses of a larger one
	if err := errors.Join(join(home, wire, netip.AddrFrom4(own), 31), join(there, "lan", r.address, 31), join(there, "lo", far, 32)); err != nil {
		return err
	}
	r.near, err = net.Listen("tcp", net.JoinHostPort(r.address.String(), "0"))
	if err == nil {
		r.far, err = net.Listen("tcp", net.JoinHostPort(far.String(), "0"))
	}
	return err
}

// route has what is beyond the router reached by it.
func (r *router) route() error {
	return netlink.RouteReplace(&netlink.Route{Dst: alone(netip.MustParseAddrPort(r.far.Addr().String()).Addr()), Gw: r.address.AsSlice()})
}

// join gives a link an address in a network.
func join(h *netlink.Handle, link string, a netip.Addr, bits int) error {
	l, err := h.LinkByName(link)
	if err != nil {
		return err
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
	return errors.Join(h.AddrAdd(l, address), h.LinkSetUp(l))
}

// webText returns what a server answers; empty for nothing.
func webText(address string) string {
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + address)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body) // in part is another text
	return string(text)
}

// wantAnswer checks that it is that server which answers at the address, sooner or later.
func wantAnswer(t *testing.T, address, text string) {
	t.Helper()
	eventually(t, func() error {
		if got := webText(address); got != text {
			return fmt.Errorf("%s answers %q, want %q", address, got, text)
		}
		return nil
	})
}

// wantLost checks that it no longer is.
func wantLost(t *testing.T, address, text string) {
	t.Helper()
	if webText(address) == text {
		t.Errorf("%s still answers %q", address, text)
	}
}

// networkDeployment returns a deployment of samples with networks of their own, and where its server listens.
func networkDeployment(t *testing.T, n Network) (d *Deployment, address string) {
	t.Helper()
	d, _ = realDeployment(t)
	d.Environment.Network = n
	d.Environment.Settings["LISTEN"] = "0.0.0.0"
	d.Probes = Probes{Alive{}}
	return d, net.JoinHostPort(n.Address.String(), d.Environment.Settings["PORT"])
}

// awaitWeb waits until the server in the container listens, whoever can reach it.
func awaitWeb(t *testing.T, in *Instance) {
	t.Helper()
	probe := TCP{Address: "127.0.0.1:" + in.Generation.Environment.Settings["PORT"], Inside: true}
	eventually(t, func() error {
		_, err := probe.Check(t.Context(), in, nil)
		return err
	})
}

// A container with the address of this machine's router, be it as its own or as its gateway, takes it from the router:
// nobody gets there any more, and what is routed by it from then on goes to the container.
func TestRealRouterRefusal(t *testing.T) {
	t.Parallel()
	script := samples(t)["own one"]
	for name, network := range map[string]func(r *router) Network{
		"address": func(r *router) Network { return Network{r.address, freeAddress(t)} },
		"gateway": func(r *router) Network { return Network{freeAddress(t), r.address} },
	} {
		t.Run(name, func(t *testing.T) {
			r := startRouter(t)
			d, _ := networkDeployment(t, network(r))
			wantAnswer(t, r.near.Addr().String(), "the router")
			wantAnswer(t, r.far.Addr().String(), "the router")
			mustBring(t, d, script)
			wantLost(t, r.near.Addr().String(), "the router")
			if err := r.route(); err != nil { // as a client of DHCP does now and then
				t.Fatal(err)
			}
			wantLost(t, r.far.Addr().String(), "the router")
			stopNow(t, d)

			if err := r.route(); err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, r.near.Addr().String(), "the router")
			wantAnswer(t, r.far.Addr().String(), "the router")
			wantRefusal(t, d, script, "network", "this machine has a route by it")
		})
	}
}

// A gateway that is another container takes it away from everybody on this machine.
func TestRealGatewayRefusal(t *testing.T) {
	t.Parallel()
	scripts := samples(t)
	first, address := networkDeployment(t, Network{freeAddress(t), freeAddress(t)})
	awaitWeb(t, mustBring(t, first, scripts["own one"]))
	wantAnswer(t, address, "own one")
	d, _ := networkDeployment(t, Network{freeAddress(t), first.Environment.Network.Address})
	mustBring(t, d, scripts["own two"])
	wantLost(t, address, "own one")
	stopNow(t, d)
	wantAnswer(t, address, "own one")
	wantRefusal(t, d, scripts["own two"], "network", "is in use: there is a route to it")
}

// With one address for both ends of the wire this machine means itself by it.
func TestRealSameAddressRefusal(t *testing.T) {
	t.Parallel()
	script := samples(t)["own one"]
	a := freeAddress(t)
	d, address := networkDeployment(t, Network{a, a})
	awaitWeb(t, mustBring(t, d, script))
	wantLost(t, address, "own one")
	stopNow(t, d)
	wantRefusal(t, d, script, "network", "an address and another one of the same kind")
}

// A runner that starts again what has ended, as service managers do.
type restarter struct{ Supervisor }

func (r *restarter) Start(ctx context.Context, u Unit) error {
	u.Command = append([]string{"/bin/sh", "-c", `while :; do "$@"; done`, "sh"}, u.Command...)
	return r.Supervisor.Start(ctx, u)
}

// State is about the launcher that the shell has started last.
func (r *restarter) State(ctx context.Context, u Unit) (UnitState, error) {
	state, err := r.Supervisor.State(ctx, u)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for shell := state.Launcher; err == nil && shell.Alive(); <-tick.C {
		if children := shell.children(); len(children) > 0 {
			state.Launcher = children[0]
			break
		}
	}
	return state, err
}

// What such a runner starts again comes up well, and is cut off.
func TestRealRunnerNetworkRefusal(t *testing.T) {
	t.Parallel()
	script := samples(t)["own one"]
	d, address := networkDeployment(t, Network{freeAddress(t), freeAddress(t)})
	d.Runners, d.Environment.Runner = map[string]Runner{"manager": new(restarter)}, "manager"
	first := mustBring(t, d, script)
	awaitWeb(t, first)
	wantAnswer(t, address, "own one")
	if err := first.Process.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := first
	await(t, func() bool {
		in, err := d.Running()
		if err == nil {
			second = in
		}
		return err == nil && in.Process != first.Process
	})
	awaitWeb(t, second)
	wantLost(t, address, "own one")
	eventually(t, func() error {
		_, err := AllServices{}.Check(t.Context(), second, nil)
		return err
	})
	stopNow(t, d)
	wantRefusal(t, d, script, "network", `runner "manager" may start the container by itself`)
}
