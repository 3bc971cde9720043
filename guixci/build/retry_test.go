package build

import (
	"context"
	"io"
	"slices"
	"testing"

	"github.com/genenetwork/guixci/guixci/store"
)

// again has s retry something once the jobs named first are done, add them
// again, and seal when they are done for the second time.
func againAfter(s *Scheduler, o *observer, retry string, jobs ...string) {
	done := 0
	o.also = func(e Event) {
		if e.Kind != JobDone {
			return
		}
		if done++; done == len(jobs) {
			s.Retry(drv(retry))
			for _, j := range jobs {
				s.Add(Job{Name: "again " + j, Derivation: drv(j)})
			}
		}
		if done == 2*len(jobs) {
			s.Seal()
		}
	}
	for _, j := range jobs {
		s.Add(Job{Name: j, Derivation: drv(j)})
	}
}

// failsOnce is the script of a builder that succeeds when it is tried again.
func failsOnce(name string) func(context.Context, io.Writer) error {
	tried := false
	return func(ctx context.Context, log io.Writer) error {
		if tried {
			return nil
		}
		tried = true
		return fails(drv(name), store.Failed, "")(ctx, log)
	}
}

func run1(t *testing.T, s *Scheduler) {
	t.Helper()
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestRetry(t *testing.T) {
	f := newFake(t, "above: top", "top: bad", "bad:", "worse:")
	f.script["bad"], f.script["worse"] = failsOnce("bad"), failsOnce("worse")
	s, o := scheduler(f)
	againAfter(s, o, "bad", "above", "worse")
	run1(t, s)
	wantBuilt(t, f, "bad", "worse", "bad", "top", "above")
	wantSummary(t, o, "above succeeded", "bad succeeded", "top succeeded", "worse failed")
	if r := o.jobs["again worse"][0]; r.Cause != Failed || r.Remembered {
		t.Errorf("what nobody wanted to be tried again: %+v", r)
	}
}

// bad ─ top        worse ─ top: retrying one of two culprits is not enough.
func TestRetryOfOneOfTwo(t *testing.T) {
	f := newFake(t, "top: bad worse", "bad:", "worse:")
	f.script["bad"], f.script["worse"] = failsOnce("bad"), failsOnce("worse")
	s, o := scheduler(f)
	againAfter(s, o, "bad", "top", "worse", "bad")
	run1(t, s)
	slices.Sort(f.built)
	wantBuilt(t, f, "bad", "bad", "worse")
	wantSummary(t, o, "bad succeeded", "top dependency failed worse", "worse failed")
}

// A failure known from before is tried again, and what it needs is found out then.
func TestRetryOfKnownFailure(t *testing.T) {
	f := newFake(t, "top: bad", "bad: base", "base: seed", "seed:")
	f.valid[path("seed")] = true
	s, o := scheduler(f)
	s.Known = func(_ context.Context, drvs []StorePath) (map[StorePath]Result, error) {
		return map[StorePath]Result{drv("bad"): {Cause: Failed}}, nil
	}
	againAfter(s, o, "bad", "top")
	run1(t, s)
	wantBuilt(t, f, "base", "bad", "top")
	wantSummary(t, o, "bad succeeded", "base succeeded", "top succeeded")
	if r := o.jobs["top"][0]; r.Cause != DependencyFailed {
		t.Errorf("at first %+v", r)
	}
}

// Nothing comes of retrying what has not failed.
func TestRetryOfNothing(t *testing.T) {
	f := newFake(t, "top: base", "base:")
	s, o := scheduler(f)
	againAfter(s, o, "base", "top")
	s.Retry(drv("top"), drv("unknown"))
	run1(t, s)
	wantBuilt(t, f, "base", "top")
	wantSummary(t, o, "base succeeded", "top succeeded")
}
