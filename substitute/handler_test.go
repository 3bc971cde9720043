package substitute_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/lzip"
	"github.com/genenetwork/guixci/substitute/nar"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

func vectorKey(t testing.TB) *substitute.PrivateKey {
	t.Helper()
	text, err := os.ReadFile("testdata/ed25519/signing-key.sec")
	if err != nil {
		t.Fatal(err)
	}
	key, err := substitute.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// serve starts h and returns its address without a slash at the end.
func serve(t testing.TB, h *substitute.Handler) string {
	t.Helper()
	return serveOn(t, &substitute.Server{Handler: h, Drain: time.Millisecond})
}

func serveOn(t testing.TB, s *substitute.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	runServer(t, s, l)
	return "http://" + l.Addr().String()
}

// runServer runs s until the end of the test.
func runServer(t testing.TB, s *substitute.Server, l net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("server: %v", err)
		}
	})
}

// A response, read to its end.
type response struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

func fetch(t testing.TB, method, url string) response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "gzip") // and do not decode behind our back
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return response{res, body, err}
}

func get(t testing.TB, url string) response {
	t.Helper()
	res := fetch(t, http.MethodGet, url)
	if res.err != nil {
		t.Fatalf("%s: %v", url, res.err)
	}
	return res
}

func TestHandlerSmallAnswers(t *testing.T) {
	key := vectorKey(t)
	url := serve(t, &substitute.Handler{Source: new(substitutetest.Memory), Key: key})
	for path, want := range map[string]string{
		"/nix-cache-info":   "StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n",
		"/nix-cache-info/":  "StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n",
		"/nix-cache-info?x": "StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n",
		"/signing-key.pub":  key.Public().String(),
	} {
		res := get(t, url+path)
		if res.StatusCode != 200 || string(res.body) != want || res.ContentLength != int64(len(want)) {
			t.Errorf("%s: status %d, length %d, %q", path, res.StatusCode, res.ContentLength, res.body)
		}
	}
	for _, path := range []string{"", "/", "/index.html"} {
		if res := get(t, url+path); res.StatusCode != 200 || !strings.Contains(string(res.body), "Guix") {
			t.Errorf("%q: status %d, %q", path, res.StatusCode, res.body)
		}
	}
}

func TestHandlerNarInfo(t *testing.T) {
	key := vectorKey(t)
	m, paths := filled("plain", "with.dots-and_more+signs=1", "source.tar.gz")
	url := serve(t, &substitute.Handler{Source: m, Key: key, TTL: time.Hour, NegativeTTL: 90 * time.Second})
	acl := substitute.NewACL(key.Public())
	wantURLs := map[string][]substitute.NarURL{
		"plain": {{URL: "nar/zstd/" + paths[0].Base(), Compression: "zstd", FileSize: -1},
			{URL: "nar/gzip/" + paths[0].Base(), Compression: "gzip", FileSize: -1}},
		"with.dots-and_more+signs=1": {{URL: "nar/zstd/" + paths[1].Hash() + "-with.dots-and_more%2Bsigns%3D1", Compression: "zstd", FileSize: -1},
			{URL: "nar/gzip/" + paths[1].Hash() + "-with.dots-and_more%2Bsigns%3D1", Compression: "gzip", FileSize: -1}},
		"source.tar.gz": {{URL: "nar/" + paths[2].Base(), Compression: "none", FileSize: 144}},
	}
	for range 2 { // signed, then from the cache
		for _, path := range paths {
			res := get(t, url+"/"+path.Hash()+".narinfo")
			if res.StatusCode != 200 || res.ContentLength != int64(len(res.body)) ||
				res.Header.Get("Cache-Control") != "max-age=3600" ||
				res.Header.Get("Content-Type") != "application/x-nix-narinfo;charset=utf-8" ||
				res.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s: status %d, headers %v", path, res.StatusCode, res.Header)
			}
			n, err := substitute.ParseNarInfo(res.body)
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Verify(acl); err != nil {
				t.Error(err)
			}
			if n.StorePath != path || fmt.Sprint(n.URLs) != fmt.Sprint(wantURLs[path.Name()]) {
				t.Errorf("%s: narinfo of %s with %v", path, n.StorePath, n.URLs)
			}
			for _, u := range n.URLs {
				if res := get(t, url+"/"+u.URL); res.StatusCode != 200 {
					t.Errorf("%s: status %d", u.URL, res.StatusCode)
				}
			}
		}
	}
	miss := get(t, url+"/"+substitutetest.Path("none", "").Hash()+".narinfo")
	if miss.StatusCode != 404 || miss.Header.Get("Cache-Control") != "max-age=90" {
		t.Errorf("missing: status %d, headers %v", miss.StatusCode, miss.Header)
	}
}

// What was collected is not offered any more, and what was rebuilt is signed anew.
func TestHandlerNarInfoFollowsSource(t *testing.T) {
	m, paths := filled("a")
	url := serve(t, &substitute.Handler{Source: m, Key: vectorKey(t)}) + "/" + paths[0].Hash() + ".narinfo"
	first := get(t, url)
	if again := get(t, url); !bytes.Equal(first.body, again.body) {
		t.Errorf("first %q, then %q", first.body, again.body)
	}
	m.Add(paths[0], substitutetest.FileNAR("other contents"), "")
	changed := get(t, url)
	n, err := substitute.ParseNarInfo(changed.body)
	if err != nil {
		t.Fatal(err)
	}
	if n.NarHash != sha256.Sum256(substitutetest.FileNAR("other contents")) {
		t.Errorf("narinfo of what was there before: %q", changed.body)
	}
	m.Remove(paths[0])
	if res := get(t, url); res.StatusCode != 404 {
		t.Errorf("after removal: status %d", res.StatusCode)
	}
}

func TestHandlerUnsigned(t *testing.T) {
	m, paths := filled("a")
	url := serve(t, &substitute.Handler{Source: m})
	n, err := substitute.ParseNarInfo(get(t, url+"/"+paths[0].Hash()+".narinfo").body)
	if err != nil {
		t.Fatal(err)
	}
	var untrusted *substitute.UntrustedError
	if err := n.Verify(nil); !errors.As(err, &untrusted) || untrusted.Reason != substitute.Unsigned {
		t.Errorf("error %v, want that it is unsigned", err)
	}
	if res := get(t, url+"/signing-key.pub"); res.StatusCode != 404 {
		t.Errorf("key of a server without one: status %d", res.StatusCode)
	}
}

func TestHandlerOffers(t *testing.T) {
	m, paths := filled("a")
	for _, test := range []struct {
		methods, want string
	}{
		{"", "zstd gzip"},
		{"gzip", "gzip"},
		{"none", "none"},
		{"zstd", "zstd gzip"},
		{"zstd none", "zstd none"},
		{"zstd lzip", "zstd lzip"},
		{"brotli", "gzip"},
	} {
		var c []substitute.Compression
		for _, method := range strings.Fields(test.methods) {
			c = append(c, substitute.Compression{Method: method, Level: 100})
		}
		url := serve(t, &substitute.Handler{Source: m, Compression: c})
		n, err := substitute.ParseNarInfo(get(t, url+"/"+paths[0].Hash()+".narinfo").body)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		sized := 0
		for _, u := range n.URLs {
			got = append(got, u.Compression)
			if u.FileSize >= 0 {
				sized++
			}
			if res := get(t, url+"/"+u.URL); res.StatusCode != 200 {
				t.Errorf("%q: %s: status %d", test.methods, u.URL, res.StatusCode)
			}
		}
		if strings.Join(got, " ") != test.want || sized != 0 && sized != len(got) {
			t.Errorf("%q: offers %v, %d with sizes", test.methods, got, sized)
		}
	}
}

// incompressible is text that compression makes little smaller.
func incompressible(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%x", sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)}))
	}
	return b.String()[:n]
}

func decompress(t *testing.T, method string, body []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(body)
	var err error
	switch method {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "lzip":
		r = lzip.NewReader(r, len(body)+8<<20)
	case "zstd":
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return out
}

// Every method is served, whatever is configured, for archives shorter and
// longer than what is held back.
func TestHandlerNAR(t *testing.T) {
	var m substitutetest.Memory
	url := serve(t, &substitute.Handler{Source: &m, Compression: []substitute.Compression{{Method: "gzip"}}})
	for _, size := range []int{0, 10, 64<<10 - 112, 64 << 10, 1 << 20} {
		contents := incompressible(size)
		info := m.AddFile("item", contents)
		for _, method := range []string{"none", "gzip", "lzip", "zstd"} {
			address := url + "/nar/" + method + "/" + info.StorePath.Base()
			if method == "none" {
				address = url + "/nar/" + info.StorePath.Base()
			}
			res := get(t, address)
			if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/x-nix-archive" || res.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s of %d bytes: status %d, headers %v", method, size, res.StatusCode, res.Header)
			}
			if got := decompress(t, method, res.body); !bytes.Equal(got, substitutetest.FileNAR(contents)) {
				t.Errorf("%s of %d bytes: got %d other bytes", method, size, len(got))
			}
			if known := method == "none" || len(res.body) <= 64<<10; known && res.ContentLength != int64(len(res.body)) {
				t.Errorf("%s of %d bytes: length %d of %d", method, size, res.ContentLength, len(res.body))
			}
		}
	}
}

// Archives can be below any address, baked or not, and only there.
func TestHandlerNarPath(t *testing.T) {
	m, paths := filled("plain", "source.tar.gz")
	for narPath, want := range map[string]string{"": "nar/", "/nar/": "nar/", "my/nars": "my/nars/", "a b+c": "a%20b%2Bc/"} {
		h := bakery(t, m, true)
		h.NarPath = narPath
		url := serve(t, h)
		for range 2 {
			for _, path := range paths {
				n, err := substitute.ParseNarInfo(get(t, url+"/"+path.Hash()+".narinfo").body)
				if err == nil {
					err = n.Verify(substitute.NewACL(h.Key.Public()))
				}
				if err != nil {
					t.Fatal(err)
				}
				for _, u := range n.URLs {
					rest, ok := strings.CutPrefix(u.URL, want)
					if res := get(t, url+"/"+u.URL); !ok || res.StatusCode != 200 {
						t.Errorf("%q: %q, status %d", narPath, u.URL, res.StatusCode)
					}
					if res := get(t, url+"/other/"+rest); res.StatusCode != 404 {
						t.Errorf("%q: other/%s: status %d", narPath, rest, res.StatusCode)
					}
				}
				info, _ := m.Info(t.Context(), path.Hash())
				if err := fetchOne(t, clientOf(t, url), info); err != nil {
					t.Error(err)
				}
			}
			untilBaked(t, h)
		}
	}
}

func TestHandlerHead(t *testing.T) {
	m, paths := filled("a")
	url := serve(t, &substitute.Handler{Source: m, Key: vectorKey(t)})
	for _, path := range []string{"/", "/nix-cache-info", "/signing-key.pub", "/" + paths[0].Hash() + ".narinfo", "/nar/" + paths[0].Base(), "/none"} {
		want := get(t, url+path)
		head := fetch(t, http.MethodHead, url+path)
		if head.StatusCode != want.StatusCode || head.ContentLength != want.ContentLength || len(head.body) != 0 {
			t.Errorf("%s: status %d, length %d, body %q; GET has %d, %d", path,
				head.StatusCode, head.ContentLength, head.body, want.StatusCode, want.ContentLength)
		}
	}
	if res := fetch(t, http.MethodPost, url+"/"); res.StatusCode != 405 || res.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: status %d", res.StatusCode)
	}
}

// A request for a part is one of GET only.
func TestHandlerHeadRange(t *testing.T) {
	m, paths := filled("a")
	url := serve(t, &substitute.Handler{Source: m}) + "/nar/" + paths[0].Base()
	want := get(t, url)
	req, _ := http.NewRequest(http.MethodHead, url, nil)
	req.Header.Set("Range", "bytes=8-")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || res.ContentLength != want.ContentLength || res.Header.Get("Content-Range") != "" {
		t.Errorf("status %d, length %d, headers %v", res.StatusCode, res.ContentLength, res.Header)
	}
}

// A client that takes nothing, not even of a small archive that becomes longer by compression, holds no encoder.
func TestHandlerStalledSmall(t *testing.T) {
	noise := make([]byte, 64<<10)
	rand.NewChaCha8([32]byte{}).Read(noise)
	for _, size := range []int{55 << 10, 56 << 10, 60 << 10, 64<<10 - 512, 64 << 10} {
		for _, method := range []string{"gzip", "lzip", "zstd"} {
			var m substitutetest.Memory
			info := m.AddFile("item", string(noise[:size]))
			h := &substitute.Handler{Source: &m, Encoders: 1, Spool: t.TempDir()}
			req := httptest.NewRequest(http.MethodGet, "/nar/"+method+"/"+info.StorePath.Base(), nil)
			stalled := &stalledWriter{ResponseRecorder: httptest.NewRecorder(), begun: make(chan struct{}), end: make(chan struct{})}
			ended := make(chan struct{})
			go func() { defer close(ended); h.ServeHTTP(stalled, req) }()
			<-stalled.begun
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			other := httptest.NewRecorder()
			h.ServeHTTP(other, req.WithContext(ctx))
			cancel()
			close(stalled.end)
			<-ended
			if other.Code != 200 {
				t.Fatalf("%d bytes by %s: another client gets status %d", size, method, other.Code)
			}
		}
	}
}

// A stalledWriter takes nothing before its end.
type stalledWriter struct {
	*httptest.ResponseRecorder
	once       sync.Once
	begun, end chan struct{}
}

func (w *stalledWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.begun) })
	<-w.end
	return w.ResponseRecorder.Write(p)
}

func TestHandlerNotFound(t *testing.T) {
	m, paths := filled("a")
	url := serve(t, &substitute.Handler{Source: m, Key: vectorKey(t)})
	base := paths[0].Base()
	absent := substitutetest.Path("absent", "")
	for _, path := range []string{
		"/nope", "/nar", "/nar/", "/.narinfo", "/x.narinfo", "/" + base + ".narinfo", "/nar/" + paths[0].Hash() + ".narinfo",
		"/" + absent.Hash() + ".narinfo", "/" + strings.Repeat("e", 32) + ".narinfo", "/" + strings.Repeat("0", 54) + ".narinfo",
		"/nar/" + absent.Base(), "/nar/zstd/" + absent.Base(), "/nar/lzma/" + base, "/nar/zstd/x/" + base,
		"/nar/" + base + "x", "/nar/gzip/" + paths[0].Hash() + "-other", "/nar/%00", "/nar/..", "/nar/%2e%2e%2f" + base,
		"/file/x/sha256/e", "/file/x/sha256/" + strings.Repeat("0", 54), "/file/x/sha256/" + strings.Repeat("0", 52),
		"/file/x/sha512/" + strings.Repeat("0", 52), "/file/%2e%2e/sha256/" + strings.Repeat("0", 52),
		"/log/" + base, "/log/x",
	} {
		res := get(t, url+path)
		if res.StatusCode != 404 || len(res.body) == 0 || res.ContentLength != int64(len(res.body)) {
			t.Errorf("%s: status %d, %q", path, res.StatusCode, res.body)
		}
	}
}

// A source that is out of order is neither "not found" nor silent.
func TestHandlerSourceFails(t *testing.T) {
	var log bytes.Buffer
	url := serve(t, &substitute.Handler{Source: broken{}, NegativeTTL: time.Hour, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	path := substitutetest.Path("a", "")
	for _, address := range []string{"/" + path.Hash() + ".narinfo", "/nar/" + path.Base()} {
		res := get(t, url+address)
		if res.StatusCode != 503 || res.Header.Get("Cache-Control") != "" {
			t.Errorf("%s: status %d, headers %v", address, res.StatusCode, res.Header)
		}
	}
	if !strings.Contains(log.String(), errBroken.Error()) {
		t.Errorf("log %q does not have the cause", log.String())
	}
}

// wrongAnswer is about another item than the one asked for.
type wrongAnswer struct{ substitute.Source }

func (s wrongAnswer) Info(ctx context.Context, hashPart string) (*substitute.Info, error) {
	return &substitute.Info{StorePath: substitutetest.Path("other", "")}, nil
}

func TestHandlerWrongAnswer(t *testing.T) {
	m, paths := filled("a")
	url := serve(t, &substitute.Handler{Source: wrongAnswer{m}})
	if res := get(t, url+"/"+paths[0].Hash()+".narinfo"); res.StatusCode != 503 {
		t.Errorf("status %d, %q", res.StatusCode, res.body)
	}
}

// Whatever is wrong with an archive, and wherever, no client gets a complete
// response.
func TestHandlerNeverServesWrongBytes(t *testing.T) {
	for _, size := range []int{100, 300_000} {
		good := substitutetest.FileNAR(incompressible(size))
		flipped := func(at int) []byte {
			b := bytes.Clone(good)
			b[at] ^= 1
			return b
		}
		for name, archive := range map[string][]byte{
			"empty":         {},
			"truncated":     good[:len(good)-1],
			"first byte":    flipped(0),
			"middle":        flipped(len(good) / 2),
			"last byte":     flipped(len(good) - 1),
			"one more byte": append(bytes.Clone(good), 0),
		} {
			var m substitutetest.Memory
			info := m.Add(substitutetest.Path("item", name), good, "")
			m.AddInfo(info, archive)
			url := serve(t, &substitute.Handler{Source: &m})
			for _, method := range []string{"", "gzip/", "zstd/"} {
				res := fetch(t, http.MethodGet, url+"/nar/"+method+info.StorePath.Base())
				if res.StatusCode == 200 && res.err == nil {
					t.Errorf("%s of %d bytes, %q: a complete response of %d bytes", name, size, method, len(res.body))
				}
				if size < 1000 && res.StatusCode != 503 {
					t.Errorf("%s of %d bytes, %q: status %d, want 503", name, size, method, res.StatusCode)
				}
			}
		}
	}
}

func TestHandlerFile(t *testing.T) {
	var m substitutetest.Memory
	contents := incompressible(100_000)
	sum := sha256.Sum256([]byte(contents))
	path := substitute.FlatPath("tar-1.0.tar.gz", sum)
	m.Add(path, substitutetest.FileNAR(contents), "")
	url := serve(t, &substitute.Handler{Source: &m})
	address := url + "/file/tar-1.0.tar.gz/sha256/" + substitute.EncodeBase32(sum[:])
	res := get(t, address)
	if res.StatusCode != 200 || string(res.body) != contents || res.ContentLength != int64(len(contents)) ||
		res.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("status %d, %d bytes, headers %v", res.StatusCode, len(res.body), res.Header)
	}
	if head := fetch(t, http.MethodHead, address); head.ContentLength != int64(len(contents)) {
		t.Errorf("HEAD: length %d", head.ContentLength)
	}

	// The item is there, but is not what its name promises.
	m.Add(path, substitutetest.FileNAR("other"), "")
	if res := fetch(t, http.MethodGet, address); res.StatusCode == 200 {
		t.Errorf("other contents served: %q", res.body)
	}
	var dir bytes.Buffer
	w := nar.NewWriter(&dir)
	if err := errors.Join(w.WriteHeader(&nar.Header{Mode: nar.ModeDirectory}), w.Close()); err != nil {
		t.Fatal(err)
	}
	m.Add(path, dir.Bytes(), "")
	if res := fetch(t, http.MethodGet, address); res.StatusCode != 404 {
		t.Errorf("directory: status %d", res.StatusCode)
	}
}

func TestHandlerLog(t *testing.T) {
	drvs := map[string]substitute.StorePath{}
	dir := fstest.MapFS{}
	var m substitutetest.Memory
	for _, ending := range []string{".gz", ".bz2", ""} {
		drv := substitutetest.Path("build"+ending+".drv", "log")
		dir[drv.Base()[:2]+"/"+drv.Base()[2:]+ending] = &fstest.MapFile{Data: []byte("log " + ending)}
		drvs[ending] = drv
	}
	out := substitutetest.Path("build", "out")
	m.Add(out, substitutetest.FileNAR(""), drvs[".gz"])
	orphan := m.AddFile("orphan", "").StorePath
	url := serve(t, &substitute.Handler{Source: &m, Log: substitute.LogDir(dir, &m)})

	for _, test := range []struct {
		item           substitute.StorePath
		body, encoding string
	}{
		{drvs[".gz"], "log .gz", "gzip"},
		{out, "log .gz", "gzip"},
		{drvs[".bz2"], "log .bz2", ""},
		{drvs[""], "log ", ""},
	} {
		res := get(t, url+"/log/"+test.item.Base())
		if res.StatusCode != 200 || string(res.body) != test.body || res.ContentLength != int64(len(test.body)) ||
			res.Header.Get("Content-Encoding") != test.encoding {
			t.Errorf("%s: status %d, %q, headers %v", test.item, res.StatusCode, res.body, res.Header)
		}
	}
	for _, missing := range []substitute.StorePath{orphan, substitutetest.Path("x.drv", ""), substitutetest.Path("x", "")} {
		if res := get(t, url+"/log/"+missing.Base()); res.StatusCode != 404 {
			t.Errorf("%s: status %d", missing, res.StatusCode)
		}
	}
}

// guix substitute writes up to a thousand requests before it reads an answer.
func TestHandlerPipelined(t *testing.T) {
	m, paths := filled("a", "b")
	url := serve(t, &substitute.Handler{Source: m, Key: vectorKey(t)})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const count = 1000
	var requests bytes.Buffer
	for i := range count {
		fmt.Fprintf(&requests, "GET /%s.narinfo HTTP/1.1\r\nHost: localhost\r\nUser-Agent: GNU Guile\r\n\r\n", paths[i%2].Hash())
	}
	var written sync.WaitGroup
	written.Go(func() {
		if _, err := conn.Write(requests.Bytes()); err != nil {
			t.Error(err)
		}
	})
	r := bufio.NewReader(conn)
	for i := range count {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(body, []byte("StorePath: "+paths[i%2]+"\n")) {
			t.Fatalf("answer %d is %q", i, body)
		}
	}
	written.Wait()
}

// endless writes until it is stopped, and says that it was.
type endless struct {
	*substitutetest.Memory
	stopped chan error
}

func (s endless) WriteNAR(ctx context.Context, w io.Writer, info *substitute.Info) (err error) {
	defer func() { s.stopped <- err }()
	for {
		if _, err := w.Write(make([]byte, 32<<10)); err != nil {
			return err
		}
	}
}

// A client that leaves stops the work, and is no failure to be logged.
func TestHandlerClientLeaves(t *testing.T) {
	m, paths := filled("a")
	info, err := m.Info(t.Context(), paths[0].Hash())
	if err != nil {
		t.Fatal(err)
	}
	huge := *info
	huge.NarSize = 1 << 40
	m.AddInfo(&huge, nil)
	source := endless{m, make(chan error, 1)}
	var logged atomic.Int64
	handler := &substitute.Handler{Source: source, Logger: slog.New(countingLog{&logged})}
	server := httptest.NewServer(handler)
	defer server.Close()

	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/nar/"+paths[0].Base(), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	leave()
	res.Body.Close()
	if err := <-source.stopped; err == nil {
		t.Error("WriteNAR ended without an error")
	}
	server.Close() // waits for the handler
	if n := logged.Load(); n != 0 {
		t.Errorf("%d messages logged", n)
	}
}

type countingLog struct{ n *atomic.Int64 }

func (c countingLog) Enabled(context.Context, slog.Level) bool  { return true }
func (c countingLog) Handle(context.Context, slog.Record) error { c.n.Add(1); return nil }
func (c countingLog) WithAttrs([]slog.Attr) slog.Handler        { return c }
func (c countingLog) WithGroup(string) slog.Handler             { return c }

// FuzzPath: no address brings down the handler, and no answer of 200 is empty.
func FuzzPath(f *testing.F) {
	m, paths := filled("a")
	handler := &substitute.Handler{Source: m, Key: vectorKey(f), Log: substitute.LogDir(fstest.MapFS{}, m)}
	for _, path := range []string{"/", "/nix-cache-info", "/" + paths[0].Hash() + ".narinfo", "/nar/zstd/" + paths[0].Base(),
		"/file/a/sha256/" + strings.Repeat("0", 52), "/log/" + paths[0].Base(), "//", "/nar/..", "/\x00.narinfo"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.URL.Path = path
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		if w.Code != 200 && w.Code != 404 || w.Body.Len() == 0 {
			t.Errorf("%q: status %d, %d bytes", path, w.Code, w.Body.Len())
		}
	})
}

// discard is a ResponseWriter that costs nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func BenchmarkHandlerNarInfo(b *testing.B) {
	m, paths := filled("a", "b", "c")
	request := httptest.NewRequest(http.MethodGet, "/"+paths[2].Hash()+".narinfo", nil)
	b.Run("warm", func(b *testing.B) {
		handler := &substitute.Handler{Source: m, Key: vectorKey(b)}
		b.ReportAllocs()
		for b.Loop() {
			handler.ServeHTTP(discard{make(http.Header)}, request)
		}
	})
	b.Run("first touch", func(b *testing.B) {
		key := vectorKey(b)
		b.ReportAllocs()
		for b.Loop() {
			handler := &substitute.Handler{Source: m, Key: key}
			handler.ServeHTTP(discard{make(http.Header)}, request)
		}
	})
}

func BenchmarkHandlerNAR(b *testing.B) {
	var m substitutetest.Memory
	info := m.AddFile("item", incompressible(4<<20))
	handler := &substitute.Handler{Source: &m}
	for _, method := range []string{"", "gzip/", "zstd/"} {
		b.Run("method="+method, func(b *testing.B) {
			request := httptest.NewRequest(http.MethodGet, "/nar/"+method+info.StorePath.Base(), nil)
			b.SetBytes(info.NarSize)
			b.ReportAllocs()
			for b.Loop() {
				handler.ServeHTTP(discard{make(http.Header)}, request)
			}
		})
	}
}
