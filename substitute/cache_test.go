package substitute_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
