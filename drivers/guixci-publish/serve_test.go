package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// A cache without limits is rid of what belongs to nothing, again and again, and of nothing else.
func TestEvictWithoutLimits(t *testing.T) {
	dir := t.TempDir()
	memory := new(substitutetest.Memory)
	cache := &substitute.Cache{Dir: dir}
	info := memory.AddFile("item", "contents")
	if err := cache.Add(t.Context(), memory, info); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * 365 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, info.StorePath.Hash()+".narinfo"), old, old); err != nil {
		t.Fatal(err)
	}
	orphan := filepath.Join(dir, "nar", "zstd", substitutetest.Path("orphan", "").Base())
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go evict(ctx, &options{}, cache, memory, slog.New(slog.DiscardHandler))
		time.Sleep(evictEvery / 2)
		for range 3 {
			if err := os.WriteFile(orphan, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(orphan, old, old); err != nil {
				t.Fatal(err)
			}
			time.Sleep(evictEvery)
			if _, err := os.Stat(orphan); err == nil {
				t.Error("an archive of nothing is still there")
			}
		}
		cancel()
		synctest.Wait()
	})
	if _, err := cache.Info(t.Context(), info.StorePath.Hash()); err != nil {
		t.Errorf("what has no limits is gone: %v", err)
	}
}

// What clients may believe to be there is, in spite of the limit: from the store, or kept in the cache.
func TestEvictKeepsPromises(t *testing.T) {
	const day = 24 * time.Hour
	memory := new(substitutetest.Memory)
	cache := &substitute.Cache{Dir: t.TempDir()}
	stored, collected := memory.AddFile("stored", "contents"), memory.AddFile("collected", "contents")
	for _, info := range []*substitute.Info{stored, collected} {
		if err := cache.Add(t.Context(), memory, info); err != nil {
			t.Fatal(err)
		}
	}
	memory.Remove(collected.StorePath)
	for _, test := range []struct {
		age  time.Duration
		left []*substitute.Info
	}{
		{time.Hour, []*substitute.Info{stored, collected}},
		{2 * day, []*substitute.Info{collected}},
		{31 * day, nil},
	} {
		old := time.Now().Add(-test.age)
		for _, info := range []*substitute.Info{stored, collected} {
			err := os.Chtimes(filepath.Join(cache.Dir, info.StorePath.Hash()+".narinfo"), old, old)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		for _, options := range evictions(t.Context(), &options{ttl: 30 * day, cacheSize: 1}, memory) {
			if _, err := cache.Evict(t.Context(), options); err != nil {
				t.Fatal(err)
			}
		}
		for _, info := range []*substitute.Info{stored, collected} {
			_, err := os.Stat(filepath.Join(cache.Dir, info.StorePath.Hash()+".narinfo"))
			if there := err == nil; there != slices.Contains(test.left, info) {
				t.Errorf("after %v: %s is there: %v", test.age, info.StorePath.Name(), there)
			}
		}
	}
}

// While a database is being opened on a disk that does not answer, only one request waits for it.
func TestDatabaseThatHangs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db.sqlite")
	if err := syscall.Mkfifo(path, 0o600); err != nil { // who opens it waits for the other end
		t.Fatal(err)
	}
	src := &localStore{pool: &store.Pool{Address: filepath.Join(dir, "socket")}, path: path}
	defer src.Close()
	const requests = 5
	answers := make(chan error, requests)
	for range requests {
		go func() {
			_, err := src.Info(t.Context(), substitutetest.Path("item", "").Hash())
			answers <- err
		}()
	}
	late := time.After(3 * time.Minute)
	other := make(chan error, 1)
	for n := range requests {
		if n == requests-1 { // the last one waits for this
			go func() {
				end, err := os.OpenFile(path, os.O_WRONLY, 0)
				end.Close()
				other <- err
			}()
		}
		select {
		case err := <-answers:
			if err == nil {
				t.Error("an answer, without a daemon")
			}
		case <-late:
			t.Fatalf("%d of %d requests were answered", n, requests)
		}
	}
	select {
	case err := <-other:
		if err != nil {
			t.Error(err)
		}
	case <-late:
		t.Error("nobody has opened the database")
	}
}
