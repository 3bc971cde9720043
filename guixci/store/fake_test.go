package store

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A fakeDaemon answers as its script says, one script for each connection.
type fakeDaemon struct {
	t      *testing.T
	socket string
	listen net.Listener
	wait   sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

// peer is the daemon's end of a connection.
type peer struct {
	net.Conn
	r *reader
	w *writer
}

// fake starts a daemon that serves each connection with serve, after the greeting.
func fake(t *testing.T, serve func(*peer)) *fakeDaemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "fake") // short enough for the name of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &fakeDaemon{t: t, socket: filepath.Join(dir, "socket")}
	d.start(serve)
	t.Cleanup(d.kill)
	return d
}

func (d *fakeDaemon) start(serve func(*peer)) {
	d.t.Helper()
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		d.t.Fatal(err)
	}
	d.listen = l
	d.wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.conns = append(d.conns, conn)
			d.mu.Unlock()
			d.wait.Go(func() {
				defer conn.Close()
				p := &peer{conn, newReader(conn), newWriter(conn)}
				if p.greet() {
					serve(p)
				}
			})
		}
	})
}

// kill is the daemon's end, with all its connections.
func (d *fakeDaemon) kill() {
	d.listen.Close()
	d.mu.Lock()
	for _, c := range d.conns {
		c.Close()
	}
	d.mu.Unlock()
	d.wait.Wait()
}

// count returns how many connections there have been.
func (d *fakeDaemon) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

func (p *peer) greet() bool {
	p.r.uint()
	p.w.uint(daemonMagic)
	p.w.uint(0x163)
	p.w.flush()
	for range 3 {
		p.r.uint()
	}
	p.say(sayLast)
	return p.r.err == nil
}

func (p *peer) say(words ...uint64) {
	for _, w := range words {
		p.w.uint(w)
	}
	p.w.flush()
}

// answerValid answers "valid" to every question whether a path is.
func answerValid(p *peer) {
	for {
		op := operation(p.r.uint())
		p.r.bytes()
		if p.r.err != nil || op != opIsValidPath {
			return
		}
		p.say(sayLast, 1)
	}
}

const somePath = "/gnu/store/00000000000000000000000000000000-some"

func mustDial(t *testing.T, socket string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDialNobody(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for address, want := range map[string]string{
		filepath.Join(dir, "no"):      "no such file or directory; is guix-daemon running?",
		"file://" + stale:             "connection refused; is guix-daemon running?",
		"guix://127.0.0.1:1":          "connection refused; is guix-daemon running?",
		"http://localhost":            `unknown scheme "http"`,
		"guix://":                     "guix://HOST",
		"file://relative/socket/name": "file:///NAME",
	} {
		_, err := Dial(t.Context(), address)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), address) {
			t.Errorf("dial %q: error %v, want the address and %q", address, err, want)
		}
	}
}

func TestDialEnvironment(t *testing.T) {
	t.Setenv("GUIX_DAEMON_SOCKET", "file:///of/the/environment")
	if got := resolve(""); got != "file:///of/the/environment" {
		t.Errorf("address %q", got)
	}
	t.Setenv("GUIX_DAEMON_SOCKET", "")
	if got := resolve(""); got != DefaultSocket {
		t.Errorf("address %q, want %q", got, DefaultSocket)
	}
	for address, want := range map[string]string{
		"guix://example.org":      "example.org:44146",
		"guix://example.org:1234": "example.org:1234",
		"guix://[::1]":            "[::1]:44146",
	} {
		if _, got, err := parseAddress(address); got != want || err != nil {
			t.Errorf("%s means %q (%v), want %q", address, got, err, want)
		}
	}
}

func TestDialSomethingElse(t *testing.T) {
	for what, test := range map[string]struct {
		greeting []uint64
		want     string
	}{
		"other server": {[]uint64{42, 42}, "not a guix-daemon"},
		"too old":      {[]uint64{daemonMagic, 0x10c}, "0x10c"},
		"too new":      {[]uint64{daemonMagic, 0x263}, "0x263"},
		"hangs up":     {nil, "unexpected EOF"},
	} {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			p := &peer{there, newReader(there), newWriter(there)}
			p.r.uint()
			if test.greeting != nil {
				p.say(test.greeting...)
			}
		}()
		err := newClient(here, "pipe").handshake(t.Context())
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", what, err, test.want)
		}
	}
}

func TestDialIsCancelled(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, l.Addr().String()) // accepts, and says nothing
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the context's", err)
	}
}

// A daemon that dies takes what is under way with it, and is found again.
func TestDaemonLost(t *testing.T) {
	asked := make(chan struct{}, 1)
	d := fake(t, func(p *peer) {
		p.r.uint()
		asked <- struct{}{}
		p.Read(make([]byte, 1<<10))
	})
	pool := &Pool{Address: d.socket}
	defer pool.Close()
	c := mustDial(t, d.socket)
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		<-asked
		d.kill()
	}()
	if _, err := c.Valid(t.Context(), somePath); !errors.Is(err, ErrClosed) {
		t.Errorf("under way: %v, want ErrClosed", err)
	}
	<-killed
	if _, err := c.Valid(t.Context(), somePath); !errors.Is(err, ErrClosed) {
		t.Errorf("later: %v, want ErrClosed", err)
	}
	if _, err := pool.Valid(t.Context(), somePath); err == nil || !strings.Contains(err.Error(), "is guix-daemon running?") {
		t.Errorf("while it is away: %v", err)
	}
	d.start(answerValid)
	for range 2 { // a new connection, then the same
		if valid, err := pool.Valid(t.Context(), somePath); !valid || err != nil {
			t.Errorf("when it is back: %v, %v", valid, err)
		}
	}
	if n := d.count(); n != 2 {
		t.Errorf("%d connections, want the first client's and one of the pool's", n)
	}
}

// Many questions at once need few connections, and a crowd at the door is let in.
func TestPoolOfCrowds(t *testing.T) {
	d := fake(t, answerValid)
	pool := &Pool{Address: d.socket, MaxIdle: 2}
	defer pool.Close()
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if _, err := pool.Valid(t.Context(), somePath); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := d.count(); n > 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// A daemon lets few wait at the door: those who come then try again.
func TestDialFullQueue(t *testing.T) {
	name := filepath.Join(t.TempDir(), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := connect(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := connect(ctx, name); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while the queue is full: %v", err)
	}
	done := make(chan error)
	go func() {
		second, err := connect(t.Context(), name)
		if err == nil {
			second.Close()
		}
		done <- err
	}()
	for range 2 { // as a daemon does
		accepted, _, err := syscall.Accept(fd)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(accepted)
	}
	if err := <-done; err != nil {
		t.Errorf("when it is not: %v", err)
	}
	syscall.Close(fd)
}

// An unused connection of a pool that died is replaced unnoticed.
func TestPoolReplacesDeadConnections(t *testing.T) {
	d := fake(t, answerValid)
	pool := &Pool{Address: d.socket}
	defer pool.Close()
	for range 3 {
		if valid, err := pool.Valid(t.Context(), somePath); !valid || err != nil {
			t.Fatalf("valid: %v, %v", valid, err)
		}
		d.kill()
		d.start(answerValid)
	}
}

func TestPoolGrowsAndShrinks(t *testing.T) {
	d := fake(t, answerValid)
	pool := &Pool{Address: d.socket, MaxIdle: 2}
	var inside sync.WaitGroup
	inside.Add(4)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			err := pool.Do(t.Context(), func(c *Client) error {
				inside.Done()
				inside.Wait() // nobody leaves before all are in
				_, err := c.Valid(t.Context(), somePath)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if d.count() != 4 || len(pool.idle) != 2 {
		t.Errorf("%d connections, %d kept; want 4 and 2", d.count(), len(pool.idle))
	}
	pool.Close()
	if _, err := pool.Valid(t.Context(), somePath); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
}

func TestPoolKeepsUnlikeOptionsApart(t *testing.T) {
	d := fake(t, func(p *peer) {
		for {
			switch operation(p.r.uint()) {
			case opSetOptions:
				for range 9 {
					p.r.uint()
				}
				list(p.r, func() string { return p.r.string() + p.r.string() })
				p.say(sayLast)
			case opBuildPaths:
				p.r.paths()
				p.r.uint()
				p.say(sayLast, 1)
			default:
				return
			}
		}
	})
	pool := &Pool{Address: d.socket}
	defer pool.Close()
	for i, test := range []struct {
		options BuildOptions
		want    int // connections so far
	}{
		{BuildOptions{}, 1},
		{BuildOptions{Timeout: time.Hour}, 1}, // can be added
		{BuildOptions{Timeout: time.Minute}, 1},
		{BuildOptions{}, 2}, // but not taken away
		{BuildOptions{KeepGoing: true, MaxJobs: 3}, 2},
		{BuildOptions{Cores: 2}, 2},
		{BuildOptions{Timeout: time.Minute}, 2},
		{BuildOptions{SubstituteURLs: []string{"http://a"}}, 3},
	} {
		if err := pool.Build(t.Context(), []StorePath{somePath}, test.options, nil); err != nil {
			t.Fatal(err)
		}
		if d.count() != test.want {
			t.Errorf("after build %d: %d connections, want %d", i, d.count(), test.want)
		}
	}
}

func TestCancelWhileWaiting(t *testing.T) {
	d := fake(t, answerValid)
	c := mustDial(t, d.socket)
	c.turn <- struct{}{} // somebody else's
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Valid(ctx, somePath); !errors.Is(err, context.Canceled) || errors.Is(err, ErrClosed) {
		t.Errorf("error %v, want the context's only", err)
	}
	<-c.turn
	if valid, err := c.Valid(t.Context(), somePath); !valid || err != nil {
		t.Errorf("afterwards: %v, %v", valid, err)
	}
}

func TestNonsenseBreaksTheConnection(t *testing.T) {
	for what, test := range map[string]struct {
		words []uint64
		want  string
	}{
		"unknown word":  {[]uint64{12345}, "not part of the protocol"},
		"huge string":   {[]uint64{sayNext, 1 << 60}, "not believable"},
		"huge data":     {[]uint64{sayWrite, 1 << 60}, "not believable"},
		"huge error":    {[]uint64{sayError, maxString + 1}, "not believable"},
		"huge list":     {[]uint64{sayLast, 1 << 50}, "not believable"},
		"dirty padding": {[]uint64{sayNext, 1, 0x4141}, "padding"},
		"cut off":       {[]uint64{sayNext, maxString, 0}, "unexpected EOF"},
		"short list":    {[]uint64{sayLast, maxList, 0, 0}, "unexpected EOF"},
	} {
		d := fake(t, func(p *peer) {
			p.r.uint()
			p.say(test.words...)
		})
		c := mustDial(t, d.socket)
		_, err := c.AllValidPaths(t.Context())
		if !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want ErrClosed and %q", what, err, test.want)
		}
	}
}

// What is announced and does not come costs no memory.
func TestReaderAllocatesWhatArrives(t *testing.T) {
	announced := "\x00\x00\x00\x04\x00\x00\x00\x00" // 64 MiB
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	newReader(strings.NewReader(announced)).bytes()
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<20 {
		t.Errorf("%d bytes allocated for a string that did not come", allocated)
	}
}

func TestExportToFailingWriter(t *testing.T) {
	d := fake(t, func(p *peer) {
		p.r.uint()
		p.r.bytes()
		p.r.uint()
		for range 3 {
			p.w.uint(sayWrite)
			p.w.string("some data")
		}
		p.say(sayLast, 1)
		answerValid(p)
	})
	c := mustDial(t, d.socket)
	full := errors.New("disk full")
	err := c.ExportPath(t.Context(), writerFunc(func([]byte) (int, error) { return 0, full }), somePath, false)
	if !errors.Is(err, full) {
		t.Errorf("error %v, want the writer's", err)
	}
	if valid, err := c.Valid(t.Context(), somePath); !valid || err != nil {
		t.Errorf("afterwards: %v, %v", valid, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

var _ io.Writer = writerFunc(nil)

func TestBadArgumentsAreNotSent(t *testing.T) {
	d := fake(t, answerValid)
	c := mustDial(t, d.socket)
	ctx := t.Context()
	for what, err := range map[string]error{
		"valid":     second(c.Valid(ctx, "/etc/passwd")),
		"info":      second(c.PathInfo(ctx, somePath+"/inside")),
		"build":     c.Build(ctx, []StorePath{""}, BuildOptions{}, nil),
		"text":      second(c.AddText(ctx, "../name", nil, nil)),
		"reference": second(c.AddText(ctx, "name", nil, []StorePath{"x"})),
		"tree":      second(c.AddTree(ctx, "a/b", ".")),
		"root":      c.AddIndirectRoot(ctx, "relative"),
		"temporary": c.AddTempRoot(ctx, "/gnu/store"),
		"delete":    second(c.Delete(ctx, "/gnu/store/..")),
	} {
		if err == nil || errors.Is(err, ErrClosed) {
			t.Errorf("%s: error %v, want a refusal", what, err)
		}
	}
	if valid, err := c.Valid(ctx, somePath); !valid || err != nil {
		t.Errorf("afterwards: %v, %v", valid, err)
	}
}

func second[T any](_ T, err error) error { return err }
