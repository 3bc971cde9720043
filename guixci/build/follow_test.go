package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
)

// followed is all that Follow yields.
func followed(ctx context.Context, s *Scheduler, name string) (string, error) {
	var text strings.Builder
	for piece, err := range s.Follow(ctx, drv(name)) {
		if err != nil {
			return text.String(), err
		}
		text.Write(piece)
	}
	return text.String(), nil
}

// Ten follow a build with a failing attempt, from when it starts; one does not come on, and
// the build does not wait for it. All see the same in the end.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "x:")
		s, o := scheduler(f)
		s.Logs = t.TempDir()
		line := strings.Repeat("-", 99) + "\n"
		attempts := 0
		f.script["x"] = func(_ context.Context, log io.Writer) error {
			for i := range 2000 {
				fmt.Fprint(log, line)
				if i%500 == 0 {
					time.Sleep(time.Second)
				}
			}
			if attempts++; attempts == 1 {
				return fmt.Errorf("build: %w", store.ErrClosed)
			}
			return nil
		}
		var group sync.WaitGroup
		texts := make([]string, 10)
		slow := make(chan struct{})
		o.also = func(e Event) {
			if e.Kind == Finished {
				close(slow)
			}
			if e.Kind != Started {
				return
			}
			for i := range texts {
				group.Go(func() {
					for piece, err := range s.Follow(t.Context(), drv("x")) {
						if err != nil {
							t.Error(err)
						}
						texts[i] += string(piece)
						if i == 0 {
							<-slow
						}
					}
				})
			}
		}
		runJobs(t, s, "x")
		group.Wait()
		once := strings.Repeat(line, 2000)
		want := once + "\n--- attempt 2 ---\n" + once
		for i, text := range texts {
			if text != want {
				t.Errorf("follower %d has %d bytes, want %d", i, len(text), len(want))
			}
		}
		if text, err := followed(t.Context(), s, "x"); err != nil || text != want {
			t.Errorf("afterwards: %d bytes, %v", len(text), err)
		}
	})
}

// What a builder prints is to be seen soon, before it goes on.
func TestFollowIsLive(t *testing.T) {
	f := newFake(t, "x:")
	s, o := scheduler(f)
	s.Logs = t.TempDir()
	seen := make(chan struct{})
	f.script["x"] = func(_ context.Context, log io.Writer) error {
		fmt.Fprint(log, "Proceed? ")
		<-seen
		return nil
	}
	o.also = func(e Event) {
		if e.Kind == Started {
			go func() {
				defer close(seen)
				for piece, err := range s.Follow(t.Context(), drv("x")) {
					if err != nil || string(piece) != "Proceed? " {
						t.Errorf("followed %q, %v", piece, err)
					}
					break
				}
			}()
		}
	}
	runJobs(t, s, "x")
}

func TestFollowNothing(t *testing.T) {
	f := newFake(t, "x:", "y:")
	s, o := scheduler(f)
	if _, err := followed(t.Context(), s, "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no logs are kept: %v", err)
	}
	s.Logs = t.TempDir()
	if _, err := followed(t.Context(), s, "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not begun: %v", err)
	}
	f.script["x"] = blocks
	why, cancel := errors.New("the reader went home"), make(chan struct{})
	ctx, gone := context.WithCancelCause(t.Context())
	o.also = func(e Event) {
		if e.Kind == Started && e.Derivation == drv("x") {
			go func() {
				defer close(cancel)
				gone(why)
				if _, err := followed(ctx, s, "x"); !errors.Is(err, why) {
					t.Errorf("the end of the context: %v", err)
				}
				s.Cancel(drv("x"))
				if text, err := followed(t.Context(), s, "x"); text != "" || err != nil {
					t.Errorf("cancelled: %q, %v", text, err)
				}
			}()
		}
	}
	runJobs(t, s, "x", "y")
	<-cancel
}
