package storetest

import (
	"bytes"
	"crypto/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
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

// KillAfterwards has cmd, a server such as guix-daemon that is to be started, killed at the end of the test with all
// that it has started, and gone before the test's directories are: the processes of guix-daemon's clients survive it, and those
// that look for substitutes write what they have found into their cache in the end. kill does so earlier.
func KillAfterwards(t testing.TB, cmd *exec.Cmd) (kill func()) {
	mark := "GUIXCI_TEST_SERVER=" + rand.Text()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, mark)
	kill = sync.OnceFunc(func() {
		if cmd.Process == nil {
			return
		}
		cmd.Process.Kill()
		for left := true; left; {
			left = false
			environments, _ := filepath.Glob("/proc/[0-9]*/environ")
			for _, name := range environments {
				text, _ := os.ReadFile(name) // is empty once the process has ended
				if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && bytes.Contains(text, []byte(mark)) {
					syscall.Kill(pid, syscall.SIGKILL)
					left = true
				}
			}
		}
		cmd.Wait()
	})
	t.Cleanup(kill)
	return kill
}
