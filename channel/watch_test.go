package channel_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
)

// A fakeRemote has branches called master and says which commits follow each other: those
// whose ids share their first digit, in order.
type fakeRemote struct {
	mu    sync.Mutex // guards the rest
	heads map[string]channel.Commit
	down  map[string]bool
	looks map[string][]time.Time
}

func newFakeRemote() *fakeRemote {
	return &fakeRemote{heads: map[string]channel.Commit{}, down: map[string]bool{}, looks: map[string][]time.Time{}}
}

func (f *fakeRemote) References(_ context.Context, url string) (map[string]channel.Commit, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks[url] = append(f.looks[url], time.Now())
	if f.down[url] {
		return nil, errors.New("down")
	}
	return map[string]channel.Commit{"refs/heads/master": f.heads[url]}, nil
}

func (f *fakeRemote) IsAncestor(_ context.Context, _ channel.Channel, a, b channel.Commit) (bool, error) {
	return a[0] == b[0] && a <= b, nil
}

func (f *fakeRemote) set(url string, head channel.Commit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heads[url] = head
}

func (f *fakeRemote) count(url string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.looks[url])
}

// id returns the nth commit of a line of history.
func id(line string, n int) channel.Commit {
	return channel.Commit(line + strings.Repeat("0", 38) + string(rune('0'+n)))
}

// A watch is a Watcher that runs, and what it said.
type watch struct {
	*channel.Watcher
	mu   sync.Mutex // guards said
	said []string
}

func startWatch(ctx context.Context, w *channel.Watcher) *watch {
	r := &watch{Watcher: w}
	go func() {
		for u, err := range w.Updates(ctx) {
			text := u.Channel.Name + " " + u.Old.Short() + "-" + string(u.New[max(0, len(u.New)-1):])
			if u.Rewritten {
				text += " rewritten"
			}
			var poll *channel.PollError
			if errors.As(err, &poll) {
				text = "error " + poll.URL
			}
			r.mu.Lock()
			r.said = append(r.said, text)
			r.mu.Unlock()
		}
	}()
	return r
}

// heard returns what was said since the last time, once everything is quiet.
func (w *watch) heard() []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	said := w.said
	w.said = nil
	return said
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: (-want +got)\n%s", what, diff)
	}
}

const x, y = "https://a.example/x", "https://a.example/y"

func watchedChannels() channel.List {
	return channel.List{{Name: "x", URL: x}, {Name: "y", URL: y}, {Name: "pinned", URL: "https://b.example/p", Commit: ones}}
}

func TestWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := newFakeRemote()
		f.set(x, id("a", 1))
		f.set(y, id("b", 1))
		w := startWatch(ctx, &channel.Watcher{Remote: f, Channels: watchedChannels(), Heads: map[string]channel.Commit{"y": id("b", 1)}})
		expect(t, "at first", w.heard(), "x -1")
		time.Sleep(70 * time.Second)
		expect(t, "nothing new", w.heard())
		f.set(x, id("a", 3))
		time.Sleep(70 * time.Second)
		expect(t, "moved", w.heard(), "x a000000-3")
		if n := f.count("https://b.example/p"); n != 0 {
			t.Errorf("the pinned one was looked at %d times", n)
		}
	})
}

func TestWatcherRewritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := newFakeRemote()
		f.set(x, id("a", 1))
		w := startWatch(ctx, &channel.Watcher{Remote: f, Channels: watchedChannels()[:1]})
		w.heard()
		f.set(x, id("c", 1))
		time.Sleep(5 * time.Minute)
		expect(t, "once", w.heard(), "x a000000-1 rewritten")
		if got := w.Known()["x"]; got != id("a", 1) {
			t.Errorf("it was followed to %s", got)
		}
		f.set(x, id("c", 2))
		time.Sleep(2 * time.Minute)
		expect(t, "still elsewhere", w.heard(), "x a000000-2 rewritten")
		f.set(x, id("a", 2))
		time.Sleep(2 * time.Minute)
		expect(t, "back", w.heard(), "x a000000-2")
		f.set(x, id("c", 3))
		time.Sleep(2 * time.Minute)
		expect(t, "again", w.heard(), "x a000000-3 rewritten")
		w.Follow("x", id("c", 3))
		f.set(x, id("c", 4))
		time.Sleep(2 * time.Minute)
		expect(t, "followed", w.heard(), "x c000000-4")
	})
}

func TestWatcherPoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := newFakeRemote()
		f.set(x, id("a", 1))
		f.set(y, id("b", 1))
		w := startWatch(ctx, &channel.Watcher{Remote: f, Channels: watchedChannels(), Interval: time.Hour})
		w.heard()
		f.set(x, id("a", 2))
		f.set(y, id("b", 2))
		if w.Poke("nobody") || !w.Poke(x) {
			t.Error("Poke mistakes what is watched")
		}
		expect(t, "poked by url", w.heard(), "x a000000-2")
		w.Poke("y")
		expect(t, "poked by name", w.heard(), "y b000000-2")
	})
}

// A host that fails is asked less and less, with all its repositories, and nobody waits for it.
func TestWatcherBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := newFakeRemote()
		const z = "https://b.example/z"
		f.down[x], f.down[y] = true, true
		f.set(z, id("a", 1))
		channels := append(watchedChannels()[:2], channel.Channel{Name: "z", URL: z})
		w := startWatch(ctx, &channel.Watcher{Remote: f, Channels: channels, MaxBackoff: 10 * time.Minute})
		expect(t, "at first", w.heard(), "error "+x, "error "+y, "z -1")
		time.Sleep(2 * time.Hour)
		if n := f.count(x); n < 12 || n > 20 {
			t.Errorf("the host that was down was asked %d times in two hours", n)
		}
		if n := f.count(z); n < 108 || n > 134 {
			t.Errorf("the other one was asked %d times", n)
		}
		f.mu.Lock()
		f.down[x], f.down[y] = false, false
		f.heads[x], f.heads[y] = id("a", 1), id("b", 1)
		f.mu.Unlock()
		w.heard()
		time.Sleep(12 * time.Minute)
		expect(t, "up again", w.heard(), "x -1", "y -1")
		before := f.count(x)
		time.Sleep(10 * time.Minute)
		if n := f.count(x) - before; n < 8 || n > 12 {
			t.Errorf("asked %d times in ten minutes after it recovered", n)
		}
	})
}

// TestWatchRepositories watches real ones.
func TestWatchRepositories(t *testing.T) {
	repo, intro := newRepo(t, nil)
	w := &channel.Watcher{Remote: &channel.Repositories{Dir: t.TempDir()}, Channels: channel.List{repo.Channel("x", intro)},
		Interval: time.Hour, Heads: map[string]channel.Commit{"x": intro.Commit}}
	next, err := repo.Commit("master", "Next.", nil, alice)
	if err != nil {
		t.Fatal(err)
	}
	var got []channel.Update
	for u, err := range w.Updates(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, u)
		if u.Rewritten {
			break
		}
		if err := repo.SetBranch("master", intro.Commit); err != nil {
			t.Fatal(err)
		}
		w.Poke("x")
	}
	c := repo.Channel("x", intro)
	want := []channel.Update{{Channel: c, Old: intro.Commit, New: next}, {Channel: c, Old: next, New: intro.Commit, Rewritten: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
