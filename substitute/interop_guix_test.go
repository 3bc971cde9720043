package substitute_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// compressions reads the names of methods.
func compressions(methods string) (all []substitute.Compression) {
	for _, method := range strings.Fields(methods) {
		all = append(all, substitute.Compression{Method: method})
	}
	return all
}

// stockFetches has "guix substitute" fetch items, and checks that what it unpacks has the archives
// that were sent. It returns what the program says.
func stockFetches(t *testing.T, config, url string, infos ...*substitute.Info) (trace string) {
	t.Helper()
	dir := t.TempDir()
	var requests, want strings.Builder
	for _, info := range infos {
		fmt.Fprintf(&requests, "substitute %s %s\n", info.StorePath, filepath.Join(dir, info.StorePath.Base()))
		fmt.Fprintf(&want, "success %s %d\n", info.NarHash, info.NarSize)
	}
	got, trace := runSubstituter(t, config, "--substitute", []string{url}, requests.String())
	if got != want.String() {
		t.Errorf("replies %q\nwant    %q\n%s", got, &want, trace)
	}
	for _, info := range infos {
		path := filepath.Join(dir, info.StorePath.Base())
		sum := sha256.New()
		if err := nar.Dump(sum, path); err != nil || substitute.Hash(sum.Sum(nil)) != info.NarHash {
			t.Errorf("%s: the archive of what was unpacked differs, %v", info.StorePath, err)
		}
		if err := nar.Remove(path); err != nil {
			t.Error(err)
		}
	}
	return trace
}

// The stock client fetches each item under each compression and several, while they are compressed
// on demand and when they are baked.
func TestGuixSubstituteFetch(t *testing.T) {
	guixtest.Require(t)
	m, infos := sampleItems(t)
	key := vectorKey(t)
	config := configDir(t, key.Public())
	for _, methods := range []string{"", "none", "gzip", "lzip", "zstd", "zstd none", "gzip lzip zstd none"} {
		t.Run("methods="+methods, func(t *testing.T) {
			h := bakery(t, m, true)
			h.Compression, h.Baker.Cache.Compression = compressions(methods), compressions(methods)
			url := serve(t, h)
			stockFetches(t, config, url, infos...)
			untilBaked(t, h)
			for _, info := range infos {
				if _, err := h.Baker.Cache.Info(t.Context(), info.StorePath.Hash()); err != nil {
					t.Errorf("not baked: %v", err)
				}
			}
			stockFetches(t, config, url, infos...)
		})
	}
}

// Responses of which the length is known and others, which come in chunks, are both understood.
func TestGuixSubstituteChunked(t *testing.T) {
	guixtest.Require(t)
	var m substitutetest.Memory
	small := m.AddFile("small", "text")
	key := vectorKey(t)
	config := configDir(t, key.Public())
	for _, method := range []string{"none", "gzip", "lzip", "zstd"} {
		url := serve(t, &substitute.Handler{Source: &m, Key: key, Compression: compressions(method)})
		dir := "/nar/" + method + "/"
		if method == "none" {
			dir = "/nar/"
		}
		size := 8_000_000 // not ready before its reader looks
		if method == "lzip" {
			size = 800_000
		}
		large := m.AddFile("large-"+method, incompressible(size))
		for _, info := range []*substitute.Info{small, large} {
			chunked := method != "none" && info == large
			if res := get(t, url+dir+info.StorePath.Base()); (res.ContentLength < 0) != chunked {
				t.Errorf("%s of %s: length %d", method, info.StorePath.Name(), res.ContentLength)
			}
			stockFetches(t, config, url, info)
		}
	}
}

// A Source that makes the archive of one file, of any size, while it is asked for.
type largeFile struct {
	info *substitute.Info
	size int64
}

func newLargeFile(t *testing.T, name string, size int64) *largeFile {
	t.Helper()
	f := &largeFile{&substitute.Info{StorePath: substitutetest.Path(name, "")}, size}
	sum := sha256.New()
	counted := &countingWriter{w: sum}
	if err := f.WriteNAR(t.Context(), counted, f.info); err != nil {
		t.Fatal(err)
	}
	f.info.NarHash, f.info.NarSize = substitute.Hash(sum.Sum(nil)), counted.n
	return f
}

func (f *largeFile) Info(_ context.Context, hashPart string) (*substitute.Info, error) {
	if hashPart != f.info.StorePath.Hash() {
		return nil, substitute.ErrNotFound
	}
	return f.info, nil
}

// WriteNAR writes blocks that cannot be compressed, except that they come again.
func (f *largeFile) WriteNAR(ctx context.Context, w io.Writer, _ *substitute.Info) error {
	out := nar.NewWriter(w)
	if err := out.WriteHeader(&nar.Header{Mode: nar.ModeRegular, Size: f.size}); err != nil {
		return err
	}
	block := []byte(incompressible(1 << 20))
	for left := f.size; left > 0 && ctx.Err() == nil; left -= int64(len(block)) {
		if _, err := out.Write(block[:min(left, int64(len(block)))]); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return out.Close()
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// A file of 200 MB arrives, as it is and compressed.
func TestGuixSubstituteLargeFile(t *testing.T) {
	guixtest.Require(t)
	src := newLargeFile(t, "large", 200_000_000)
	key := vectorKey(t)
	config := configDir(t, key.Public())
	for _, method := range []string{"none", "zstd"} {
		url := serve(t, &substitute.Handler{Source: src, Key: key, Compression: compressions(method), Spool: t.TempDir()})
		stockFetches(t, config, url, src.info)
	}
}

// A directory of 10,000 entries arrives.
func TestGuixSubstituteManyEntries(t *testing.T) {
	guixtest.Require(t)
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	headers := []nar.Header{{Mode: nar.ModeDirectory}}
	for i := range 10_000 {
		hdr := nar.Header{Path: fmt.Sprintf("%05d", i), Mode: nar.ModeRegular, Size: int64(i % 3)}
		switch i % 10 {
		case 1:
			hdr.Mode = nar.ModeExecutable
		case 2:
			hdr = nar.Header{Path: hdr.Path, Mode: nar.ModeSymlink, Target: "00000"}
		case 3:
			hdr = nar.Header{Path: hdr.Path, Mode: nar.ModeDirectory}
		}
		headers = append(headers, hdr)
	}
	for _, hdr := range headers {
		if err := w.WriteHeader(&hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, hdr.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var m substitutetest.Memory
	info := m.Add(substitutetest.Path("many", ""), b.Bytes(), "")
	key := vectorKey(t)
	stockFetches(t, configDir(t, key.Public()), serve(t, &substitute.Handler{Source: &m, Key: key}), info)
}

// A countingListener knows how many connections there have been.
type countingListener struct {
	net.Listener
	count atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.count.Add(1)
	}
	return c, err
}

// The stock client gets everything over connections that it keeps: a hundred archives need
// no more of them than one.
func TestGuixSubstituteKeepsAlive(t *testing.T) {
	guixtest.Require(t)
	var m substitutetest.Memory
	var infos []*substitute.Info
	for i := range 100 {
		infos = append(infos, m.AddFile("item", fmt.Sprint(i)))
	}
	key := vectorKey(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counting := &countingListener{Listener: l}
	runServer(t, &substitute.Server{Handler: &substitute.Handler{Source: &m, Key: key}}, counting)
	stockFetches(t, configDir(t, key.Public()), "http://"+l.Addr().String(), infos...)
	if n := counting.count.Load(); n > 2 {
		t.Errorf("%d connections for 100 archives", n)
	}
}

// What the stock client finds wrong with altered narinfos is what we find.
func TestGuixSubstituteRefuses(t *testing.T) {
	guixtest.Require(t)
	m, paths := filled("plain")
	key := vectorKey(t)
	good := serve(t, &substitute.Handler{Source: m, Key: key})
	text := string(get(t, good+"/"+paths[0].Hash()+".narinfo").body)
	config := configDir(t, key.Public())
	acl := substitute.NewACL(key.Public())
	for name, change := range map[string]*strings.Replacer{
		"unchanged":      strings.NewReplacer(),
		"other size":     strings.NewReplacer("NarSize: ", "NarSize: 1"),
		"other host":     strings.NewReplacer("Signature: 1;", "Signature: 1;x"),
		"other version":  strings.NewReplacer("Signature: 1;", "Signature: 2;"),
		"no signature":   strings.NewReplacer("Signature: ", "Nothing: "),
		"no base64":      strings.NewReplacer("Signature: 1;", "Signature: 1;x;!"),
		"more in it":     strings.NewReplacer("Signature: 1;", "System: x\nSignature: 1;"),
		"other deriver":  strings.NewReplacer("Signature: 1;", "Deriver: "+paths[0].Base()+".drv\nSignature: 1;"),
		"other URL":      strings.NewReplacer("URL: nar/zstd", "URL: nar/zst"),
		"cut short":      strings.NewReplacer("=\nURL", "\nURL", "==\nURL", "\nURL"),
		"other key type": strings.NewReplacer("Signature: 1;", "Signature: 1;x;"),
	} {
		altered := change.Replace(text)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, paths[0].Hash()+".narinfo"), []byte(altered), 0o644); err != nil {
			t.Fatal(err)
		}
		reply, trace := runSubstituter(t, config, "--query", []string{"file://" + dir}, "have "+string(paths[0])+"\n")
		theirs := strings.HasPrefix(reply, string(paths[0]))
		n, err := substitute.ParseNarInfo([]byte(altered))
		if err == nil {
			err = n.Verify(acl)
		}
		if theirs != (err == nil) {
			t.Errorf("%s: they say %q, we %v\n%s\n%s", name, reply, err, altered, trace)
		}
	}
}
