package substitute

import (
	"bytes"
	"errors"
	"os"
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
