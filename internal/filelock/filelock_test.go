package filelock_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
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

// Looking is not holding: whoever wants the lock gets it, however many look at it.
func TestLookersKeepNobodyOut(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	ctx, cancel := context.WithCancel(t.Context())
	var looks atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, _, err := filelock.Holder(name); err != nil {
					t.Error(err)
					return
				}
				looks.Add(1)
			}
		})
	}
	for tries := 0; looks.Load() < 1000 || tries < 100; tries++ {
		if err := os.WriteFile(name, nil, 0o600); err != nil { // left by somebody who was killed
			t.Fatal(err)
		}
		l, err := filelock.Try(name)
		if err != nil {
			t.Errorf("after %d: %v", tries, err)
			break
		}
		l.Release()
	}
	cancel()
	wg.Wait()
}

// A child that has inherited the lock holds it, and shows it, until the lock is released.
func TestInherited(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	l, err := filelock.Try(name)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("cat")
	child.ExtraFiles = []*os.File{l.File()}
	in, err := child.StdinPipe()
	if err := errors.Join(err, child.Start()); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer in.Close()
	l.File().Close() // as if this process had ended
	if _, held, err := filelock.Holder(name); !held || err != nil {
		t.Errorf("holder: %v, %v", held, err)
	}
	if _, err := filelock.Try(name); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("%v, want ErrHeld", err)
	}
	if err := errors.Join(in.Close(), child.Wait()); err != nil {
		t.Fatal(err)
	}
	if _, held, err := filelock.Holder(name); held || err != nil {
		t.Errorf("holder after the end of the child: %v, %v", held, err)
	}
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
