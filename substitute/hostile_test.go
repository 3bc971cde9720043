package substitute_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/lzip"
	"github.com/genenetwork/guixci/substitute/nar"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// bomb is a compressed archive of a file of n zeros, of a thousandth of that or less.
func bomb(t *testing.T, method string, n int64) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch method {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "lzip":
		w = lzip.NewWriter(&b, 0)
	case "zstd":
		w, _ = zstd.NewWriter(&b)
	}
	archive := nar.NewWriter(w)
	if err := archive.WriteHeader(&nar.Header{Mode: nar.ModeRegular, Size: n}); err != nil {
		t.Fatal(err)
	}
	for zeros := make([]byte, 1<<20); n > 0; n -= int64(len(zeros)) {
		if _, err := archive.Write(zeros[:min(n, int64(len(zeros)))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// bzip2Bomb is 1.8 GB of zeros in 1.8 kB: bzip2 members of 46 bytes that each hold 45,899,235 of them.
func bzip2Bomb(t *testing.T) []byte {
	t.Helper()
	// head -c 45899235 /dev/zero | bzip2 -9 makes one block of one run.
	member, err := hex.DecodeString(bzip2Zeros)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Repeat(member, 40)
}

const bzip2Zeros = `425a68393141592653590e09e2df015f8e4000c0000008200030804d4642a025a90a80971772453850900e09e2df`

// What expands to a thousand times its size and more is given up as soon as it is longer than what was
// signed, whatever it is compressed with, and has not taken memory by then.
func TestClientBombs(t *testing.T) {
	key := vectorKey(t)
	info := new(substitutetest.Memory).AddFile("small", "text")
	const size = 200 << 20
	for method, archive := range map[string][]byte{
		"gzip": bomb(t, "gzip", size), "lzip": bomb(t, "lzip", size/50), "zstd": bomb(t, "zstd", size), "bzip2": bzip2Bomb(t),
	} {
		t.Run(method, func(t *testing.T) {
			url := "nar/" + method + "/" + info.StorePath.Base()
			n, err := substitute.NewNarInfo(info, key, "host", []substitute.NarURL{{URL: url, Compression: method, FileSize: -1}})
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if isNAR(r) {
					w.Header().Set("Content-Length", fmt.Sprint(min(len(archive), 60_000))) // more is not even begun
					w.Write(archive[:min(len(archive), 60_000)])
				} else {
					w.Write(n.Bytes())
				}
			}))
			defer server.Close()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if err := fetchOne(t, clientOf(t, server.URL), info); err == nil {
				t.Error("fetched")
			}
			if err := clientOf(t, server.URL).WriteNAR(t.Context(), io.Discard, info); err == nil || !strings.Contains(err.Error(), "longer than") {
				t.Errorf("write: %v", err)
			}
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 40<<20 {
				t.Errorf("took %d bytes of memory", used)
			}
		})
	}
}

// Caches that never come to an end, or take their time for each byte, are given up, and others asked.
func TestClientEndlessCaches(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("item", incompressible(3_000_000))
	h := &substitute.Handler{Source: &m, Key: vectorKey(t)}
	good := serve(t, h)
	cache := &substitute.Cache{Dir: t.TempDir(), Key: h.Key}
	if err := cache.Add(t.Context(), &m, info); err != nil {
		t.Fatal(err)
	}
	other := "file://" + cache.Dir // which is never given up for being slow
	const stall = 300 * time.Millisecond
	// What comes is in order, as far as it comes: an archive, or one before which there is a lot that says nothing.
	drip := func(w http.ResponseWriter, r *http.Request) bool {
		whole := []byte(strings.Repeat("S", 10_000))
		if isNAR(r) {
			whole = get(t, good+r.URL.Path).body
		}
		tick := time.NewTicker(stall / 20)
		defer tick.Stop()
		for i := range 20 * 20 {
			select {
			case <-tick.C:
				w.Write(whole[i : i+1])
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return true
			}
		}
		t.Errorf("drip: %s is read for ever", r.URL.Path)
		return true
	}
	flood := func(w http.ResponseWriter, r *http.Request) bool {
		var block []byte
		switch {
		case strings.HasPrefix(r.URL.Path, "/nar/zstd/"):
			block = append([]byte("\x50\x2a\x4d\x18\xf8\xff\x00\x00"), make([]byte, 64<<10-8)...) // to be skipped
		case strings.HasPrefix(r.URL.Path, "/nar/gzip/"):
			var empty bytes.Buffer
			gzip.NewWriter(&empty).Close()
			block = bytes.Repeat(empty.Bytes(), 3000)
		default:
			block = make([]byte, 64<<10)
		}
		for range 1000 {
			if w.Write(block); r.Context().Err() != nil {
				return true
			}
		}
		t.Errorf("flood: %s is read for ever", r.URL.Path)
		return true
	}
	silence := func(w http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	}
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{"drip": drip, "flood": flood, "silence": silence} {
		t.Run(name, func(t *testing.T) {
			archives := meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool { return isNAR(r) && answer(w, r) })
			if name != "silence" { // before the first byte, guix publish may take a minute
				c := clientOf(t, archives, other)
				c.Stall = stall
				if err := fetchOne(t, c, info); err != nil {
					t.Error(err)
				}
			}
			narinfos := meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool { return !isNAR(r) && answer(w, r) })
			c := clientOf(t, narinfos, other)
			c.Stall = stall
			paths := []substitute.StorePath{info.StorePath, substitutetest.Path("absent", "")} // pipelined
			if offers, err := c.Query(t.Context(), paths); len(offers) != 1 || err == nil {
				t.Errorf("%d offers, %v; want that of the other cache, and why not of this one", len(offers), err)
			}
		})
	}
}

// What a server sends before, or instead of, a narinfo is not kept, nor waited for.
func TestClientEndlessAnswers(t *testing.T) {
	m, paths := filled("plain", "other")
	good := serve(t, &substitute.Handler{Source: m, Key: vectorKey(t)})
	for name, head := range map[string]string{
		"header":   "HTTP/1.1 200 OK\r\nX: ",
		"body":     "HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
		"redirect": "HTTP/1.1 302 Found\r\nLocation: " + good + "\r\nContent-Length: 999999999999\r\n\r\n",
		"status":   "HTTP/1.1 200 ",
	} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int64
			url := floods(t, head, &sent)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if offers, err := clientOf(t, url, good).Query(t.Context(), paths); len(offers) != 2 || err == nil {
				t.Errorf("%d offers, %v; want those of the other cache, and why not of this one", len(offers), err)
			}
			runtime.ReadMemStats(&after)
			// The kernel may have taken more than we read.
			if used, took := after.TotalAlloc-before.TotalAlloc, sent.Load(); used > 64<<20 || took > 100<<20 {
				t.Errorf("took %d bytes of memory, and %d to read", used, took)
			}
		})
	}
}

// floods is a server that sends head and then something without end, as fast as it can.
func floods(t *testing.T, head string, sent *atomic.Int64) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { l.Close(); running.Wait() })
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				block := bytes.Repeat([]byte("x"), 64<<10)
				for _, err := c.Write([]byte(head)); err == nil; {
					var n int
					n, err = c.Write(block)
					sent.Add(int64(n))
				}
			})
		}
	})
	return "http://" + l.Addr().String()
}

// A cache that takes its time for each answer, and closes the connection after it, has no more time for all of
// them than one that does not.
func TestClientSlowClosingCache(t *testing.T) {
	m, paths := filled("a", "b", "c")
	h := &substitute.Handler{Source: m, Key: vectorKey(t)}
	const stall = 2 * time.Second
	url := meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Connection", "close")
		select {
		case <-time.After(stall - stall/20):
		case <-r.Context().Done():
		}
		return false
	})
	c := clientOf(t, url)
	c.Stall = stall
	if offers, err := c.Query(t.Context(), paths); err == nil || len(offers) == len(paths) {
		t.Errorf("%d offers, %v", len(offers), err)
	}
}

// A cache that wants to be asked again in an hour is left alone, once for each address; one that does not begin to
// answer is asked for none of the others, each of which would take as long.
func TestClientBusyCache(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("item", incompressible(300_000))
	h := &substitute.Handler{Source: &m, Key: vectorKey(t)}
	good := serve(t, h)
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		wait   time.Duration // for the archive; for others, and narinfos, that is for as long as it takes
		asked  int           // of zstd and gzip
	}{
		"later": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, 0, 2},
		"silent": {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 100 * time.Millisecond, 1},
	} {
		t.Run(name, func(t *testing.T) {
			busy := meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool {
				if isNAR(r) {
					test.answer(w, r)
				}
				return isNAR(r)
			})
			asked, patient := 0, new(http.Transport)
			archives := &http.Transport{ResponseHeaderTimeout: test.wait}
			defer patient.CloseIdleConnections()
			defer archives.CloseIdleConnections()
			c := clientOf(t, busy, good)
			c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				if !isNAR(r) || "http://"+r.URL.Host != busy {
					return patient.RoundTrip(r)
				}
				asked++
				return archives.RoundTrip(r)
			})
			if err := fetchOne(t, c, info); err != nil {
				t.Error(err)
			}
			if asked != test.asked {
				t.Errorf("asked %d times, want %d", asked, test.asked)
			}
		})
	}
}

// A cache that cannot be reached is not tried for each of many items.
func TestClientUnreachable(t *testing.T) {
	var m substitutetest.Memory
	var paths []substitute.StorePath
	for i := range 1000 {
		paths = append(paths, m.AddFile("item", fmt.Sprint(i)).StorePath)
	}
	good := serve(t, &substitute.Handler{Source: &m, Key: vectorKey(t)})
	var tried atomic.Int64
	c := clientOf(t, "https://unreachable.invalid", good)
	c.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
		tried.Add(1)
		return nil, syscall.EHOSTUNREACH
	})
	if offers, err := c.Query(t.Context(), paths); len(offers) != len(paths) || !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("%d offers, %v", len(offers), err)
	}
	if n := tried.Load(); n > 200 {
		t.Errorf("tried %d times", n)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The words of a cache do not get into our messages, and from there onto a terminal.
func TestClientSpeaksForItself(t *testing.T) {
	m, paths := filled("plain")
	info, err := m.Info(t.Context(), paths[0].Hash())
	if err != nil {
		t.Fatal(err)
	}
	h := &substitute.Handler{Source: m, Key: vectorKey(t)}
	for _, spoiled := range []string{"/nar/", ".narinfo"} {
		url := meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, spoiled) {
				return false
			}
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				io.WriteString(c, "HTTP/1.1 403 \x1b[2Jgone\r@ build-succeeded\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				c.Close()
			}
			return true
		})
		if err := fetchOne(t, clientOf(t, url), info); err == nil || !strings.Contains(err.Error(), "403") || strings.ContainsAny(err.Error(), "\x1b\r@") {
			t.Errorf("%s: %q", spoiled, err)
		}
	}
}

// The directory that is a cache is all that is read of this machine, and only files are.
func TestClientHostileDirectory(t *testing.T) {
	m, paths := filled("plain")
	info, err := m.Info(t.Context(), paths[0].Hash())
	if err != nil {
		t.Fatal(err)
	}
	top := t.TempDir()
	dir := filepath.Join(top, "cache")
	if err := os.MkdirAll(filepath.Join(dir, "nar"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(top, "secret"), substitutetest.FileNAR("contents of plain"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, pipe := range []string{"nar/pipe", substitutetest.Path("pipe", "").Hash() + ".narinfo"} {
		if err := syscall.Mkfifo(filepath.Join(dir, pipe), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, substitutetest.Path("zeros", "").Hash()+".narinfo")); err != nil {
		t.Fatal(err)
	}
	url := "file://" + dir
	for _, address := range []string{"../secret", "nar/../../secret", "nar/%2e%2e/%2e%2e/secret", "%2e%2e/secret", "file://" + top + "/secret", "/etc/hostname", "nar/pipe", "nar"} {
		n, err := substitute.NewNarInfo(info, vectorKey(t), "host", []substitute.NarURL{{URL: address, Compression: "none", FileSize: -1}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, paths[0].Hash()+".narinfo"), n.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := fetchOne(t, clientOf(t, url), info); err == nil {
			t.Errorf("%s: fetched", address)
		}
	}
	for _, name := range []string{"pipe", "zeros"} {
		if offers, err := clientOf(t, url).Query(t.Context(), []substitute.StorePath{substitutetest.Path(name, "")}); len(offers) > 0 || err == nil {
			t.Errorf("%s: %d offers, %v", name, len(offers), err)
		}
	}
}

// A narinfo with thousands of addresses, which nobody has signed, keeps us neither from the next cache
// nor from an end, and does not fill the log.
func TestClientManyAddresses(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("item", "text")
	good := serve(t, &substitute.Handler{Source: &m, Key: vectorKey(t)})
	urls := []substitute.NarURL{{URL: "nar/" + strings.Repeat("x", 100_000), Compression: "none", FileSize: 0}}
	for i := range 8000 {
		urls = append(urls, substitute.NarURL{URL: fmt.Sprintf("nar/%d", i), Compression: "none", FileSize: info.NarSize})
	}
	n, err := substitute.NewNarInfo(info, vectorKey(t), "host", urls)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	hostile := meddle(t, http.NotFoundHandler(), func(w http.ResponseWriter, r *http.Request) bool {
		if isNAR(r) {
			asked.Add(1)
			return false
		}
		w.Write(n.Bytes())
		return true
	})
	for _, caches := range [][]string{{hostile, good}, {hostile}} {
		asked.Store(0)
		var log bytes.Buffer
		c := clientOf(t, caches...)
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		if err := fetchOne(t, c, info); (err == nil) != (len(caches) == 2) {
			t.Errorf("%d caches: %v", len(caches), err)
		}
		if n := asked.Load(); n != 4 || log.Len() > 4000 {
			t.Errorf("%d caches: asked %d times, %d bytes of log", len(caches), n, log.Len())
		}
	}
}

// A redirect leads only where a narinfo may.
func TestClientRedirects(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("item", "text")
	h := &substitute.Handler{Source: &m, Key: vectorKey(t)}
	elsewhere := serve(t, h)
	var asked atomic.Int64
	to := ""
	server := meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool {
		if !isNAR(r) || r.URL.RawQuery == "here" {
			return false
		}
		asked.Add(1)
		http.Redirect(w, r, to+r.URL.Path+"?here", http.StatusFound)
		return true
	})
	if err := fetchOne(t, clientOf(t, server), info); err != nil {
		t.Errorf("to the cache itself: %v", err)
	}
	to = elsewhere
	if err := fetchOne(t, clientOf(t, server), info); err == nil || !strings.Contains(err.Error(), "another host") {
		t.Errorf("to another host: %v", err)
	}
	c := clientOf(t, server)
	c.Hosts = []string{strings.TrimPrefix(elsewhere, "http://")}
	if err := fetchOne(t, c, info); err != nil {
		t.Errorf("to a host that is allowed: %v", err)
	}
	asked.Store(0)
	circle := meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool {
		if !isNAR(r) || asked.Add(1) > 100 {
			return false
		}
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
		return true
	})
	if err := fetchOne(t, clientOf(t, circle), info); err == nil || asked.Load() != 10 {
		t.Errorf("in a circle: %d requests for two addresses, %v", asked.Load(), err)
	}
}

// The size that was signed is part of what is verified.
func TestClientWrongSize(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("item", "text")
	longer := *info
	longer.NarSize += 8
	n, err := substitute.NewNarInfo(&longer, vectorKey(t), "host", []substitute.NarURL{{URL: "nar/item", Compression: "none", FileSize: -1}})
	if err != nil {
		t.Fatal(err)
	}
	server := meddle(t, nil, func(w http.ResponseWriter, r *http.Request) bool {
		if isNAR(r) {
			w.Write(substitutetest.FileNAR("text"))
		} else {
			w.Write(n.Bytes())
		}
		return true
	})
	if err := fetchOne(t, clientOf(t, server), &longer); err == nil {
		t.Error("fetched")
	}
	if err := clientOf(t, server).WriteNAR(t.Context(), io.Discard, &longer); err == nil {
		t.Error("written")
	}
}

// What passes by itself is tried again.
func TestClientRetries(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("item", "text")
	var mu sync.Mutex // guards asked
	asked := make(map[string]int)
	server := meddle(t, &substitute.Handler{Source: &m, Key: vectorKey(t)}, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if asked[r.URL.Path]++; asked[r.URL.Path] < 3 {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	})
	if err := fetchOne(t, clientOf(t, server), info); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 2 {
		t.Errorf("asked %v, want the narinfo and one archive", asked)
	}
}
