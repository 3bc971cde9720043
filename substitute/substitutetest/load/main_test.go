package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A server that stops baking is an error, in a time that depends on how much there is to bake; not before that time.
func TestAwaitAll(t *testing.T) {
	dir := t.TempDir()
	items := []item{{hash: "first", name: "a"}, {hash: "second", name: "b"}, {hash: "third", name: "c"}}
	write := func(it item) {
		if err := os.WriteFile(filepath.Join(dir, it.hash+".narinfo"), nil, 0o644); err != nil {
			t.Error(err)
		}
	}
	wait := func(total int64) error {
		return awaitAll(items, time.Now().Add(patience(total)), func(it item) (bool, error) { return kept(dir, it), nil })
	}
	write(items[0])
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := wait(30e6)
		if took := time.Since(start).Round(time.Second); err == nil || !strings.Contains(err.Error(), "second-b") || took != 90*time.Second {
			t.Errorf("%v after %v, want the second item not to be there after 90 seconds", err, took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		time.AfterFunc(30*time.Second, func() { write(items[1]) })
		time.AfterFunc(89*time.Second, func() { write(items[2]) })
		if err := wait(30e6); err != nil {
			t.Errorf("while it is being baked: %v", err)
		}
	})
}
