package container

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openStates are those of a connection that waits for an answer: established, to be accepted
// when there is room, and one whose other end has said all.
const openStates = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_SYN_RECV | 1<<unix.BPF_TCP_CLOSE_WAIT

// connected reports whether somebody is connected to one of the ports of this machine, or about to
// be. It asks by sock_diag(7): /proc/net/tcp leaves lines out when there are many.
func connected(ports []int) (bool, error) {
	for _, port := range ports {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			some, err := connectedTo(family, port)
			if some || err != nil {
				return some, err
			}
		}
	}
	return false, nil
}

func connectedTo(family byte, port int) (some bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("list connections to port %d: %w", port, err)
		}
	}()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return false, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, diagRequest(family, port), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
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
		found, last, err := diagAnswer(buf[:n])
		some = some || found
		if last || err != nil {
			return some, err
		}
	}
}

// diagRequest is a netlink message with a struct inet_diag_req_v2 of linux/inet_diag.h.
func diagRequest(family byte, port int) []byte {
	const size = unix.SizeofNlMsghdr + 56
	m := make([]byte, size)
	binary.NativeEndian.PutUint32(m, size)
	binary.NativeEndian.PutUint16(m[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	m[16], m[17] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(m[20:], openStates)
	binary.BigEndian.PutUint16(m[24:], uint16(port))
	return m
}

// diagAnswer reports whether a connection is among the messages, and whether they are the last.
func diagAnswer(text []byte) (found, last bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(text)
	for _, m := range messages {
		switch m.Header.Type {
		case unix.SOCK_DIAG_BY_FAMILY:
			found = true
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
