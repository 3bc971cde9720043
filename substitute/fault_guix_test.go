package substitute_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// smallDisk is a directory with a file system of its own, of one megabyte.
func smallDisk(t *testing.T) string {
	t.Helper()
	if guixtest.Require(t); !guixtest.InBox() {
		t.Skip("needs the box, which may mount file systems")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// On a full disk each operation fails with that reason and leaves nothing; with room it works.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t)
	var m substitutetest.Memory
	large, small := m.AddFile("large", incompressible(4_000_000)), m.AddFile("small", "fits")

	cache := &substitute.Cache{Dir: filepath.Join(dir, "cache"), Key: vectorKey(t)}
	if err := cache.Add(t.Context(), &m, large); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("bake: %v", err)
	}
	if err := cache.Add(t.Context(), &m, small); err != nil {
		t.Errorf("bake what fits: %v", err)
	}
	if _, err := cache.Info(t.Context(), large.StorePath.Hash()); !errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("half-baked: %v", err)
	}

	url := serve(t, &substitute.Handler{Source: &m, Key: vectorKey(t)})
	c := clientOf(t, url)
	offers, err := c.Query(t.Context(), []substitute.StorePath{large.StorePath})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Fetch(t.Context(), offers[0], filepath.Join(dir, "item"), nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("fetch: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}

	full := serve(t, &substitute.Handler{Source: &m, Key: vectorKey(t), Spool: dir})
	for _, info := range []*substitute.Info{large, small} { // the one goes past the disk, the other is in memory
		if err := fetchOne(t, clientOf(t, full), info); err != nil {
			t.Errorf("from a server that has no room: %v", err)
		}
	}
}
