package substitute_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// A watchedListener fails at first, as often as it is told to, and tells which connections have been closed.
type watchedListener struct {
	net.Listener
	failures int
	closed   chan net.Conn
}

func (l *watchedListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &watchedConn{c.(*net.TCPConn), l.closed}, nil
}

// A watchedConn keeps ReadFrom, and with it sendfile.
type watchedConn struct {
	*net.TCPConn
	closed chan net.Conn
}

func (c *watchedConn) Close() error {
	err := c.TCPConn.Close()
	select {
	case c.closed <- c:
	default:
	}
	return err
}

func watched(t *testing.T, s *substitute.Server, failures int) (url string, closed <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &watchedListener{l, failures, make(chan net.Conn, 100)}
	runServer(t, s, w)
	return "http://" + l.Addr().String(), w.closed
}

// fromBoth returns a handler that sends the archive of an item from the store, and one that sends it from a file.
func fromBoth(t *testing.T, m *substitutetest.Memory, info *substitute.Info) map[string]*substitute.Handler {
	t.Helper()
	cache := &substitute.Cache{Dir: t.TempDir(), Key: vectorKey(t)}
	if err := cache.Add(t.Context(), m, info); err != nil {
		t.Fatal(err)
	}
	return map[string]*substitute.Handler{
		"store": {Source: m},
		"file":  {Source: new(substitutetest.Memory), Cache: cache},
	}
}

// A client that takes nothing for the time it has is given up, whether an archive comes from the store or from a file.
func TestServerStalledDownload(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("large.gz", strings.Repeat(incompressible(1<<20), 24)) // does not fit into the kernel's buffers
	for name, h := range fromBoth(t, &m, info) {
		t.Run(name, func(t *testing.T) {
			url, closed := watched(t, &substitute.Server{Handler: h, Stall: 100 * time.Millisecond, Drain: time.Millisecond}, 0)
			c := dialServer(t, url)
			c.(*net.TCPConn).SetReadBuffer(4096)
			fmt.Fprintf(c, "GET /nar/%s HTTP/1.1\r\nHost: x\r\n\r\n", info.StorePath.Base())
			if res, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil); err != nil || res.StatusCode != 200 {
				t.Fatal(err)
			}
			select {
			case <-closed:
			case <-time.After(2 * time.Minute):
				t.Error("the connection is still there")
			}
		})
	}
}

// When there are no more file descriptors for a while, the server goes on afterwards.
func TestServerOutOfFiles(t *testing.T) {
	m, paths := filled("plain")
	url, _ := watched(t, &substitute.Server{Handler: &substitute.Handler{Source: m}, Drain: time.Millisecond}, 3)
	c := dialServer(t, url)
	fmt.Fprintf(c, "GET /%s.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", paths[0].Hash())
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 200 {
		t.Errorf("not answered: %v", err)
	}
}

// A heldSource begins with an archive, says so, and waits.
type heldSource struct {
	*substitutetest.Memory
	begun chan struct{}
	goOn  chan struct{}
}

func (s heldSource) WriteNAR(ctx context.Context, w io.Writer, info *substitute.Info) error {
	s.begun <- struct{}{}
	<-s.goOn
	return s.Memory.WriteNAR(ctx, w, info)
}

// No more archives are compressed at a time than there are encoders.
func TestHandlerEncoders(t *testing.T) {
	for _, size := range []int{1000, 300_000} {
		var m substitutetest.Memory
		s := heldSource{&m, make(chan struct{}, 10), make(chan struct{})}
		h := &substitute.Handler{Source: s, Encoders: 2, Spool: t.TempDir()}
		url := serve(t, h)
		statuses := make(chan int)
		for i := range 3 {
			info := m.AddFile(fmt.Sprint("item", i), incompressible(size))
			go func() {
				res, err := http.Get(url + "/nar/zstd/" + info.StorePath.Base())
				if err != nil {
					statuses <- 0
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				statuses <- res.StatusCode
			}()
		}
		<-s.begun
		<-s.begun
		for deadline := time.Now().Add(2 * time.Minute); metric(t, h, "encoders_waited_for") != 1; {
			if len(s.begun) > 0 || time.Now().After(deadline) {
				t.Fatalf("%d bytes: the third does not wait", size)
			}
		}
		if n := metric(t, h, "encoders"); n != 2 {
			t.Errorf("%d bytes: %d encoders in use", size, n)
		}
		close(s.goOn)
		for range 3 {
			if status := <-statuses; status != 200 {
				t.Errorf("%d bytes: status %d", size, status)
			}
		}
	}
}

// What was asked for is not evicted as unused, even if nobody has read its file since.
func TestHandlerNotesUse(t *testing.T) {
	cache, _, paths := filledCache(t)
	serving := &substitute.Cache{Dir: cache.Dir, Key: cache.Key}
	url := serve(t, &substitute.Handler{Source: new(substitutetest.Memory), Key: cache.Key, Cache: serving})
	old := time.Now().Add(-48 * time.Hour)
	for range 2 {
		for _, path := range paths {
			// The time of its contents stays: the cache knows them already the second time.
			if err := os.Chtimes(filepath.Join(cache.Dir, path.Hash()+".narinfo"), old, time.Time{}); err != nil {
				t.Fatal(err)
			}
			if _, err := serving.Info(t.Context(), path.Hash()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if res := get(t, url+"/"+paths[1].Hash()+".narinfo"); res.StatusCode != 200 {
		t.Fatalf("status %d", res.StatusCode)
	}
	if done, err := cache.Evict(t.Context(), substitute.EvictOptions{MaxAge: 24 * time.Hour}); err != nil || done.Items != 1 || done.LeftItems != 1 {
		t.Errorf("%+v, %v; want one evicted and one left", done, err)
	}
	if res := get(t, url+"/"+paths[1].Hash()+".narinfo"); res.StatusCode != 200 {
		t.Errorf("what was used is gone: status %d", res.StatusCode)
	}
}

// Who has an answer already is told so, and what may be remembered says for how long.
func TestHandlerConditional(t *testing.T) {
	cache, _, paths := filledCache(t)
	url := serve(t, &substitute.Handler{Source: cache, Key: cache.Key, Cache: cache, TTL: time.Hour, NegativeTTL: time.Minute})
	for _, address := range []string{url + "/" + paths[0].Hash() + ".narinfo", url + "/nar/zstd/" + paths[0].Base()} {
		first := get(t, address)
		tag := first.Header.Get("ETag")
		if first.StatusCode != 200 || tag == "" || first.Header.Get("Cache-Control") != "max-age=3600" {
			t.Errorf("%s: status %d, headers %v", address, first.StatusCode, first.Header)
		}
		for known, want := range map[string]int{tag: http.StatusNotModified, `"other"`: http.StatusOK} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("If-None-Match", known)
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != want || (want == 200) != (len(body) > 0) {
				t.Errorf("%s, known %s: status %d, %d bytes, %v; want %d", address, known, res.StatusCode, len(body), err, want)
			}
		}
	}
	if res := get(t, url+"/"+substitutetest.Path("absent", "").Hash()+".narinfo"); res.StatusCode != 404 || res.Header.Get("Cache-Control") != "max-age=60" {
		t.Errorf("absent: status %d, headers %v", res.StatusCode, res.Header)
	}
}

// A log that is being written is sent as far as it was when the answer began.
func TestHandlerGrowingLog(t *testing.T) {
	m, paths := filled("plain")
	url := serve(t, &substitute.Handler{Source: m, Log: func(context.Context, substitute.StorePath) (*substitute.BuildLog, error) {
		return &substitute.BuildLog{ReadCloser: io.NopCloser(strings.NewReader("begun, and more")), Size: 5}, nil
	}})
	if res := get(t, url+"/log/"+paths[0].Base()); string(res.body) != "begun" || res.ContentLength != 5 {
		t.Errorf("length %d, %q", res.ContentLength, res.body)
	}
}

// Each answer is counted as what it is.
func TestHandlerMetrics(t *testing.T) {
	cache, memory, paths := filledCache(t)
	info := memory.AddFile("plain", "text")
	large := memory.AddFile("large", incompressible(300_000))
	failing := &failingSource{Source: memory}
	h := &substitute.Handler{Source: failing, Key: cache.Key, Cache: cache}
	url := serve(t, h)
	for i, step := range []struct{ address, metric string }{
		{"/" + info.StorePath.Hash() + ".narinfo", "narinfos_total"},
		{"/" + substitutetest.Path("absent", "").Hash() + ".narinfo", "missing_total"},
		// From here on by net/http, which then has the connection.
		{"/" + info.StorePath.Hash() + ".narinfo?", "narinfos_total"},
		{"/" + substitutetest.Path("absent", "").Hash() + ".narinfo?", "missing_total"},
		{"/nar/zstd/" + paths[0].Base(), "baked_nars_total"},
		{"/nar/gzip/" + info.StorePath.Base(), "compressed_nars_total"},
		{"/nar/zstd/" + large.StorePath.Base(), "compressed_nars_total"},
		{"/nar/" + info.StorePath.Base(), "plain_nars_total"},
		{"/nar/failing", "failures_total"},
	} {
		address := step.address
		if failing.fails.Store(address == "/nar/failing"); failing.fails.Load() {
			address = "/" + info.StorePath.Hash() + ".narinfo"
		}
		before := counters(t, h)
		res := get(t, url+address)
		for name, n := range counters(t, h) {
			want := 0
			switch {
			case name == step.metric:
				want = 1
			case name == "nar_bytes_total" && strings.HasPrefix(address, "/nar/"):
				want = len(res.body)
			}
			if n-before[name] != want {
				t.Errorf("step %d, %s: %s grew by %d, want %d", i, step.address, name, n-before[name], want)
			}
		}
	}
}

func counters(t *testing.T, h *substitute.Handler) map[string]int {
	t.Helper()
	all := make(map[string]int)
	for _, name := range []string{"narinfos_total", "missing_total", "failures_total", "baked_nars_total", "compressed_nars_total", "plain_nars_total", "nar_bytes_total"} {
		all[name] = metric(t, h, name)
	}
	return all
}

type failingSource struct {
	substitute.Source
	fails atomic.Bool
}

func (s *failingSource) Info(ctx context.Context, hashPart string) (*substitute.Info, error) {
	if s.fails.Load() {
		return nil, errBroken
	}
	return s.Source.Info(ctx, hashPart)
}

// A fileConn takes files as a connection of TCP does, whose buffers have room for the beginning.
type fileConn struct{ net.Conn }

func (c fileConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// While others wait, a client that takes a file as slowly as one may goes on.
func TestServerFullSlowFile(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("large.gz", incompressible(2<<20))
	cache := &substitute.Cache{Dir: t.TempDir(), Key: vectorKey(t)}
	if err := cache.Add(t.Context(), &m, info); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		h := &substitute.Handler{Source: new(substitutetest.Memory), Cache: cache}
		p := newPipes()
		runServer(t, &substitute.Server{Handler: h, MaxConns: 1, Drain: time.Millisecond}, p)
		c, s := net.Pipe()
		p.conns <- fileConn{s}
		fmt.Fprintf(c, "GET /nar/%s HTTP/1.1\r\nHost: x\r\n\r\n", info.StorePath.Base())
		if _, err := io.CopyN(io.Discard, c, 1<<20); err != nil {
			t.Fatal(err)
		}
		waiting, s := net.Pipe()
		defer waiting.Close()
		p.conns <- s
		const rate = 20_000
		for second := range 30 {
			time.Sleep(time.Second)
			if _, err := io.CopyN(io.Discard, c, rate); err != nil {
				t.Fatalf("closed after %d seconds: %v", second, err)
			}
		}
		c.Close()
	})
}

// A client that goes on taking something is not given up, however long it takes for the whole.
func TestServerSlowDownload(t *testing.T) {
	const stall, size, pieces = time.Second, 4 << 20, 16
	var m substitutetest.Memory
	info := m.AddFile("large.gz", incompressible(size))
	for name, h := range fromBoth(t, &m, info) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipes()
				runServer(t, &substitute.Server{Handler: h, Stall: stall, Drain: time.Millisecond}, p)
				c, s := net.Pipe()
				defer c.Close()
				p.conns <- fileConn{s}
				fmt.Fprintf(c, "GET /nar/%s HTTP/1.1\r\nHost: x\r\n\r\n", info.StorePath.Base())
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				for i := range pieces {
					time.Sleep(stall / 2) // it has other things to do
					if _, err := io.CopyN(io.Discard, res.Body, size/pieces); err != nil {
						t.Fatalf("after %d pieces: %v", i, err)
					}
				}
			})
		})
	}
}
