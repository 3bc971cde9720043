package container

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// serverStates are those of a server's end of a connection that waits for an answer: established, to
// be accepted when there is room, which the kernel has a number of its own for, and one whose other end has said all.
const serverStates = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_SYN_RECV | 1<<unix.BPF_TCP_NEW_SYN_RECV | 1<<unix.BPF_TCP_CLOSE_WAIT

// clientStates are those of a client's end. A server that has as many to accept as it wants does not
// answer, and may have nothing of its own that tells of the client, which asks again after one second, three,
// seven and so on.
const clientStates = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_SYN_SENT

// connected reports whether somebody is connected to one of the ports of this machine, or about to
// be, as far as this machine knows. It asks by sock_diag(7).
func connected(ports []int) (bool, error) {
	local := make(map[netip.Addr]bool)
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	for _, a := range addresses {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			local[prefix.Addr()] = true
		}
	}
	here := func(a netip.Addr) bool { return a.IsLoopback() || local[a] }
	for _, port := range ports {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			some, err := anySocket(family, serverStates, port, 0, func(netip.Addr) bool { return true })
			if !some && err == nil {
				some, err = anySocket(family, clientStates, 0, port, here)
			}
			if some || err != nil {
				return some, err
			}
		}
	}
	return false, nil
}

// anySocket reports whether a socket is in one of the states whose ports are from and to, 0 being any, and whose
// other end is at an address that is wanted.
func anySocket(family byte, states uint32, from, to int, wanted func(netip.Addr) bool) (some bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("list connections to port %d: %w", max(from, to), err)
		}
	}()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return false, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, diagRequest(family, states, from, to), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, os.NewSyscallError("recvfrom", err)
		}
		found, last, err := diagAnswer(buf[:n], wanted)
		some = some || found
		if last || err != nil {
			return some, err
		}
	}
}

// diagRequest is a netlink message with a struct inet_diag_req_v2 of linux/inet_diag.h.
func diagRequest(family byte, states uint32, from, to int) []byte {
	const size = unix.SizeofNlMsghdr + 56
	m := make([]byte, size)
	binary.NativeEndian.PutUint32(m, size)
	binary.NativeEndian.PutUint16(m[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	m[16], m[17] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(m[20:], states)
	binary.BigEndian.PutUint16(m[24:], uint16(from))
	binary.BigEndian.PutUint16(m[26:], uint16(to))
	return m
}

// diagAnswer reports whether a wanted socket is among the messages, and whether they are the last.
func diagAnswer(text []byte, wanted func(netip.Addr) bool) (found, last bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(text)
	for _, m := range messages {
		switch m.Header.Type {
		case unix.SOCK_DIAG_BY_FAMILY:
			found = found || wanted(otherEnd(m.Data))
		case unix.NLMSG_DONE:
			last = true
		case unix.NLMSG_ERROR:
			errno := syscall.EINVAL
			if len(m.Data) >= 4 {
				errno = syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			}
			return found, true, errno
		}
	}
	return found, last, err
}

// otherEnd returns where the other end of a socket is, from a struct inet_diag_msg; zero if it cannot be told.
func otherEnd(m []byte) netip.Addr {
	if len(m) < 40 {
		return netip.Addr{}
	}
	if m[0] == unix.AF_INET {
		return netip.AddrFrom4([4]byte(m[24:]))
	}
	return netip.AddrFrom16([16]byte(m[24:])).Unmap()
}
