package substitute

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// An item one of whose archives is taken away at the moment when it appears does not appear: nobody is sent to what
// is not there. To add it again works.
func TestCacheEvictedMeanwhile(t *testing.T) {
	key := testKey(t, "ed25519")
	var archive bytes.Buffer
	info, err := NewBundleReader(bytes.NewReader(readFile(t, "archive/export-one.nar-bundle"))).Next(&archive, testACL(t))
	if err != nil {
		t.Fatal(err)
	}
	src := one{info, archive.Bytes()}
	c := &Cache{Dir: t.TempDir(), Key: key}
	e, err := c.entry(t.Context(), src, info)
	if err != nil {
		t.Fatal(err)
	}
	e.files[1].discard()
	e.files = e.files[:1] // as if the second had been placed and evicted
	if c.place(e); !errors.Is(e.err, errEvicted) {
		t.Errorf("placed: %v", e.err)
	}
	if _, err := os.Stat(c.narInfo(info.StorePath.Hash())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its narinfo: %v", err)
	}
	if err := c.Add(t.Context(), src, info); err != nil || !c.has(info) {
		t.Errorf("again: %v", err)
	}
}

// Add begins anew when an item is evicted at the moment when it is added, some times in a row.
func TestCacheAddEvicted(t *testing.T) {
	var archive bytes.Buffer
	info, err := NewBundleReader(bytes.NewReader(readFile(t, "archive/export-one.nar-bundle"))).Next(&archive, testACL(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		unlucky, written int
		want             error
	}{{evictions - 1, evictions, nil}, {1000, evictions, errEvicted}} {
		c := &Cache{Dir: t.TempDir(), Key: testKey(t, "ed25519")}
		src := &evicting{one: one{info, archive.Bytes()}, dir: c.methodDir("zstd"), left: test.unlucky}
		err := c.Add(t.Context(), src, info)
		if !errors.Is(err, test.want) || c.has(info) != (test.want == nil) || src.written != test.written {
			t.Errorf("evicted %d times: %v, after %d attempts; has it: %v", test.unlucky, err, src.written, c.has(info))
		}
		if _, err := os.Stat(c.narInfo(info.StorePath.Hash())); (err == nil) != (test.want == nil) {
			t.Errorf("evicted %d times: narinfo: %v", test.unlucky, err)
		}
	}
}

// An evicting source has what is written to a directory meanwhile be gone when it has got its name: that name will be
// of a link to nothing.
type evicting struct {
	one
	dir           string
	left, written int
}

func (e *evicting) WriteNAR(ctx context.Context, w io.Writer, info *Info) error {
	if e.written++; e.written <= e.left {
		names, err := filepath.Glob(filepath.Join(e.dir, tempPrefix+"*"))
		if err != nil || len(names) != 1 {
			return errors.Join(err, errors.New("not one file"))
		}
		if err := errors.Join(os.Remove(names[0]), os.Symlink("gone", names[0])); err != nil {
			return err
		}
	}
	return e.one.WriteNAR(ctx, w, info)
}
