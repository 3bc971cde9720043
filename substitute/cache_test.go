package substitute_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// filledCache returns a cache and the items in it.
func filledCache(t *testing.T) (*substitute.Cache, *substitutetest.Memory, []substitute.StorePath) {
	t.Helper()
	memory := new(substitutetest.Memory)
	dep := memory.AddFile("dependency", "what the other one needs")
	top := memory.AddFile("top+1.0", strings.Repeat("a longer text ", 9000), dep.StorePath)
	cache := &substitute.Cache{Dir: t.TempDir(), Key: substitute.GenerateKey()}
	var paths []substitute.StorePath
	for _, info := range []*substitute.Info{dep, top} {
		if err := cache.Add(t.Context(), memory, info); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, info.StorePath)
	}
	return cache, memory, paths
}

func TestCacheIsSource(t *testing.T) {
	cache, _, paths := filledCache(t)
	substitutetest.TestSource(t, cache, paths)
}

// The directory must be one that any web server can serve: signed narinfos whose
// URLs are files in it.
func TestCacheIsStatic(t *testing.T) {
	cache, memory, paths := filledCache(t)
	for _, path := range paths {
		text, err := os.ReadFile(filepath.Join(cache.Dir, path.Hash()+".narinfo"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := substitute.ParseNarInfo(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Verify(substitute.NewACL(cache.Key.Public())); err != nil {
			t.Error(err)
		}
		name := strings.ReplaceAll(n.URLs[0].URL, "%2B", "+")
		if st, err := os.Stat(filepath.Join(cache.Dir, name)); err != nil || st.Size() != n.URLs[0].FileSize {
			t.Errorf("%s: %v, want a file of %d bytes", name, err, n.URLs[0].FileSize)
		}
		want, err := memory.Info(t.Context(), path.Hash())
		if err != nil || want.NarHash != n.NarHash {
			t.Errorf("hash %v, want %v (%v)", n.NarHash, want.NarHash, err)
		}
	}
	if _, err := os.Stat(filepath.Join(cache.Dir, "nix-cache-info")); err != nil {
		t.Error(err)
	}
}

// liar is a source whose archives are not what it says of them.
type liar struct{ substitute.Source }

func (l liar) WriteNAR(ctx context.Context, w io.Writer, info *substitute.Info) error {
	var b bytes.Buffer
	if err := l.Source.WriteNAR(ctx, &b, info); err != nil {
		return err
	}
	b.Bytes()[b.Len()/2] ^= 1
	_, err := b.WriteTo(w)
	return err
}

func TestCacheRefusesWrongArchive(t *testing.T) {
	memory := new(substitutetest.Memory)
	info := memory.AddFile("item", "contents")
	cache := &substitute.Cache{Dir: t.TempDir()}
	if err := cache.Add(t.Context(), liar{memory}, info); err == nil {
		t.Fatal("a wrong archive was added")
	}
	if _, err := cache.Info(t.Context(), info.StorePath.Hash()); !errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("info: %v, want ErrNotFound", err)
	}
	left, err := filepath.Glob(filepath.Join(cache.Dir, "nar", "zstd", "*"))
	hidden, _ := filepath.Glob(filepath.Join(cache.Dir, "nar", "zstd", ".*"))
	if len(left)+len(hidden) != 0 || err != nil {
		t.Errorf("left over: %q %q", left, hidden)
	}
	if err := cache.Add(t.Context(), memory, info); err != nil {
		t.Errorf("the right one is not added after that: %v", err)
	}
}

// When the clock steps ahead, what is evicted can still be had from where it came; when it was ahead
// and is set back, what seems to be from the future begins to age.
func TestCacheEvictClock(t *testing.T) {
	cache, memory, paths := filledCache(t)
	limits := substitute.EvictOptions{MaxAge: 24 * time.Hour, MaxSize: 1}
	used := func(when time.Time) {
		t.Helper()
		for _, path := range paths {
			if err := os.Chtimes(filepath.Join(cache.Dir, path.Hash()+".narinfo"), when, when); err != nil {
				t.Fatal(err)
			}
		}
	}
	temp := filepath.Join(cache.Dir, ".tmp-abandoned")
	if err := os.WriteFile(temp, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ahead := time.Now().Add(1000 * time.Hour)
	os.Chtimes(temp, ahead, ahead)
	used(ahead)
	adding, err := os.Open(cache.Dir) // as somebody does whose files are not to be touched
	if err != nil {
		t.Fatal(err)
	}
	defer adding.Close()
	if err := syscall.Flock(int(adding.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if done, err := cache.Evict(t.Context(), limits); err != nil || done.LeftItems != len(paths) {
		t.Errorf("used in the future: %+v, %v", done, err)
	}
	if _, err := os.Stat(temp); err == nil {
		t.Error("what was abandoned in the future is still there")
	}
	limits.Grace = time.Nanosecond
	if done, err := cache.Evict(t.Context(), limits); err != nil || done.LeftItems != 0 {
		t.Errorf("they do not age: %+v, %v", done, err)
	}
	for _, path := range paths {
		info, err := memory.Info(t.Context(), path.Hash())
		if err == nil {
			err = cache.Add(t.Context(), memory, info)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	used(time.Now().Add(-1000 * time.Hour)) // the clock steps ahead by as much
	h := &substitute.Handler{Source: memory, Key: vectorKey(t), Baker: &substitute.Baker{Cache: cache, Source: memory}}
	url := serve(t, h)
	if done, err := cache.Evict(t.Context(), limits); err != nil || done.LeftItems != 0 {
		t.Errorf("after a step ahead: %+v, %v", done, err)
	}
	info, _ := memory.Info(t.Context(), paths[0].Hash())
	if err := fetchOne(t, clientOf(t, url), info); err != nil {
		t.Error(err)
	}
}

// A narinfo whose archives have gone, by a crash or somebody's hand, is no reason not to add them.
func TestCacheHeals(t *testing.T) {
	cache, memory, paths := filledCache(t)
	info, err := memory.Info(t.Context(), paths[0].Hash())
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(cache.Dir, "nar", "gzip", paths[0].Base())
	if err := os.Remove(archive); err != nil {
		t.Fatal(err)
	}
	if err := cache.Add(t.Context(), memory, info); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(archive); err != nil {
		t.Error(err)
	}
}

// A narinfo none of whose archives is there, whenever they have gone, is not an offer: it would lead to nothing.
func TestCacheWithoutArchives(t *testing.T) {
	cache, memory, paths := filledCache(t)
	store := new(substitutetest.Memory) // has only one of them
	baker := &substitute.Baker{Cache: cache, Source: store}
	url := serve(t, &substitute.Handler{Source: store, Key: cache.Key, Baker: baker})
	info, err := memory.Info(t.Context(), paths[1].Hash())
	if err != nil {
		t.Fatal(err)
	}
	if sized := get(t, url+"/"+paths[1].Hash()+".narinfo"); !strings.Contains(string(sized.body), "FileSize") {
		t.Fatalf("not offered as it is baked: %+v", sized)
	}
	remove := func(methods ...string) {
		t.Helper()
		for _, m := range methods {
			if err := os.Remove(filepath.Join(cache.Dir, "nar", m, paths[1].Base())); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask := func(what string, want int) {
		t.Helper()
		for _, url := range []string{url, serve(t, &substitute.Handler{Source: store, Cache: &substitute.Cache{Dir: cache.Dir}})} {
			if res := get(t, url+what); res.StatusCode != want {
				t.Errorf("%s: status %d, want %d", what, res.StatusCode, want)
			}
		}
	}
	narinfo, byGzip := "/"+paths[1].Hash()+".narinfo", "/nar/gzip/"+paths[1].Base()
	remove("gzip") // is made of the other
	ask(byGzip, 200)
	ask(narinfo, 200)
	remove("zstd")
	ask(byGzip, 404)
	ask(narinfo, 404)
	var archive bytes.Buffer
	if err := memory.WriteNAR(t.Context(), &archive, info); err != nil {
		t.Fatal(err)
	}
	store.Add(info.StorePath, archive.Bytes(), info.Deriver, info.References...)
	ask(narinfo, 200)
	ask(byGzip, 200)
	bakeAll(t, baker)
	if sized := get(t, url+narinfo); !strings.Contains(string(sized.body), "FileSize") {
		t.Errorf("not baked again: %+v", sized)
	}
}

// An archive that is missing while its narinfo is there is baked again as soon as somebody asks for it.
func TestBakerHeals(t *testing.T) {
	cache, memory, paths := filledCache(t)
	baker := &substitute.Baker{Cache: cache, Source: memory}
	url := serve(t, &substitute.Handler{Source: memory, Key: cache.Key, Baker: baker})
	archive := filepath.Join(cache.Dir, "nar", "gzip", paths[1].Base())
	if err := os.Remove(archive); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"lzip", "zstd"} { // the one is not offered, the other there
		if res := get(t, url+"/nar/"+method+"/"+paths[1].Base()); res.StatusCode != 200 || baker.Pending() != 0 {
			t.Errorf("%s: status %d, and %d items are to be baked", method, res.StatusCode, baker.Pending())
		}
	}
	if res := get(t, url+"/nar/gzip/"+paths[1].Base()); res.StatusCode != 200 || baker.Pending() != 1 {
		t.Errorf("status %d, and %d items are to be baked", res.StatusCode, baker.Pending())
	}
	bakeAll(t, baker)
	if _, err := os.Stat(archive); err != nil {
		t.Error(err)
	}
}

// bakeAll has the baker bake what is wanted of it.
func bakeAll(t *testing.T, baker *substitute.Baker) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { baker.Run(ctx) })
	defer running.Wait()
	defer cancel()
	if err := baker.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// What only the cache has any more is baked of what it has: when one of its forms is missing, or it was signed with
// another key.
func TestBakerHealsFromCache(t *testing.T) {
	cache, _, paths := filledCache(t)
	cache = &substitute.Cache{Dir: cache.Dir, Key: substitute.GenerateKey()}
	baker := &substitute.Baker{Cache: cache, Source: new(substitutetest.Memory)}
	for _, method := range []string{"gzip", "zstd"} {
		archive := filepath.Join(cache.Dir, "nar", method, paths[0].Base())
		if err := os.Remove(archive); err != nil {
			t.Fatal(err)
		}
		info, err := cache.Info(t.Context(), paths[0].Hash())
		if err != nil {
			t.Fatal(err)
		}
		baker.Want(info)
		bakeAll(t, baker)
		if _, err := os.Stat(archive); err != nil {
			t.Error(err)
		}
	}
	client := clientOf(t, "file://"+cache.Dir)
	client.ACL = substitute.NewACL(cache.Key.Public())
	substitutetest.TestSource(t, client, paths[:1])
}

// What was baked by zstd only, and is not in the store any more, can be had by those who cannot read zstd.
func TestCacheOfZstdOnly(t *testing.T) {
	memory := new(substitutetest.Memory)
	info := memory.AddFile("item", strings.Repeat("text", 100_000))
	cache := &substitute.Cache{Dir: t.TempDir(), Compression: []substitute.Compression{{Method: "zstd"}}, Key: vectorKey(t)}
	if err := cache.Add(t.Context(), memory, info); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := memory.WriteNAR(t.Context(), &archive, info); err != nil {
		t.Fatal(err)
	}
	url := serve(t, &substitute.Handler{Source: new(substitutetest.Memory), Cache: cache, Key: cache.Key})
	if res := get(t, url+"/"+info.StorePath.Hash()+".narinfo"); !strings.Contains(string(res.body), "Compression: none") {
		t.Errorf("offer %+v", res)
	}
	if res := get(t, url+"/nar/"+info.StorePath.Base()); res.StatusCode != 200 || !bytes.Equal(res.body, archive.Bytes()) {
		t.Errorf("status %d, %d bytes, want %d", res.StatusCode, len(res.body), archive.Len())
	}
}

// An item one of whose archives cannot have its name is not offered, and nothing of it is left but what
// clients do not look for.
func TestCacheNameTaken(t *testing.T) {
	memory := new(substitutetest.Memory)
	info := memory.AddFile("item", strings.Repeat("text", 1000))
	cache := &substitute.Cache{Dir: t.TempDir(), Key: vectorKey(t)}
	taken := filepath.Join(cache.Dir, "nar", "gzip", info.StorePath.Base())
	if err := os.MkdirAll(taken, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := cache.Add(t.Context(), memory, info); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want one that says what is in the way", err)
	}
	if _, err := cache.Info(t.Context(), info.StorePath.Hash()); !errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("offered: %v", err)
	}
	err := filepath.WalkDir(cache.Dir, func(name string, _ fs.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(name), ".tmp-") {
			t.Errorf("left: %s", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Two that share a directory, while a third evicts: whatever is offered can be fetched, or, if it was
// evicted at that moment, be had from where it came.
func TestCacheShared(t *testing.T) {
	memory := new(substitutetest.Memory)
	var infos []*substitute.Info
	for i := range 40 {
		infos = append(infos, memory.AddFile("item", strings.Repeat(strconv.Itoa(i), 20_000)))
	}
	dir, key := t.TempDir(), vectorKey(t)
	ctx, cancel := context.WithCancel(t.Context())
	var running, evicting sync.WaitGroup
	evicting.Go(func() {
		c := &substitute.Cache{Dir: dir}
		for ctx.Err() == nil {
			if _, err := c.Evict(ctx, substitute.EvictOptions{MaxSize: 1, Grace: time.Nanosecond}); err != nil && ctx.Err() == nil {
				t.Errorf("evict: %v", err)
			}
		}
	})
	for range 2 {
		c := &substitute.Cache{Dir: dir, Key: key}
		running.Go(func() {
			for _, info := range infos {
				if err := c.Add(ctx, memory, info); err != nil {
					t.Errorf("add: %v", err)
				}
				sum := sha256.New()
				err := substitute.First(c, memory).WriteNAR(ctx, sum, info)
				if err != nil || substitute.Hash(sum.Sum(nil)) != info.NarHash {
					t.Errorf("write: %v", err)
				}
			}
		})
	}
	running.Wait()
	cancel()
	evicting.Wait()
	e := &substitute.Exporter{To: substitute.Directory(dir), Key: key}
	if err := e.Export(t.Context(), memory, infos[0].StorePath, infos[39].StorePath); err != nil {
		t.Error(err)
	}
	substitutetest.TestSource(t, clientOf(t, "file://"+dir), []substitute.StorePath{infos[0].StorePath, infos[39].StorePath})
}

// metric is one of what a handler counts.
func metric(t *testing.T, h *substitute.Handler, name string) (value int) {
	t.Helper()
	var metrics strings.Builder
	if err := h.WriteMetrics(&metrics); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(metrics.String(), "\nguixci_substitute_"+name+" ")
	if n, err := fmt.Sscan(rest, &value); n != 1 {
		t.Fatalf("metrics %s: %v", &metrics, err)
	}
	return value
}

// What another key has signed is not there for who has a new one: neither a cache nor a handler goes on offering
// what clients may not accept any more.
func TestCacheNewKey(t *testing.T) {
	old, memory, paths := filledCache(t)
	path := paths[1]
	info, err := memory.Info(t.Context(), path.Hash())
	if err != nil {
		t.Fatal(err)
	}
	cache := &substitute.Cache{Dir: old.Dir, Key: substitute.GenerateKey()}
	// fetch checks that a handler with the cache offers the item with the new signature, and returns how many
	// archives it has sent as they were kept.
	fetch := func() (sent int) {
		t.Helper()
		nothing := new(substitutetest.Memory) // the store has collected it
		h := &substitute.Handler{Source: nothing, Cache: cache, Key: cache.Key}
		client := clientOf(t, serve(t, h))
		client.ACL = substitute.NewACL(cache.Key.Public())
		if err := fetchOne(t, client, info); err != nil {
			t.Error(err)
		}
		return metric(t, h, "baked_nars_total")
	}
	if sent := fetch(); sent != 1 {
		t.Errorf("%d archives were sent as they were kept", sent)
	}
	if err := cache.Add(t.Context(), memory, info); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(cache.Dir, path.Hash()+".narinfo"))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := substitute.ParseNarInfo(text); err != nil || !n.Signature.Key.Equal(cache.Key.Public()) {
		t.Errorf("narinfo %q, %v", text, err)
	}
	if sent := fetch(); sent != 1 {
		t.Errorf("%d archives were sent as they were kept", sent)
	}
}
