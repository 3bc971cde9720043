package storetest

import (
	"net"
	"os"
	"os/exec"
	"testing"
)

// Activate starts cmd, a server such as guix-daemon, in the way of an init system: with a socket to which
// clients can connect from now on, whether it has come to listen or not. network and address are those of
// [net.Listen]. It returns the address of the socket.
func Activate(t testing.TB, cmd *exec.Cmd, network, address string) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if unix, ok := l.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false)
	}
	socket, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	// The variable LISTEN_PID must be the program's own, which exec keeps.
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`}, cmd.Args...)
	if cmd.Path, err = exec.LookPath("sh"); err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{socket} // descriptor 3
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return l.Addr()
}
