package substitute_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

func dialServer(t testing.TB, url string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	return c
}

// Requests of all kinds in one write, cut anywhere, are answered in their order, as
// if they had come one by one.
func TestServerMixed(t *testing.T) {
	m, paths := filled("plain")
	url := serve(t, &substitute.Handler{Source: m, Key: vectorKey(t), TTL: time.Hour, NegativeTTL: time.Minute})
	hash := paths[0].Hash()
	requests := []string{
		"GET /" + hash + ".narinfo HTTP/1.1\r\nHost: x\r\nUser-Agent: GNU Guile\r\n\r\n",
		"GET /" + substitutetest.Path("absent", "").Hash() + ".narinfo HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /" + hash + ".narinfo HTTP/1.1\r\nhost: x\r\nConnection: Keep-Alive\r\n\r\n",
		"GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\n",
		"HEAD /" + hash + ".narinfo HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /nar/" + paths[0].Base() + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /" + hash + ".narinfo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	}
	all := strings.Join(requests, "")
	for cut := 0; cut < len(all); cut += 37 {
		c := dialServer(t, url)
		fmt.Fprint(c, all[:cut])
		go fmt.Fprint(c, all[cut:])
		in := bufio.NewReader(c)
		for i, want := range []struct{ status, length int }{{200, -1}, {404, -1}, {200, -1}, {200, 52}, {200, -1}, {200, -1}, {200, -1}} {
			method := requests[i][:strings.IndexByte(requests[i], ' ')]
			res, err := http.ReadResponse(in, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("cut at %d, response %d: %v", cut, i, err)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != want.status || want.length >= 0 && len(body) != want.length {
				t.Fatalf("cut at %d, response %d: status %d, %d bytes, %v", cut, i, res.StatusCode, len(body), err)
			}
			if res.StatusCode == 404 && (!strings.HasPrefix(string(body), "Resource not found: /") || res.Header.Get("Cache-Control") != "max-age=60") {
				t.Errorf("not found: %q, %v", body, res.Header)
			}
		}
		if _, err := in.ReadByte(); err != io.EOF {
			t.Errorf("after Connection: close: %v", err)
		}
		c.Close()
	}
}

// What is no request is refused, and does not hurt others.
func TestServerGarbage(t *testing.T) {
	m, paths := filled("plain")
	url := serve(t, &substitute.Handler{Source: m, Key: vectorKey(t)})
	hash := paths[0].Hash()
	for _, garbage := range []string{
		"\r\n\r\n", "GET\r\n\r\n", strings.Repeat("x", 100_000), "GET /" + strings.Repeat("a", 100_000),
		"GET /" + hash + ".narinfo HTTP/1.1\r\n\r\n", // no Host
		"GET /" + hash + ".narinfo HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
		"GET /" + hash + ".narinfo HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
	} {
		c := dialServer(t, url)
		go fmt.Fprint(c, garbage)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && res.StatusCode/100 != 4 && !errors.Is(err, io.EOF) {
			t.Errorf("%.40q: status %d", garbage, res.StatusCode)
		}
		c.Close()
	}
	if res := get(t, url+"/"+hash+".narinfo"); res.StatusCode != 200 {
		t.Errorf("afterwards: status %d", res.StatusCode)
	}
}

// More clients than there is room for are served one after the other, and
// silent ones make room.
func TestServerManyClients(t *testing.T) {
	m, paths := filled("plain")
	synctest.Test(t, func(t *testing.T) {
		const clients, most, idle = 12, 3, 50 * time.Millisecond
		h := &substitute.Handler{Source: m, Key: vectorKey(t)}
		p := newPipes()
		runServer(t, &substitute.Server{Handler: h, MaxConns: most, Idle: idle, Drain: time.Millisecond}, p)
		start := time.Now()
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				c := p.dial(t)
				fmt.Fprintf(c, "GET /%s.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", paths[0].Hash())
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil || res.StatusCode != 200 {
					t.Errorf("status %v, %v", res, err)
				}
				io.Copy(io.Discard, c) // until the server finds us idle
			})
		}
		all.Wait()
		if took := time.Since(start); took != clients/most*idle {
			t.Errorf("it took %v, want %v", took, clients/most*idle)
		}
	})
}

// Connections on which no request comes, or only a part of one, keep nobody out for long, and what is being answered
// is not ended for it.
func TestServerIdleClients(t *testing.T) {
	m, paths := filled("plain")
	large := m.AddFile("large", strings.Repeat("x", 8<<20))
	narinfo := fmt.Sprintf("GET /%s.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", paths[0].Hash())
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		runServer(t, &substitute.Server{Handler: &substitute.Handler{Source: m, Key: vectorKey(t)}, MaxConns: 6, Drain: time.Millisecond}, p)
		busy := p.dial(t)
		fmt.Fprintf(busy, "GET /nar/%s HTTP/1.1\r\nHost: x\r\n\r\n", large.StorePath.Base())
		download, err := http.ReadResponse(bufio.NewReader(busy), nil)
		if err != nil {
			t.Fatal(err)
		}
		const half = 4 << 20 // and then it takes its time
		if _, err := io.CopyN(io.Discard, download.Body, half); err != nil {
			t.Fatal(err)
		}
		for _, begun := range []string{"", narinfo, narinfo + "GET /", "GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD / HT"} {
			c := p.dial(t)
			fmt.Fprint(c, begun)
			if strings.Contains(begun, "\r\n\r\n") {
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 5 {
			c := p.dial(t)
			fmt.Fprint(c, narinfo)
			if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 200 {
				t.Errorf("there is no room: %v", err)
			}
		}
		if n, err := io.Copy(io.Discard, download.Body); err != nil || half+n != large.NarSize {
			t.Errorf("the download ended after %d bytes: %v", half+n, err)
		}
	})
}

// A client that announces a body and does not send it is given up.
func TestServerSilentBody(t *testing.T) {
	m, paths := filled("plain")
	synctest.Test(t, func(t *testing.T) {
		const idle = 50 * time.Millisecond // less than it takes until room is made
		h := &substitute.Handler{Source: m, Key: vectorKey(t)}
		p := newPipes()
		runServer(t, &substitute.Server{Handler: h, MaxConns: 1, Idle: idle, Drain: time.Millisecond}, p)
		silent := p.dial(t)
		fmt.Fprint(silent, "GET /nix-cache-info HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
		go io.Copy(io.Discard, silent) // until it is closed
		start := time.Now()
		c := p.dial(t)
		fmt.Fprintf(c, "GET /%s.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", paths[0].Hash())
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if took := time.Since(start); err != nil || res.StatusCode != 200 || took > idle {
			t.Errorf("there is no room: %v after %v", err, took)
		}
	})
}

// A client may say that it has no more requests, and get its answers all the same.
func TestServerHalfClosed(t *testing.T) {
	m, paths := filled("plain")
	large := m.AddFile("large", incompressible(1_000_000))
	h := &substitute.Handler{Source: m, Key: vectorKey(t)}
	url := serveOn(t, &substitute.Server{Handler: h, Root: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-w.(interface{ CloseNotify() <-chan bool }).CloseNotify() // net/http has seen it
		h.ServeHTTP(w, r)
	})})
	for _, path := range []string{"/" + paths[0].Hash() + ".narinfo", "/nar/" + paths[0].Base(), "/nar/gzip/" + paths[0].Base(),
		"/nar/" + large.StorePath.Base(), "/nar/zstd/" + large.StorePath.Base()} {
		c := dialServer(t, url)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if n, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d, %d bytes, %v", path, res.StatusCode, n, err)
		}
	}
}

// A client that goes away ends what was being done for it.
func TestServerClientGone(t *testing.T) {
	m, _ := filled("plain")
	stuck := &stuckSource{Source: m, hashPart: substitutetest.Path("stuck", "").Hash(), asked: make(chan struct{}), ended: make(chan struct{})}
	url := serve(t, &substitute.Handler{Source: stuck})
	c := dialServer(t, url)
	fmt.Fprintf(c, "GET /nar/%s-stuck HTTP/1.1\r\nHost: x\r\n\r\n", stuck.hashPart)
	<-stuck.asked
	if err := c.(*net.TCPConn).SetLinger(0); err != nil { // so that it is reset
		t.Fatal(err)
	}
	c.Close()
	select {
	case <-stuck.ended:
	case <-time.After(2 * time.Minute):
		t.Error("the source is still being asked")
	}
}

// pipes is a listener whose connections have no buffers, and keep the time of synctest.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn)} }

func (p *pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.conns) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// dial connects as soon as that is accepted, for at most a minute.
func (p *pipes) dial(t *testing.T) net.Conn {
	t.Helper()
	c, s := net.Pipe()
	t.Cleanup(func() { c.Close() })
	p.conns <- s
	c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// ask connects, sends a request and returns the connection with the answer's first byte read.
func (p *pipes) ask(t *testing.T, request string) net.Conn {
	t.Helper()
	c, s := net.Pipe()
	p.conns <- s
	c.SetDeadline(time.Now().Add(8 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatalf("there is no room: %v", err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatalf("there is no room: %v", err)
	}
	c.SetDeadline(time.Time{})
	return c
}

// Clients that take nothing of their answers, or hardly anything, or do not send the bodies they announce, keep nobody
// out for long; those that take something go on, and those that wait for us.
func TestServerFull(t *testing.T) {
	m, paths := filled("plain")
	const size = 8 << 20
	large := m.AddFile("large", strings.Repeat("x", size))
	narinfo := fmt.Sprintf("GET /%s.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", paths[0].Hash())
	archive := fmt.Sprintf("GET /nar/%s HTTP/1.1\r\nHost: x\r\n\r\n", large.StorePath.Base())
	read := func(t *testing.T, c net.Conn, rate, n int) {
		for left := n; left > 0; left -= rate {
			if _, err := io.CopyN(io.Discard, c, int64(min(rate, left))); err != nil {
				t.Errorf("with %d bytes a second the connection is closed after %d: %v", rate, n-left, err)
				return
			}
			time.Sleep(time.Second)
		}
	}
	for name, occupy := range map[string]func(t *testing.T, p *pipes){
		"nothing":             func(t *testing.T, p *pipes) { p.ask(t, archive) },
		"nothing of narinfos": func(t *testing.T, p *pipes) { p.ask(t, narinfo) },
		"nothing after much":  func(t *testing.T, p *pipes) { read(t, p.ask(t, archive), size/2, size/2) },
		"hardly anything": func(t *testing.T, p *pipes) {
			c := p.ask(t, archive)
			go func() {
				for { // until it is closed
					if _, err := io.CopyN(io.Discard, c, 1000); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
		},
		"no body": func(t *testing.T, p *pipes) {
			c, s := net.Pipe()
			p.conns <- s
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stuck := &stuckSource{Source: m, hashPart: substitutetest.Path("stuck", "").Hash(), asked: make(chan struct{})}
				const most = 5
				server := &substitute.Server{Handler: &substitute.Handler{Source: stuck}, MaxConns: most, Drain: time.Millisecond}
				p := newPipes()
				runServer(t, server, p)
				waits, s := net.Pipe()
				p.conns <- s
				fmt.Fprintf(waits, "GET /nar/%s-stuck HTTP/1.1\r\nHost: x\r\n\r\n", stuck.hashPart)
				var all sync.WaitGroup
				slow := p.ask(t, archive)
				defer func() { slow.Close(); all.Wait() }()
				all.Go(func() { read(t, slow, 100_000, size) })
				for range most - 2 {
					occupy(t, p)
				}
				time.Sleep(5 * time.Second)
				for range most {
					p.ask(t, narinfo) // and it takes no more
				}
				all.Wait()
				waits.SetReadDeadline(time.Now())
				if _, err := waits.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("who waits for the store: %v, want the connection to be open", err)
				}
			})
		})
	}
}

// A client may go on asking for longer than others may be silent.
func TestServerLongBurst(t *testing.T) {
	m, paths := filled("plain")
	narinfo := fmt.Sprintf("GET /%s.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", paths[0].Hash())
	synctest.Test(t, func(t *testing.T) {
		const idle = 100 * time.Millisecond
		p := newPipes()
		runServer(t, &substitute.Server{Handler: &substitute.Handler{Source: m, Key: vectorKey(t)}, Idle: idle, Drain: time.Millisecond}, p)
		c := p.dial(t)
		in := bufio.NewReader(c)
		begun := "" // of the next request: there is always some
		for start := time.Now(); time.Since(start) < 5*idle; begun = "GET /" {
			fmt.Fprint(c, strings.TrimPrefix(narinfo, begun)+"GET /")
			if _, err := http.ReadResponse(in, nil); err != nil {
				t.Fatalf("after %v: %v", time.Since(start), err)
			}
			if n, err := io.CopyN(io.Discard, in, int64(in.Buffered())); err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			time.Sleep(idle / 2)
		}
	})
}

// The end of the context ends Run, whatever clients do.
func TestServerEnds(t *testing.T) {
	m, paths := filled("plain")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	s := &substitute.Server{Handler: &substitute.Handler{Source: m}, Drain: 10 * time.Millisecond}
	go func() { ended <- s.Run(ctx, l) }()
	url := "http://" + l.Addr().String()
	dialServer(t, url)
	quick, web := dialServer(t, url), dialServer(t, url)
	fmt.Fprintf(quick, "GET /%s.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", paths[0].Hash())
	fmt.Fprintf(web, "GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\nGET /")
	for _, c := range []net.Conn{quick, web} {
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the server does not end")
	}
}

// So it does when clients take nothing of the narinfos that they asked for, or the Source does not answer.
func TestServerEndsStuck(t *testing.T) {
	m, paths := filled("plain")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stuck := &stuckSource{Source: m, hashPart: substitutetest.Path("stuck", "").Hash(), asked: make(chan struct{})}
	s := &substitute.Server{Handler: &substitute.Handler{Source: stuck}, Drain: 10 * time.Millisecond}
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, l) }()
	url := "http://" + l.Addr().String()
	fmt.Fprintf(dialServer(t, url), "GET /%s.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", stuck.hashPart)
	<-stuck.asked
	// As soon as what we ask for is not read, the server waits for us to read answers.
	deaf := dialServer(t, url)
	deaf.SetWriteDeadline(time.Now().Add(time.Second))
	request := fmt.Appendf(nil, "GET /%s.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", paths[0].Hash())
	for err == nil {
		_, err = deaf.Write(bytes.Repeat(request, 1000))
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the server does not end")
	}
}

// A stuckSource says nothing about one item before the context ends.
type stuckSource struct {
	substitute.Source
	hashPart string
	asked    chan struct{} // closed when that is waited for
	ended    chan struct{} // closed when it is not any more; nil for nobody
}

func (s *stuckSource) Info(ctx context.Context, hashPart string) (*substitute.Info, error) {
	if hashPart == s.hashPart {
		close(s.asked)
		<-ctx.Done()
		if s.ended != nil {
			close(s.ended)
		}
		return nil, ctx.Err()
	}
	return s.Source.Info(ctx, hashPart)
}

// bakery is a handler with a cache that is being filled, or not.
func bakery(t *testing.T, m substitute.Source, running bool) *substitute.Handler {
	t.Helper()
	key := vectorKey(t)
	b := &substitute.Baker{Cache: &substitute.Cache{Dir: t.TempDir(), Key: key}, Source: m}
	if running {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- b.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-ended })
	}
	return &substitute.Handler{Source: m, Key: key, Baker: b}
}

func untilBaked(t *testing.T, h *substitute.Handler) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := h.Baker.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// Whatever is being baked can be had at any time; afterwards files have sizes,
// tags and ranges, and outlive the store.
func TestHandlerBakes(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("large", incompressible(3_000_000))
	h := bakery(t, &m, true)
	url := serve(t, h)
	if err := fetchOne(t, clientOf(t, url), info); err != nil {
		t.Fatalf("before: %v", err)
	}
	untilBaked(t, h)
	m.Remove(info.StorePath)
	n, err := substitute.ParseNarInfo(get(t, url+"/"+info.StorePath.Hash()+".narinfo").body)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range n.URLs {
		res := get(t, url+"/"+u.URL)
		if res.ContentLength != u.FileSize || u.FileSize <= 0 || res.Header.Get("ETag") == "" {
			t.Errorf("%s: length %d, want %d; %v", u.URL, res.ContentLength, u.FileSize, res.Header)
		}
		req, _ := http.NewRequest(http.MethodGet, url+"/"+u.URL, nil)
		req.Header.Set("Range", "bytes=1000-")
		rest, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(rest.Body)
		rest.Body.Close()
		if rest.StatusCode != http.StatusPartialContent || !bytes.Equal(body, res.body[1000:]) {
			t.Errorf("%s: range: status %d, %d bytes", u.URL, rest.StatusCode, len(body))
		}
	}
	if err := fetchOne(t, clientOf(t, url), info); err != nil {
		t.Errorf("after: %v", err)
	}
}

// Parts of a plain archive can be had as well.
func TestHandlerPlainRange(t *testing.T) {
	m, paths := filled("plain")
	url := serve(t, &substitute.Handler{Source: m}) + "/nar/" + paths[0].Base()
	whole := get(t, url)
	tag, size := whole.Header.Get("ETag"), len(whole.body)
	for _, test := range []struct {
		header, ifRange  string
		status, from, to int
	}{
		{"bytes=8-", "", 206, 8, size}, {"bytes=8-", tag, 206, 8, size}, {"bytes=8-", `"other"`, 200, 0, size},
		{"bytes=8-15", "", 206, 8, 16}, {"bytes=0-0", "", 206, 0, 1}, {"bytes=8-99999999", "", 206, 8, size}, {"bytes=9-8", "", 200, 0, size},
		{"bytes=-5", "", 206, size - 5, size}, {"bytes=-99999999", "", 200, 0, size}, {"bytes=-0", "", 416, 0, 0},
		{"bytes=0-", "", 200, 0, size}, {fmt.Sprintf("bytes=%d-", size-1), "", 206, size - 1, size},
		{fmt.Sprintf("bytes=%d-", size), "", 416, 0, 0}, {"bytes=99999999-100000000", "", 416, 0, 0}, {"bytes=99999999-", `"other"`, 200, 0, size},
		{"bytes=x-", "", 200, 0, size}, {"bytes=+8-", "", 200, 0, size}, {"bytes=8-+9", "", 200, 0, size}, {"bytes=-", "", 200, 0, size},
		{"bytes=8", "", 200, 0, size}, {"bytes=1-2,4-5", "", 200, 0, size}, {"lines=1-2", "", 200, 0, size}, {"bytes=--5", "", 200, 0, size},
		{"bytes=9223372036854775808-", "", 200, 0, size},
	} {
		req, _ := http.NewRequest(http.MethodGet, url, nil)
		req.Header.Set("Range", test.header)
		if test.ifRange != "" {
			req.Header.Set("If-Range", test.ifRange)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		said := map[int]string{200: "", 206: fmt.Sprintf("bytes %d-%d/%d", test.from, test.to-1, size), 416: fmt.Sprintf("bytes */%d", size)}
		if err != nil || res.StatusCode != test.status || res.Header.Get("Content-Range") != said[test.status] {
			t.Errorf("%q, %q: status %d, %v, %v", test.header, test.ifRange, res.StatusCode, res.Header, err)
		}
		if test.status != 416 && !bytes.Equal(body, whole.body[test.from:test.to]) {
			t.Errorf("%q, %q: %d other bytes", test.header, test.ifRange, len(body))
		}
	}
}

// What is compressed on demand is the same archive each time, which need not be the same bytes.
func TestHandlerMadeTag(t *testing.T) {
	var m substitutetest.Memory
	small, large := m.AddFile("small", "contents"), m.AddFile("large", incompressible(300_000))
	url := serve(t, &substitute.Handler{Source: &m})
	tags := map[string]bool{}
	for _, info := range []*substitute.Info{small, large} {
		for _, method := range []string{"gzip", "zstd"} {
			address := url + "/nar/" + method + "/" + info.StorePath.Base()
			tag := get(t, address).Header.Get("ETag")
			if head := fetch(t, http.MethodHead, address).Header.Get("ETag"); !strings.HasPrefix(tag, `W/"`) || head != tag || tags[tag] {
				t.Errorf("%s: tags %q, %q", address, tag, head)
			}
			tags[tag] = true
		}
	}
}

// Clients that take nothing hold neither an encoder nor each other.
func TestHandlerStalledClients(t *testing.T) {
	var m substitutetest.Memory
	var infos []*substitute.Info
	large := substitutetest.FileNAR(incompressible(20_000_000)) // does not fit into the kernel's buffers
	for i := range 6 {
		infos = append(infos, m.Add(substitutetest.Path("large"+strconv.Itoa(i), ""), large, ""))
	}
	h := &substitute.Handler{Source: &m, Key: vectorKey(t), Encoders: 1, Spool: t.TempDir()}
	url := serve(t, h)
	for _, info := range infos[:5] {
		c := dialServer(t, url)
		c.(*net.TCPConn).SetReadBuffer(4096)
		fmt.Fprintf(c, "GET /nar/zstd/%s HTTP/1.1\r\nHost: x\r\n\r\n", info.StorePath.Base())
	}
	if err := fetchOne(t, clientOf(t, url), infos[5]); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(h.Spool); len(left) > 0 {
		t.Errorf("files with names: %v", left)
	}
}

// Many clients that take nothing of what is sent as it is cost little memory each.
func TestHandlerStalledPlain(t *testing.T) {
	contents := incompressible(6_000_000) // does not fit into the kernel's buffers
	sum := sha256.Sum256([]byte(contents))
	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.WriteFile(tree, []byte(contents), 0o644); err != nil {
		t.Fatal(err)
	}
	var m substitutetest.Memory
	info := m.Add(substitute.FlatPath("large", sum), substitutetest.FileNAR(contents), "")
	url := serve(t, &substitute.Handler{Source: dumped{&m, tree}})
	const clients, most = 250, 96 << 10 // bytes each; a third is of net/http and our side of the connection
	for _, path := range []string{"/nar/" + info.StorePath.Base(), "/file/large/sha256/" + substitute.EncodeBase32(sum[:])} {
		before := heap()
		conns := make([]net.Conn, clients)
		for i := range conns {
			c := dialServer(t, url)
			c.(*net.TCPConn).SetReadBuffer(4096)
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			conns[i] = c
		}
		if each := (heap() - before) / clients; each > most {
			t.Errorf("%s: %d bytes for each client, want %d at most", path, each, most)
		}
		for _, c := range conns {
			c.Close()
		}
	}
}

// heap is how many bytes are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what they have through the first one
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A dumped source has the contents of items in one tree.
type dumped struct {
	substitute.Source
	tree string
}

func (d dumped) WriteNAR(_ context.Context, w io.Writer, _ *substitute.Info) error {
	return nar.Dump(w, d.tree)
}

// What is compressed for all clients together keeps to its limit, and is forgotten with them. What has begun goes on
// nevertheless; what has not is refused while others do so.
func TestHandlerSpoolLimit(t *testing.T) {
	var m substitutetest.Memory
	// Half of it remains, since it is text: more than the kernel's buffers have room for, of whatever size it makes them.
	contents := incompressible(16_000_000)
	large, other := m.AddFile("large", contents), m.AddFile("other", incompressible(1_500_000))
	const limit = 400_000
	h := &substitute.Handler{Source: &m, Key: vectorKey(t), Spool: t.TempDir(), SpoolBytes: limit, Encoders: 1}
	url := serve(t, h)
	reluctant := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(256 << 10)
		}
		return c, err
	}}}
	for range 2 {
		res, err := reluctant.Get(url + "/nar/zstd/" + large.StorePath.Base())
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, limit+1000) // and then it takes its time
		if _, err := io.ReadFull(res.Body, first); err != nil {
			t.Fatal(err)
		}
		if spooled := metric(t, h, "spool_bytes"); spooled < limit/2 || spooled > limit {
			t.Errorf("%d bytes in files, want no more than %d", spooled, limit)
		}
		refused := get(t, url+"/nar/zstd/"+other.StorePath.Base())
		if refused.StatusCode != http.StatusServiceUnavailable || refused.Header.Get("Retry-After") == "" {
			t.Errorf("status %d, %v", refused.StatusCode, refused.Header)
		}
		rest, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Error(err)
		}
		if got := decompress(t, "zstd", append(first, rest...)); !bytes.Equal(got, substitutetest.FileNAR(contents)) {
			t.Errorf("got %d other bytes", len(got))
		}
		if err := fetchOne(t, clientOf(t, url), other); err != nil {
			t.Errorf("after that: %v", err)
		}
	}
}

// An archive that is baked anew is not what a client can go on with that has a part of the one before.
func TestHandlerBakedAnew(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("item", incompressible(300_000))
	h := bakery(t, &m, false)
	url := serve(t, h) + "/nar/zstd/" + info.StorePath.Base()
	var tags []string
	for _, level := range []int{1, 19} {
		cache := &substitute.Cache{Dir: h.Baker.Cache.Dir, Key: h.Key, Compression: []substitute.Compression{{Method: "zstd", Level: level}}}
		if err := cache.Add(t.Context(), &m, info); err != nil {
			t.Fatal(err)
		}
		tags = append(tags, get(t, url).Header.Get("ETag"))
		if err := os.Remove(filepath.Join(cache.Dir, info.StorePath.Hash()+".narinfo")); err != nil {
			t.Fatal(err)
		}
	}
	if tags[0] == "" || tags[0] == tags[1] {
		t.Errorf("tags %q", tags)
	}
}

func TestCacheEvict(t *testing.T) {
	cache, memory, paths := filledCache(t)
	old := time.Now().Add(-48 * time.Hour)
	age := func(path substitute.StorePath) {
		if err := os.Chtimes(filepath.Join(cache.Dir, path.Hash()+".narinfo"), old, old); err != nil {
			t.Fatal(err)
		}
	}
	orphan := filepath.Join(cache.Dir, "nar", "zstd", substitutetest.Path("orphan", "").Base())
	if err := os.WriteFile(orphan, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chtimes(orphan, old, old)
	foreign := []string{"elsewhere/notes", "gzip/" + filepath.Base(orphan), "nar/own/" + filepath.Base(orphan), "nar/zstd/notes", "nar/notes", "notes", "notes.narinfo"}
	for _, name := range foreign {
		name = filepath.Join(cache.Dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(name, old, old)
	}

	// What was used lately stays, whatever the limits.
	done, err := cache.Evict(t.Context(), substitute.EvictOptions{MaxAge: time.Nanosecond, MaxSize: 1})
	if err != nil || done.Items != 0 || done.LeftItems != 2 {
		t.Errorf("%+v, %v; want nothing evicted", done, err)
	}
	if _, err := os.Stat(orphan); err == nil {
		t.Error("orphan is still there")
	}
	for _, name := range foreign {
		if _, err := os.Stat(filepath.Join(cache.Dir, name)); err != nil {
			t.Errorf("what is not the cache's is gone: %v", err)
		}
	}
	age(paths[0])
	keep := substitute.EvictOptions{MaxAge: 24 * time.Hour, Keep: func(p substitute.StorePath) bool { return p == paths[0] }}
	if done, err := cache.Evict(t.Context(), keep); err != nil || done.Items != 0 {
		t.Errorf("%+v, %v; want it kept", done, err)
	}
	// A download that has begun goes on.
	info, err := cache.Info(t.Context(), paths[0].Hash())
	if err != nil {
		t.Fatal(err)
	}
	age(paths[0]) // to read it was a use
	sum := sha256.New()
	evictMeanwhile := writerFunc(func(p []byte) (int, error) {
		if done, err := cache.Evict(t.Context(), substitute.EvictOptions{MaxAge: 24 * time.Hour}); err != nil {
			t.Errorf("%+v, %v", done, err)
		}
		return sum.Write(p)
	})
	if err := cache.WriteNAR(t.Context(), evictMeanwhile, info); err != nil || substitute.Hash(sum.Sum(nil)) != info.NarHash {
		t.Errorf("evicted during the download: %v", err)
	}
	if _, err := cache.Info(t.Context(), paths[0].Hash()); !errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("evicted: %v", err)
	}
	age(paths[1])
	if done, err := cache.Evict(t.Context(), substitute.EvictOptions{MaxSize: 1}); err != nil || done.Items != 1 || done.LeftBytes != 0 {
		t.Errorf("by size: %+v, %v", done, err)
	}
	if err := cache.Add(t.Context(), memory, info); err != nil {
		t.Errorf("again: %v", err)
	}
}

// The directory of a cache, and those in it, may be links to where there is room.
func TestCacheEvictLinks(t *testing.T) {
	cache, _, paths := filledCache(t)
	real, room := cache.Dir, filepath.Join(t.TempDir(), "room")
	archives := filepath.Join(real, "nar", "zstd")
	if err := os.Rename(archives, room); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	for from, to := range map[string]string{archives: room, link: real} {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	cache = &substitute.Cache{Dir: link}
	old := time.Now().Add(-48 * time.Hour)
	for _, path := range paths {
		if err := os.Chtimes(filepath.Join(link, path.Hash()+".narinfo"), old, old); err != nil {
			t.Fatal(err)
		}
	}
	done, err := cache.Evict(t.Context(), substitute.EvictOptions{MaxAge: 24 * time.Hour})
	if err != nil || done.Items != len(paths) || done.LeftBytes != 0 {
		t.Errorf("%+v, %v; want all evicted", done, err)
	}
	for _, dir := range []string{room, filepath.Join(real, "nar", "gzip")} {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}

// What is to be kept is, if its archives cannot be seen: their directory may be on a disk that is not there now.
func TestCacheEvictKeepsWithoutArchives(t *testing.T) {
	cache, _, paths := filledCache(t)
	archives, away := filepath.Join(cache.Dir, "nar"), filepath.Join(t.TempDir(), "away")
	if err := os.Rename(archives, away); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(t.TempDir(), "unmounted"), archives); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	for _, path := range paths {
		if err := os.Chtimes(filepath.Join(cache.Dir, path.Hash()+".narinfo"), old, old); err != nil {
			t.Fatal(err)
		}
	}
	o := substitute.EvictOptions{MaxAge: 24 * time.Hour, Keep: func(p substitute.StorePath) bool { return p == paths[0] }}
	if done, err := cache.Evict(t.Context(), o); err != nil || done.Items != len(paths)-1 {
		t.Errorf("%+v, %v; want all but one evicted", done, err)
	}
	if err := errors.Join(os.Remove(archives), os.Rename(away, archives)); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Info(t.Context(), paths[0].Hash()); err != nil {
		t.Errorf("what was to be kept: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
