package container

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// A container with a network of its own is reached at its address, reaches the host, and has ports of its own.
// What the preflight refuses ends as is shown first.
func TestRealNetwork(t *testing.T) {
	t.Parallel()
	scripts := samples(t)
	d, url := realDeployment(t)
	address, gateway := freeAddress(t), freeAddress(t)
	listen := func(d *Deployment, network Network) {
		d.Environment.Network = network
		d.Environment.Settings["LISTEN"] = "0.0.0.0"
		port := d.Environment.Settings["PORT"]
		d.Probes = Probes{AllServices{}, HTTP{URL: "http://${ADDRESS}:" + port + "/"}}
	}
	listen(d, Network{address, gateway})
	squatter := startQueue(t, mustAtoi(t, d.Environment.Settings["PORT"])) // the host's port of that number is another one
	d.Environment.Ports = []int{mustAtoi(t, d.Environment.Settings["PORT"])}
	if _, err := d.Apply(t.Context(), Revision{Script: scripts["own one"]}); err != nil {
		t.Fatal(err)
	}
	in, err := d.Running()
	if err != nil {
		t.Fatal(err)
	}
	checkProbe(t, in, HTTP{URL: strings.Replace(url, "127.0.0.1", address.String(), 1), Contains: "own one"}, "")
	if got := inside(t, in, "/proc/1/exe", "-c", `(begin (display (inet-ntop AF_INET (sockaddr:addr (getsockname (let ((s (socket PF_INET SOCK_DGRAM 0))) (connect s AF_INET (inet-pton AF_INET "192.0.2.1") 9) s))))))`); got != address.String() {
		t.Errorf("it goes out from %q", got)
	}
	if err := squatter.serveAll(t); err != nil {
		t.Error(err)
	}

	// Another container cannot have the same address, nor one of this machine.
	other, here := realDeployment(t)
	listen(other, Network{address, gateway})
	if _, err := bringUnchecked(t, other, scripts["own two"]); err == nil || !strings.Contains(err.Error(), "file exists") {
		t.Errorf("two containers at one address: %v", err)
	}
	wantRefusal(t, other, scripts["own two"], "network", "is in use")
	listen(other, Network{netip.MustParseAddr("127.0.0.1"), gateway})
	isOutOfReach := func() {
		t.Helper()
		e := *other
		e.Probes = Probes{AllServices{}}
		in := mustBring(t, &e, scripts["own two"])
		awaitWeb(t, in)
		checkProbe(t, in, HTTP{URL: here}, "connection refused")
		stopNow(t, other)
	}
	isOutOfReach()
	wantRefusal(t, other, scripts["own two"], "network", "is one of this machine")

	// A system that was built to have the network of the host has no other one.
	listen(other, Network{freeAddress(t), gateway})
	if _, err := bringUnchecked(t, other, scripts["two"]); err == nil || !strings.Contains(err.Error(), "it has that of the host") {
		t.Errorf("a system with the network of the host: %v", err)
	}
	wantRefusal(t, other, scripts["two"], "network", "without --network")

	// One that was built to have its own, and is given no address, is not reached on the ports of this machine.
	listen(other, Network{})
	isOutOfReach()
	other.Probes = Probes{HTTP{URL: "http://127.0.0.1:${PORT}/"}}
	other.Environment.Ports = []int{mustAtoi(t, other.Environment.Settings["PORT"])}
	wantRefusal(t, other, scripts["own two"], "port", "the system has a network of its own")
	if p, err := other.Plan(t.Context(), Revision{Script: scripts["two"]}); err != nil || len(p.Refusals) > 0 {
		t.Errorf("with that of this machine: %+v, %v", p, err)
	}

	// One that has ended by itself leaves no wire either.
	if err := errors.Join(in.Process.signal(9), in.Process.wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	again, err := d.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checkProbe(t, again, HTTP{URL: strings.Replace(url, "127.0.0.1", address.String(), 1), Contains: "own one"}, "")
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d, again)
}

// Addresses may be those of IPv6, and are there at once.
func TestRealNetworkIPv6(t *testing.T) {
	t.Parallel()
	script := samples(t)["own one"]
	d, _ := realDeployment(t)
	a := freeAddress(t).As4()
	d.Environment.Network = Network{netip.MustParseAddr(fmt.Sprintf("fd6f:%x:%x::2", a[1], a[2])), netip.MustParseAddr(fmt.Sprintf("fd6f:%x:%x::1", a[1], a[2]))}
	d.Probes = Probes{Alive{}}
	in := mustBring(t, d, script)
	checkProbe(t, in, TCP{Address: fmt.Sprintf("[%v]:1", d.Environment.Network.Address)}, "connection refused") // it is reached, and nobody listens
	checkProbe(t, in, TCP{Address: fmt.Sprintf("[%v]:1", d.Environment.Network.Gateway), Inside: true}, "connection refused")
	if err := checkAddress(d.Environment.Network.Address); err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("its address: %v", err)
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d, in)
}

func mustAtoi(t *testing.T, text string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
