package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// The daemon of another machine, which is this one: instead of ssh there is a
// script that runs the command here.
func TestSSH(t *testing.T) {
	guixtest.Require(t)
	dir := t.TempDir()
	script := "#!/bin/sh\necho \"$@\" >" + filepath.Join(dir, "args") + "\nuntil [ \"$1\" = guix ]; do shift; done\nexec \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))

	pool := store.Pool{Address: "ssh://charlie@berlin.example.org:2222"}
	defer pool.Close()
	var b *storetest.Build
	err := pool.Do(t.Context(), func(c *store.Client) error {
		large := strings.Repeat("0123456789abcdef", 1<<16) // more than fits into any buffer on the way
		path, err := c.AddText(t.Context(), "large", []byte(large), nil)
		if err != nil {
			return err
		}
		var copied strings.Builder
		if err := c.ExportPath(t.Context(), &copied, path, false); err != nil || !strings.Contains(copied.String(), large) {
			t.Errorf("a large text comes back as %d bytes, %v", copied.Len(), err)
		}
		b = storetest.New(t, c).Add(storetest.Spec{Name: "far", Script: "echo far away; echo >$out"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	j := newJournal()
	if err := pool.Build(t.Context(), []store.StorePath{b.Derivation}, store.BuildOptions{}, j.observe); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"far": "far away\n"}, j.logs); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	args, err := os.ReadFile(filepath.Join(dir, "args"))
	if words := strings.Fields(string(args)); err != nil || !slices.Contains(words, "berlin.example.org") ||
		!strings.Contains(string(args), "-l charlie -p 2222 -- berlin.example.org guix repl") {
		t.Errorf("ssh was called with %q, %v", args, err)
	}

	// The end of the connection is the end of the build.
	slow, over := newSlow(t, &pool)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	err = pool.Build(ctx, []store.StorePath{slow}, store.BuildOptions{}, func(e store.Event) {
		if e.Text == "begun\n" {
			cancel(why)
		}
	})
	if !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
	select {
	case <-over:
	case <-time.After(3 * time.Minute):
		t.Error("the builder goes on")
	}
}

// newSlow adds a derivation whose builder does not end by itself. When it has
// begun and ended nevertheless, over is closed.
func newSlow(t *testing.T, pool *store.Pool) (drv store.StorePath, over <-chan struct{}) {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	letIn(t, filepath.Dir(fifo), filepath.Dir(filepath.Dir(fifo)))
	err := pool.Do(t.Context(), func(c *store.Client) error {
		drv = storetest.New(t, c).Add(storetest.Spec{Name: "slow", Script: "exec 3>" + fifo + "; echo begun; exec sleep 1000"}).Derivation
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, err := os.ReadFile(fifo); err != nil { // waits for the builder, and for its end
			t.Error(err)
		}
	}()
	return drv, ended
}
