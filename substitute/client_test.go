package substitute_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// clientOf returns a client of caches that believes what vectorKey signs. It is patient: the machine may be slow.
func clientOf(t testing.TB, urls ...string) *substitute.Client {
	t.Helper()
	return &substitute.Client{URLs: urls, ACL: substitute.NewACL(vectorKey(t).Public()), Stall: 2 * time.Minute}
}

// meddle serves h, but lets change answer first; it returns true if it did.
func meddle(t testing.TB, h http.Handler, change func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !change(w, r) {
			h.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func isNAR(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/nar/") }

func TestClientIsASource(t *testing.T) {
	m, paths := filled("plain", "with.dots-and_more+signs=1", "source.tar.gz")
	server := serve(t, &substitute.Handler{Source: m, Key: vectorKey(t)})
	substitutetest.TestSource(t, clientOf(t, server), paths)

	cache := &substitute.Cache{Dir: t.TempDir(), Key: vectorKey(t)}
	for _, path := range paths {
		info, err := m.Info(t.Context(), path.Hash())
		if err == nil {
			err = cache.Add(t.Context(), m, info)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("file", func(t *testing.T) { substitutetest.TestSource(t, clientOf(t, "file://"+cache.Dir), paths) })
	t.Run("remembering", func(t *testing.T) {
		c := clientOf(t, server)
		c.Dir = t.TempDir()
		substitutetest.TestSource(t, c, paths)
		again := clientOf(t, server)
		again.Dir = c.Dir
		substitutetest.TestSource(t, again, paths)
	})
}

// The archives that Guix made are what its narinfos say, by whatever they are compressed.
func TestClientRealArchives(t *testing.T) {
	text, err := os.ReadFile("testdata/narinfo/cache-zstd-lzip-filesize.narinfo")
	if err != nil {
		t.Fatal(err)
	}
	real, err := substitute.ParseNarInfo(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range real.URLs {
		if file, err := os.Stat("testdata/" + u.URL); err != nil || file.Size() != u.FileSize {
			t.Errorf("%s: not of %d bytes, %v", u.URL, u.FileSize, err)
		}
	}
	files := http.FileServer(http.Dir("testdata"))
	for _, method := range []string{"", "zstd", "lzip", "gzip"} {
		answer := text
		if method != "" {
			url := "nar/" + method + "/" + real.StorePath.Base()
			n, err := substitute.NewNarInfo(&real.Info, vectorKey(t), "vm", []substitute.NarURL{{URL: url, Compression: method, FileSize: -1}})
			if err != nil {
				t.Fatal(err)
			}
			answer = n.Bytes()
		}
		server := meddle(t, files, func(w http.ResponseWriter, r *http.Request) bool {
			if isNAR(r) {
				return false
			}
			w.Write(answer)
			return true
		})
		if err := fetchOne(t, clientOf(t, server), &real.Info); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// A mirror of a mirror serves what the first one has.
func TestClientMirror(t *testing.T) {
	m, paths := filled("plain")
	first := serve(t, &substitute.Handler{Source: m, Key: vectorKey(t)})
	second := serve(t, &substitute.Handler{Source: clientOf(t, first), Key: vectorKey(t)})
	substitutetest.TestSource(t, clientOf(t, second), paths)
}

func TestClientMassQuery(t *testing.T) {
	var m substitutetest.Memory
	var paths []substitute.StorePath
	const count = 1050 // more than are under way at once
	for i := range count {
		paths = append(paths, m.AddFile("item", strconv.Itoa(i)).StorePath)
	}
	absent := substitutetest.Path("absent", "")
	h := &substitute.Handler{Source: &m, Key: vectorKey(t)}
	for name, change := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"kept":    func(http.ResponseWriter, *http.Request) bool { return false },
		"closing": everyNth(400, func(w http.ResponseWriter) { w.Header().Set("Connection", "close") }),
		"broken":  everyNth(390, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }),
	} {
		t.Run(name, func(t *testing.T) {
			c := clientOf(t, meddle(t, h, change))
			offers, err := c.Query(t.Context(), append([]substitute.StorePath{absent}, paths...))
			if err != nil {
				t.Fatal(err)
			}
			var got []substitute.StorePath
			for _, o := range offers {
				got = append(got, o.StorePath)
			}
			if !slices.Equal(got, paths) {
				t.Errorf("%d items offered, want %d", len(got), count)
			}
		})
	}
}

func everyNth(n int64, f func(http.ResponseWriter)) func(http.ResponseWriter, *http.Request) bool {
	var count atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) bool {
		if count.Add(1)%n == 0 {
			f(w)
		}
		return false
	}
}

// fetchOne queries and fetches an item, and checks that it is what was served,
// or that there is nothing at all.
func fetchOne(t *testing.T, c *substitute.Client, info *substitute.Info) error {
	t.Helper()
	offers, err := c.Query(t.Context(), []substitute.StorePath{info.StorePath})
	if len(offers) != 1 {
		return fmt.Errorf("no offer: %w", errors.Join(err, substitute.ErrNotFound))
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "item")
	err = c.Fetch(t.Context(), offers[0], path, nil)
	if err == nil {
		var b bytes.Buffer
		if err := nar.Dump(&b, path); err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(b.Bytes()) != info.NarHash {
			t.Error("fetched another tree")
		}
		os.RemoveAll(path)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return err
}

// What one server cannot deliver comes from the next address or server.
func TestClientFallsThrough(t *testing.T) {
	var m substitutetest.Memory
	large := m.AddFile("large", incompressible(3_000_000))
	h := &substitute.Handler{Source: &m, Key: vectorKey(t)}
	good := serve(t, h)
	whole := get(t, good+"/nar/zstd/"+large.StorePath.Base()).body
	send := func(w http.ResponseWriter, body []byte) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
		return true
	}
	for name, change := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"missing":   func(w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true },
		"forbidden": func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(403); return true },
		"empty":     func(w http.ResponseWriter, r *http.Request) bool { return send(w, nil) },
		"truncated": func(w http.ResponseWriter, r *http.Request) bool { return send(w, whole[:len(whole)/2]) },
		"garbage":   func(w http.ResponseWriter, r *http.Request) bool { return send(w, []byte(incompressible(5000))) },
		"corrupt": func(w http.ResponseWriter, r *http.Request) bool {
			bad := bytes.Clone(whole)
			bad[len(bad)/2] ^= 1
			return send(w, bad)
		},
		"other archive": func(w http.ResponseWriter, r *http.Request) bool {
			other := bytes.Clone(substitutetest.FileNAR(incompressible(3_000_000)))
			other[len(other)/2] ^= 1
			return sendAs(w, r, other)
		},
		"too long":   func(w http.ResponseWriter, r *http.Request) bool { return sendAs(w, r, make([]byte, 4_000_000)) },
		"not an nar": func(w http.ResponseWriter, r *http.Request) bool { return sendAs(w, r, make([]byte, large.NarSize)) },
		"redirect to a file": func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "file:///etc/hostname", http.StatusFound)
			return true
		},
		"redirect to elsewhere": func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://localhost:1/", http.StatusFound)
			return true
		},
		"encoded": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Encoding", "gzip")
			return send(w, whole)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool { return isNAR(r) && change(w, r) })
			if err := fetchOne(t, clientOf(t, bad), large); err == nil {
				t.Error("fetched from the bad server alone")
			}
			if err := fetchOne(t, clientOf(t, bad, good), large); err != nil {
				t.Error(err)
			}
			// As a Source, where nothing can be taken back, at least no wrong
			// byte goes unnoticed.
			var b bytes.Buffer
			err := clientOf(t, bad, good).WriteNAR(t.Context(), &b, large)
			if err == nil && sha256.Sum256(b.Bytes()) != large.NarHash {
				t.Error("wrote another archive")
			}
		})
	}
}

// sendAs compresses an archive as the request wants it.
func sendAs(w http.ResponseWriter, r *http.Request, archive []byte) bool {
	var m substitutetest.Memory
	path := substitute.StorePath(substitute.StoreDir + "/" + filepath.Base(r.URL.Path))
	m.Add(path, archive, "")
	(&substitute.Handler{Source: &m}).ServeHTTP(w, r)
	return true
}

// A server that breaks the connection again and again is asked for the rest.
func TestClientResumes(t *testing.T) {
	cache, info := bakedItem(t)
	var requests atomic.Int64
	files := http.FileServer(http.Dir(cache.Dir))
	server := meddle(t, files, func(w http.ResponseWriter, r *http.Request) bool {
		if isNAR(r) {
			requests.Add(1)
			files.ServeHTTP(&breakingWriter{w, 400_000}, r)
			return true
		}
		return false
	})
	if err := fetchOne(t, clientOf(t, server), info); err != nil {
		t.Fatal(err)
	}
	if n := requests.Load(); n < 4 {
		t.Errorf("%d requests, want at least 4", n)
	}
}

func bakedItem(t *testing.T) (*substitute.Cache, *substitute.Info) {
	t.Helper()
	var m substitutetest.Memory
	info := m.AddFile("large", incompressible(3_000_000))
	cache := &substitute.Cache{Dir: t.TempDir(), Key: vectorKey(t)}
	if err := cache.Add(t.Context(), &m, info); err != nil {
		t.Fatal(err)
	}
	return cache, info
}

// A breakingWriter ends the connection after some bytes.
type breakingWriter struct {
	http.ResponseWriter
	left int
}

func (w *breakingWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		w.ResponseWriter.Write(p[:w.left])
		w.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	w.left -= len(p)
	return w.ResponseWriter.Write(p)
}

// What stops coming is given up, and resumed.
func TestClientStall(t *testing.T) {
	cache, info := bakedItem(t)
	files := http.FileServer(http.Dir(cache.Dir))
	var first atomic.Bool
	server := meddle(t, files, func(w http.ResponseWriter, r *http.Request) bool {
		if isNAR(r) && !first.Swap(true) {
			w.Header().Set("Content-Length", "3000000")
			w.Write(make([]byte, 0))
			w.(http.Flusher).Flush()
			<-r.Context().Done() // until the client leaves
			return true
		}
		return false
	})
	c := clientOf(t, server, "file://"+cache.Dir)
	c.Stall = 100 * time.Millisecond
	if err := fetchOne(t, c, info); err != nil {
		t.Fatal(err)
	}
}

// No key, another key, an answer about something else: nothing is offered.
func TestClientBelievesOnlyTheSigned(t *testing.T) {
	m, paths := filled("plain", "other")
	info, err := m.Info(t.Context(), paths[0].Hash())
	if err != nil {
		t.Fatal(err)
	}
	h := &substitute.Handler{Source: m, Key: vectorKey(t)}
	good := serve(t, h)
	altered := func(from, to string) string {
		return meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, ".narinfo") {
				return false
			}
			text := get(t, good+"/"+paths[0].Hash()+".narinfo").body
			w.Write(bytes.ReplaceAll(text, []byte(from), []byte(to)))
			return true
		})
	}
	for name, server := range map[string]string{
		"unsigned":         serve(t, &substitute.Handler{Source: m}),
		"strange key":      serve(t, &substitute.Handler{Source: m, Key: substitute.GenerateKey()}),
		"altered size":     altered("NarSize: ", "NarSize: 1"),
		"altered path":     altered(info.StorePath.Name(), "renamed"),
		"altered hash":     altered("NarHash: sha256:"+info.NarHash.String()[7:9], "NarHash: sha256:00"),
		"path as name":     altered("StorePath: /gnu/store/", "StorePath: /gnu/store/../"),
		"not a store path": altered("References: ", "References: ../../etc/passwd "),
	} {
		if err := fetchOne(t, clientOf(t, server), info); !errors.Is(err, substitute.ErrNotFound) {
			t.Errorf("%s: error %v, want ErrNotFound", name, err)
		}
	}
	// That nobody has authorized the key is said, once for each cache.
	var log bytes.Buffer
	c := clientOf(t, serve(t, &substitute.Handler{Source: m, Key: substitute.GenerateKey()}), serve(t, &substitute.Handler{Source: m}), good)
	c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	for _, path := range paths {
		if offers, err := c.Query(t.Context(), []substitute.StorePath{path}); len(offers) != 1 || err != nil {
			t.Errorf("%d offers, %v", len(offers), err)
		}
	}
	if n := strings.Count(log.String(), "guix archive --authorize"); n != 1 || !strings.Contains(log.String(), "cache="+c.URLs[0]+"\n") {
		t.Errorf("log: %s", &log)
	}
	// An answer about another item than the one asked for, well signed.
	if offers, _ := clientOf(t, altered("", "")).Query(t.Context(), paths[1:]); len(offers) > 0 {
		t.Errorf("asked for %s, offered %s", paths[1], offers[0].StorePath)
	}
	// An unsigned mirror may deliver what another server vouches for.
	mirror := serve(t, &substitute.Handler{Source: m})
	if err := fetchOne(t, clientOf(t, mirror, good), info); err != nil {
		t.Errorf("mirror: %v", err)
	}
}

// The unsigned part of a narinfo cannot send us anywhere.
func TestClientStaysAtHome(t *testing.T) {
	m, paths := filled("plain")
	info, err := m.Info(t.Context(), paths[0].Hash())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := serve(t, &substitute.Handler{Source: m, Key: vectorKey(t)})
	for _, target := range []string{elsewhere + "/nar/zstd/" + paths[0].Base(), "file:///etc/hostname", "//localhost:1/x"} {
		n, err := substitute.NewNarInfo(info, vectorKey(t), "host", []substitute.NarURL{{URL: target, Compression: "zstd", FileSize: -1}})
		if err != nil {
			t.Fatal(err)
		}
		server := meddle(t, nil, func(w http.ResponseWriter, r *http.Request) bool { w.Write(n.Bytes()); return true })
		if err := fetchOne(t, clientOf(t, server), info); err == nil {
			t.Errorf("%s: followed", target)
		}
		c := clientOf(t, server)
		host, _ := url.Parse(elsewhere)
		c.Hosts = []string{host.Host}
		if err := fetchOne(t, c, info); (err == nil) != strings.HasPrefix(target, elsewhere) {
			t.Errorf("%s with that host allowed: %v", target, err)
		}
	}
}

// A cache that cannot be reached is reported, asked no more for a while, and
// does not keep others from answering.
func TestClientDeadCache(t *testing.T) {
	m, paths := filled("plain")
	info, _ := m.Info(t.Context(), paths[0].Hash())
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	good := serve(t, &substitute.Handler{Source: m, Key: vectorKey(t)})
	c := clientOf(t, dead.URL, good)
	offers, err := c.Query(t.Context(), paths)
	if len(offers) != 1 || err == nil {
		t.Errorf("%d offers, error %v; want 1 and an error about the dead cache", len(offers), err)
	}
	if err := fetchOne(t, c, info); err != nil {
		t.Error(err)
	}
	secret := strings.Replace(dead.URL, "http://", "http://user:secret@", 1)
	if _, err := clientOf(t, secret).Query(t.Context(), append(paths, paths...)); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("with a password: %v", err)
	}
	if _, err := clientOf(t, dead.URL).Info(t.Context(), paths[0].Hash()); err == nil || errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("only a dead cache: error %v, want one that is not ErrNotFound", err)
	}
}

// Cancelling ends a download at once, and leaves nothing.
func TestClientCancelled(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("large", incompressible(3_000_000))
	h := &substitute.Handler{Source: &m, Key: vectorKey(t)}
	begun := make(chan struct{})
	var once sync.Once
	server := meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool {
		if !isNAR(r) {
			return false
		}
		io.WriteString(w, "\x28\xb5\x2f\xfd")
		w.(http.Flusher).Flush()
		once.Do(func() { close(begun) })
		<-r.Context().Done()
		return true
	})
	c := clientOf(t, server)
	offers, err := c.Query(t.Context(), []substitute.StorePath{info.StorePath})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	dir := t.TempDir()
	if err := c.Fetch(ctx, offers[0], filepath.Join(dir, "item"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
