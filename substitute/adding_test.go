package substitute_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/genenetwork/guixci/substitute"
)

// What killed processes were writing goes when the next one begins to bake, unless somebody else is at it.
func TestCacheSweep(t *testing.T) {
	cache, memory, paths := filledCache(t)
	left := []string{".tmp-narinfo", "nar/.tmp-plain", "nar/gzip/.tmp-archive"}
	others := []string{"notes", "nar/gzip/notes", "elsewhere/.tmp-other"}
	for _, name := range append(left, others...) {
		name = filepath.Join(cache.Dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	there := func(names []string) (found []string) {
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(cache.Dir, name)); err == nil {
				found = append(found, name)
			}
		}
		return found
	}
	// bake has another Baker begin, and end when it has baked.
	bake := func() {
		t.Helper()
		b := &substitute.Baker{Cache: &substitute.Cache{Dir: cache.Dir}, Source: memory}
		info, err := memory.Info(t.Context(), paths[0].Hash())
		if err != nil {
			t.Fatal(err)
		}
		b.Want(info)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { b.Run(ctx) })
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		cancel()
		running.Wait()
	}
	entered, end := make(chan struct{}), make(chan struct{})
	adding := memory.AddFile("slow", "item")
	var running sync.WaitGroup
	running.Go(func() {
		if err := cache.Add(t.Context(), slowSource{memory, entered, end}, adding); err != nil {
			t.Errorf("add: %v", err)
		}
	})
	<-entered
	bake()
	if found := there(left); len(found) != len(left) {
		t.Errorf("only %q are left, although somebody was adding", found)
	}
	close(end)
	running.Wait()
	cache = &substitute.Cache{Dir: cache.Dir} // a new process has one of its own
	if err := cache.Add(t.Context(), memory, adding); err != nil {
		t.Fatal(err)
	}
	if found := there(left); len(found) != 0 {
		t.Errorf("%q are still there, although somebody has added since", found)
	}
	for _, name := range left {
		if err := os.WriteFile(filepath.Join(cache.Dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bake()
	if found := there(left); len(found) != 0 {
		t.Errorf("%q are still there", found)
	}
	if found := there(others); len(found) != len(others) {
		t.Errorf("of what is not the cache's only %q are left", found)
	}
}

// slowSource says when an archive is to be written, and waits for end.
type slowSource struct {
	substitute.Source
	entered, end chan struct{}
}

func (s slowSource) WriteNAR(ctx context.Context, w io.Writer, info *substitute.Info) error {
	close(s.entered)
	<-s.end
	return s.Source.WriteNAR(ctx, w, info)
}
