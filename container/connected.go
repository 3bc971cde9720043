package container

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// serverStates are those of a server's end of a connection that waits for an answer: established, to
// be accepted when there is room, and one whose other end has said all.
var serverStates = []uint8{unix.BPF_TCP_ESTABLISHED, unix.BPF_TCP_SYN_RECV, unix.BPF_TCP_CLOSE_WAIT}

// clientStates are those of a client's end. A server that has as many to accept as it wants does not
// answer, and may have nothing of its own that tells of the client, which asks again after one second, three,
// seven and so on.
var clientStates = []uint8{unix.BPF_TCP_ESTABLISHED, unix.BPF_TCP_SYN_SENT}

// connected reports whether somebody is connected to where the instance listens, or about to be, as far
// as this machine knows.
func (in *Instance) connected() (bool, error) {
	e := in.Generation.Environment
	if !e.Network.isPrivate() {
		return connected(e.Ports)
	}
	var inside, outside []*netlink.Socket
	err := inNetwork(in.Process, func() (err error) {
		inside, err = sockets()
		return err
	})
	if err == nil {
		outside, err = sockets()
	}
	return anybody(inside, outside, e.Ports, func(a netip.Addr) bool { return a == e.Network.Address }), err
}

// connected reports whether somebody is connected to one of the ports of this machine.
func connected(ports []int) (bool, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	here := make(map[netip.Addr]bool)
	for _, a := range addresses {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			here[prefix.Addr()] = true
		}
	}
	all, err := sockets()
	return anybody(all, all, ports, func(a netip.Addr) bool { return a.IsLoopback() || here[a] }), err
}

// anybody looks for the servers' ends of connections to the ports, and for the clients'.
func anybody(servers, clients []*netlink.Socket, ports []int, here func(netip.Addr) bool) bool {
	return slices.ContainsFunc(servers, func(s *netlink.Socket) bool {
		return slices.Contains(serverStates, s.State) && slices.Contains(ports, int(s.ID.SourcePort))
	}) || slices.ContainsFunc(clients, func(s *netlink.Socket) bool {
		to, _ := netip.AddrFromSlice(s.ID.Destination)
		return slices.Contains(clientStates, s.State) && slices.Contains(ports, int(s.ID.DestinationPort)) && here(to.Unmap())
	})
}

// sockets returns all TCP sockets of the network of this thread, by sock_diag(7).
func sockets() ([]*netlink.Socket, error) {
	h, err := netlink.NewHandle(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	defer h.Close()
	var all []*netlink.Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		some, err := h.SocketDiagTCP(family)
		all = append(all, some...)
		if err != nil && !(family == unix.AF_INET6 && errors.Is(err, unix.ENOENT)) { // no such family here
			return all, fmt.Errorf("list connections: %w", err)
		}
	}
	return all, nil
}
