package filelock_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/genenetwork/guixci/internal/filelock"
)

func TestExcludes(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	l, err := filelock.Try(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Note([]byte("me")); err != nil {
		t.Fatal(err)
	}
	if _, err := filelock.Try(name); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("second: %v, want ErrHeld", err)
	}
	if note, held, err := filelock.Holder(name); string(note) != "me" || !held || err != nil {
		t.Errorf("holder: %q, %v, %v", note, held, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no longer wanted")
	cancel(why)
	if _, err := filelock.Acquire(ctx, name); !errors.Is(err, why) {
		t.Errorf("waiting: %v, want the cause", err)
	}
	l.Release()
	l.Release()
	if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left behind: %v", err)
	}
	if _, held, err := filelock.Holder(name); held || err != nil {
		t.Errorf("holder after release: %v, %v", held, err)
	}
}

// A file that a killed holder left, as a lock's own file is gone with an orderly end,
// holds up nobody.
func TestLeftFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(name, []byte("12345\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, held, err := filelock.Holder(name); held || err != nil {
		t.Errorf("holder: %v, %v", held, err)
	}
	l, err := filelock.Try(name)
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

// The file is removed and made anew all the time, and still only one holds it.
func TestManyTakeTurns(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	var holders, most, turns atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				l, err := filelock.Acquire(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n > most.Load() {
					most.Store(n)
				}
				turns.Add(1)
				holders.Add(-1)
				l.Release()
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 || turns.Load() != 400 {
		t.Errorf("%d holders at once, %d turns", most.Load(), turns.Load())
	}
}
