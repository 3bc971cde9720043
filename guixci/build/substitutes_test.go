package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/guixci/store"
)

// A mirror is a Fetcher that has some of a fake's outputs.
type mirror struct {
	*fake
	has map[StorePath]bool

	mu      sync.Mutex // guards the following
	asked   []StorePath
	fetched []string
	fetch   func(name string) error // what becomes of fetching; nil succeeds
}

func newMirror(f *fake, names ...string) *mirror {
	m := &mirror{fake: f, has: map[StorePath]bool{}}
	for _, n := range names {
		m.has[path(n)], m.has[path(n)+"-doc"] = true, true
	}
	return m
}

func (m *mirror) Substitutable(_ context.Context, paths []StorePath) (some []StorePath, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, paths...)
	for _, p := range paths {
		if m.has[p] {
			some = append(some, p)
		}
	}
	return some, nil
}

func (m *mirror) Fetch(_ context.Context, paths []StorePath, log io.Writer) error {
	name := name(paths[0])
	fmt.Fprintf(log, "downloading %s\n", name)
	m.mu.Lock()
	m.fetched = append(m.fetched, name)
	m.mu.Unlock()
	if m.fetch != nil {
		if err := m.fetch(name); err != nil {
			return err
		}
	}
	m.fake.mu.Lock()
	defer m.fake.mu.Unlock()
	for _, p := range paths {
		m.valid[p] = true
	}
	return nil
}

// What can be fetched is not built, and what it needs to be built is not even asked about.
func TestSubstitutesFirst(t *testing.T) {
	f := newFake(t, "top: lib own", "lib: gcc", "gcc: seed", "seed:", "own: gcc!doc")
	f.valid[path("gcc")], f.valid[path("gcc")+"-doc"] = true, true
	m := newMirror(f, "lib")
	s, o := scheduler(f)
	s.Substitutes = m
	runJobs(t, s, "top")
	wantBuilt(t, f, "own", "top")
	if diff := cmp.Diff([]string{"lib"}, m.fetched); diff != "" {
		t.Errorf("fetched (-want +got):\n%s", diff)
	}
	if !o.results["lib"].Fetched || o.results["own"].Fetched || slices.Contains(m.asked, path("gcc")) {
		t.Errorf("lib %+v, own %+v, asked %v", o.results["lib"], o.results["own"], m.asked)
	}
	wantSummary(t, o, "lib succeeded", "own succeeded", "top succeeded")
}

// A substitute that cannot be fetched after all is built, after what it needs.
func TestSubstituteThatIsNotThere(t *testing.T) {
	f := newFake(t, "top: lib", "lib: gcc", "gcc: seed", "seed:", "other: gcc")
	m := newMirror(f, "lib")
	m.fetch = func(string) error { return &store.DaemonError{Message: "404", Status: 1} }
	s, o := scheduler(f)
	s.Substitutes, s.Logs = m, t.TempDir()
	var retried []Cause
	o.also = func(e Event) {
		if e.Kind == Retrying {
			retried = append(retried, e.Result.Cause)
		}
	}
	runJobs(t, s, "top", "lib", "other")
	if slices.Index(f.built, "lib") < slices.Index(f.built, "gcc") || len(f.built) != 5 {
		t.Errorf("built %v", f.built)
	}
	wantSummary(t, o, "gcc succeeded", "lib succeeded", "other succeeded", "seed succeeded", "top succeeded")
	if r := o.results["lib"]; r.Fetched || r.Attempts != 2 || readLog(t, r.Log) != "downloading lib\n\n--- attempt 2 ---\n" {
		t.Errorf("lib %+v", r)
	}
	if diff := cmp.Diff([]Cause{NotFetched}, retried); diff != "" {
		t.Errorf("retried (-want +got):\n%s", diff)
	}
}

// What is built for want of a substitute may fail like anything else.
func TestSubstituteThatCannotBeBuilt(t *testing.T) {
	f := newFake(t, "top: lib", "lib: gcc", "gcc: seed", "seed:")
	f.script["seed"] = fails(drv("seed"), store.Failed, "")
	m := newMirror(f, "lib")
	m.fetch = func(string) error { return &store.DaemonError{Message: "404", Status: 1} }
	s, o := scheduler(f)
	s.Substitutes = m
	runJobs(t, s, "top")
	wantSummary(t, o, "gcc dependency failed seed", "lib dependency failed seed", "seed failed", "top dependency failed seed")
}

// The daemon's going away while it fetches is no reason to build.
func TestFetchIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "lib: gcc", "gcc:")
		m := newMirror(f, "lib")
		failures := 2
		m.fetch = func(string) error {
			if failures--; failures >= 0 {
				return fmt.Errorf("fetch: %w", store.ErrClosed)
			}
			return nil
		}
		s, o := scheduler(f)
		s.Substitutes, s.Backoff = m, time.Minute
		runJobs(t, s, "lib")
		wantBuilt(t, f)
		if r := o.results["lib"]; !r.Fetched || r.Attempts != 3 {
			t.Errorf("lib %+v", r)
		}
	})
}

// A derivation that says so is built although somebody has it.
func TestNotSubstitutable(t *testing.T) {
	f := newFake(t)
	f.put("own", &store.Derivation{Outputs: []store.Output{{Name: "out", Path: path("own")}},
		Env: []store.EnvVar{{Name: "allowSubstitutes", Value: "0"}}})
	s, _ := scheduler(f)
	s.Substitutes = newMirror(f, "own")
	runJobs(t, s, "own")
	wantBuilt(t, f, "own")
}

// A mirror that cannot be asked is as good as none.
func TestNoMirror(t *testing.T) {
	f := newFake(t, "top: lib", "lib:")
	s, o := scheduler(f)
	s.Substitutes = broken{newMirror(f)}
	runJobs(t, s, "top")
	wantSummary(t, o, "lib succeeded", "top succeeded")
}

type broken struct{ *mirror }

func (broken) Substitutable(context.Context, []StorePath) ([]StorePath, error) {
	return nil, errors.New("no network")
}
