package store

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// redirect is what "guix repl" on the other machine evaluates: it connects to the daemon
// there, says so, and passes everything on in both directions.
//
//go:embed redirect.scm
var redirect string

// An sshConn is a connection through the standard input and output of ssh.
type sshConn struct {
	*net.UnixConn
	cmd    *exec.Cmd
	stderr tail
	ended  chan struct{} // closed when ssh has ended

	once sync.Once
}

// connectSSH connects to the daemon of another machine as Guix does, see (guix store ssh):
// by a program that "guix repl" there runs. Where there is a password to be typed it fails.
func connectSSH(ctx context.Context, u *url.URL) (net.Conn, error) {
	if u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("parse address: want ssh://[USER@]HOST[:PORT]")
	}
	c, err := startSSH(sshArgs(u)...)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.UnixConn.Close() })
	defer stop()
	if err := c.redirect(); err != nil {
		c.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: %s", err, cmp.Or(c.stderr.text(), "ssh says nothing about it"))
	}
	return c, nil
}

func sshArgs(u *url.URL) []string {
	args := []string{"-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=30"}
	if name := u.User.Username(); name != "" {
		args = append(args, "-l", name)
	}
	if port := u.Port(); port != "" {
		args = append(args, "-p", port)
	}
	return append(args, "--", u.Hostname(), "guix", "repl", "-t", "machine")
}

// startSSH starts ssh at the other end of a pair of sockets.
func startSSH(args ...string) (*sshConn, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ssh"), os.NewFile(uintptr(pair[1]), "ssh")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	c := &sshConn{UnixConn: conn.(*net.UnixConn), cmd: exec.Command("ssh", args...), ended: make(chan struct{})}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = theirs, theirs, &c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is not for it
	c.cmd.WaitDelay = time.Second                           // for its children that keep its standard error
	if err := c.cmd.Start(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go func() { // until Close, which waits for it
		c.cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// redirect leads the other end to the daemon. "guix repl" must not read
// more than its own, so it is told one thing at a time, and without newlines in between.
func (c *sshConn) redirect() error {
	if err := c.expect("(repl-version "); err != nil {
		return err
	}
	for _, step := range []struct{ say, expect string }{
		{"(setvbuf (current-input-port) 'none)", "(values "},
		{strings.TrimSpace(redirect), "connected"},
	} {
		if _, err := c.Write([]byte(step.say)); err != nil {
			return fmt.Errorf("talk to guix repl: %w", err)
		}
		if err := c.expect(step.expect); err != nil {
			return err
		}
	}
	return nil
}

// expect reads a line, byte by byte lest something be read that comes after it.
func (c *sshConn) expect(prefix string) error {
	var line []byte
	for b := make([]byte, 1); len(line) < 4096; {
		if _, err := c.Read(b); err != nil {
			return fmt.Errorf("start guix repl: %w", noEOF(err))
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	if !bytes.HasPrefix(line, []byte(prefix)) {
		return fmt.Errorf("start guix repl: it answers %q", line)
	}
	return nil
}

// Close ends the connection, and ssh by it; if that does not help, by force.
func (c *sshConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.UnixConn.Close()
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			select {
			case <-c.ended:
				return
			case <-time.After(2 * time.Second):
				syscall.Kill(-c.cmd.Process.Pid, signal)
			}
		}
		<-c.ended
	})
	return err
}

// A tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex // guards last
	last []byte
}

const tailSize = 4 << 10

// Write never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, b...)
	if more := len(t.last) - tailSize; more > 0 {
		t.last = append(t.last[:0], t.last[more:]...)
	}
	return len(b), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.ToValidUTF8(bytes.TrimSpace(t.last), []byte("?")))
}
