package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/guixci/store"
)

// causes of what o has seen of derivations, "name cause" or "name cause culprit".
func (o *observer) summary() []string {
	var lines []string
	for n, r := range o.results {
		line := n + " " + string(r.Cause)
		if r.Culprit != "" {
			line += " " + name(r.Culprit)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func wantSummary(t *testing.T, o *observer, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, o.summary()); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

func wantBuilt(t *testing.T, f *fake, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, f.built); diff != "" {
		t.Errorf("built (-want +got):\n%s", diff)
	}
}

//	 top
//	/   \
//
// left   right
//
//	\   /
//	base
var diamond = []string{"top: left right", "left: base", "right: base", "base:"}

func TestDiamond(t *testing.T) {
	f := newFake(t, diamond...)
	s, o := scheduler(f)
	s.Slots = 2
	runJobs(t, s, "top", "right", "right")
	if len(f.built) != 4 || f.built[0] != "base" || f.built[3] != "top" {
		t.Errorf("built %v", f.built)
	}
	wantSummary(t, o, "base succeeded", "left succeeded", "right succeeded", "top succeeded")
	if len(o.jobs["top"]) != 1 || len(o.jobs["right"]) != 2 {
		t.Errorf("jobs: %v", o.jobs)
	}
	if want := map[string]StorePath{"out": path("top"), "doc": path("top-doc")}; !cmp.Equal(want, o.results["top"].Outputs) {
		t.Errorf("outputs: %v", o.results["top"].Outputs)
	}
}

func TestOnlyWhatIsMissing(t *testing.T) {
	f := newFake(t, append(diamond, "other: base!doc")...)
	f.valid[path("left")] = true // its documentation is gone, but nobody wants that
	f.valid[path("base")] = true
	s, o := scheduler(f)
	runJobs(t, s, "top", "other")
	slices.Sort(f.built[:2])
	wantSummary(t, o, "base succeeded", "other succeeded", "right succeeded", "top succeeded")

	s, o = scheduler(f)
	f.built = nil
	runJobs(t, s, "top")
	wantBuilt(t, f)
	wantSummary(t, o)
	if r := o.jobs["top"][0]; !r.Present || r.Cause != Succeeded || r.Outputs["out"] != path("top") {
		t.Errorf("job whose outputs are there: %+v", r)
	}
}

func TestFailureMarksExactlyTheDependents(t *testing.T) {
	f := newFake(t, "top: left right", "left: bad", "right: base", "bad: base", "base:", "alone: base", "above: top")
	f.script["bad"] = fails(drv("bad"), store.Failed, "gcc -c x.c\nx.c:1: error: expected ';'\nmake: *** [x.o] Error 1\n")
	s, o := scheduler(f)
	runJobs(t, s, "above", "right", "alone")
	wantSummary(t, o, "above dependency failed bad", "alone succeeded", "bad failed", "base succeeded",
		"left dependency failed bad", "right succeeded", "top dependency failed bad")
	if slices.Contains(f.built, "top") || slices.Contains(f.built, "left") {
		t.Errorf("built %v", f.built)
	}
	if got := o.results["bad"]; got.Cause.Number() != 1 || !slices.Contains(got.Telling, "x.c:1: error: expected ';'") {
		t.Errorf("failure %+v", got)
	}
	if got := o.jobs["above"][0]; got.Culprit != drv("bad") || got.Cause.Number() != 2 {
		t.Errorf("job %+v", got)
	}
}

// What the machinery did to a derivation says nothing about those that need it.
func TestMachineryIsNobodysFault(t *testing.T) {
	f := newFake(t, "above: top", "top: full", "full:", "other: lost", "lost:")
	f.script["full"] = func(context.Context, io.Writer) error { return syscall.ENOSPC }
	f.script["lost"] = func(context.Context, io.Writer) error { return store.ErrClosed }
	s, o := scheduler(f)
	s.Attempts = 2
	runJobs(t, s, "above", "other")
	wantSummary(t, o, "above disk full full", "full disk full", "lost daemon lost", "other daemon lost lost", "top disk full full")
	if got := o.jobs["above"][0]; got.Culprit != drv("full") || got.Cause.Number() != 3 {
		t.Errorf("job %+v", got)
	}
}

// What only a doomed derivation needed is not built any more.
func TestNothingIsBuiltForTheDoomed(t *testing.T) {
	f := newFake(t, "top: bad slow", "bad:", "slow: slower", "slower:", "deep: bad")
	f.script["bad"] = fails(drv("bad"), store.Failed, "")
	s, o := scheduler(f)
	s.Add(Job{Derivation: drv("deep"), Priority: 0}, Job{Derivation: drv("top"), Priority: 1})
	runJobs(t, s)
	wantBuilt(t, f, "bad")
	wantSummary(t, o, "bad failed", "deep dependency failed bad", "top dependency failed bad")
}

func TestLongestPathFirst(t *testing.T) {
	f := newFake(t, "short:", "long3: long2", "long2: long1", "long1:", "mid2: mid1", "mid1:")
	s, _ := scheduler(f)
	runJobs(t, s, "short", "mid2", "long3")
	wantBuilt(t, f, "long1", "mid1", "long2", "short", "mid2", "long3")
}

func TestPriority(t *testing.T) {
	f := newFake(t, "long2: long1", "long1:", "urgent: need", "need:")
	s, _ := scheduler(f)
	s.Add(Job{Derivation: drv("long2"), Priority: 5}, Job{Derivation: drv("urgent"), Priority: 1})
	runJobs(t, s)
	wantBuilt(t, f, "need", "urgent", "long1", "long2")
}

// A job that comes later makes what it needs more urgent.
func TestUrgencyOfLaterJobs(t *testing.T) {
	f := newFake(t, "first:", "a2: a1", "a1:", "b:", "c3: c2", "c2: b")
	s, _ := scheduler(f)
	f.before = func(n string) {
		if n == "first" { // ranks: a1 is 1, b is 0
			s.Add(Job{Derivation: drv("c3")}) // now b is 2
			s.Seal()
		}
	}
	f.script["first"] = func(context.Context, io.Writer) error {
		synctest.Wait() // until c3 is planned, and Run knows the plan
		return nil
	}
	synctest.Test(t, func(t *testing.T) {
		s.Add(Job{Derivation: drv("first"), Priority: -1}, Job{Derivation: drv("a2")}, Job{Derivation: drv("b")})
		if err := s.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	wantBuilt(t, f, "first", "b", "a1", "c2", "a2", "c3")
}

func TestSlots(t *testing.T) {
	f := newFake(t, "a:", "b:", "c:", "d:", "e:")
	var started int
	all := make(chan struct{})
	f.before = func(string) { // nobody goes on before three are there
		f.mu.Lock()
		if started++; started == 3 {
			close(all)
		}
		f.mu.Unlock()
		<-all
	}
	s, _ := scheduler(f)
	s.Slots = 3
	runJobs(t, s, "a", "b", "c", "d", "e")
	if f.most != 3 {
		t.Errorf("%d at the same time, want 3", f.most)
	}
}

// Jobs come in while others are built, and after some were done.
func TestStreamedJobs(t *testing.T) {
	f := newFake(t, diamond...)
	s, o := scheduler(f)
	o.also = func(e Event) {
		switch {
		case e.Kind == JobDone && e.Job.Name == "left":
			s.Add(Job{Name: "base", Derivation: drv("base")}, Job{Name: "top", Derivation: drv("top")})
		case e.Kind == JobDone && e.Job.Name == "top":
			s.Seal()
		}
	}
	s.Add(Job{Name: "left", Derivation: drv("left")})
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantBuilt(t, f, "base", "left", "right", "top")
	if r := o.jobs["base"][0]; r.Cause != Succeeded || r.Started.IsZero() {
		t.Errorf("job for what was built already: %+v", r)
	}
}

func TestGone(t *testing.T) {
	f := newFake(t, "there:")
	s, o := scheduler(f)
	runJobs(t, s, "collected", "there")
	wantSummary(t, o, "collected gone", "there succeeded")
}

func TestKnownFailures(t *testing.T) {
	f := newFake(t, "top: bad", "bad: base", "base:")
	s, o := scheduler(f)
	s.Known = func(_ context.Context, drvs []StorePath) (map[StorePath]Result, error) {
		return map[StorePath]Result{drv("bad"): {Cause: TimedOut, Log: "old.log"}}, nil
	}
	runJobs(t, s, "top")
	wantBuilt(t, f)
	wantSummary(t, o, "bad timed out", "top dependency failed bad")
	if r := o.results["bad"]; !r.Remembered || r.Attempts != 0 || r.Log != "old.log" {
		t.Errorf("remembered failure %+v", r)
	}
}

func TestCauses(t *testing.T) {
	broken := fmt.Errorf("build: %w: EOF", store.ErrClosed)
	for name, c := range map[string]struct {
		script   func(context.Context, io.Writer) error
		want     Cause
		attempts int
	}{
		"failed":        {fails(drv("x"), store.Failed, "error: no\n"), Failed, 1},
		"rejected":      {fails(drv("x"), store.Rejected, ""), Failed, 1},
		"timed out":     {fails(drv("x"), store.TimedOut, ""), TimedOut, 1},
		"silent":        {fails(drv("x"), store.Silent, ""), Silent, 1},
		"log":           {fails(drv("x"), store.LogTooLong, ""), LogTooLong, 1},
		"disk":          {fails(drv("x"), store.DiskFull, ""), DiskFull, 3},
		"memory":        {fails(drv("x"), store.Failed, "c++: fatal error: Killed signal terminated program cc1plus\n"), OutOfMemory, 3},
		"system":        {fails(drv("x"), store.WrongSystem, ""), WrongSystem, 1},
		"refused":       {fails(drv("x"), store.Refused, ""), NotStarted, 3},
		"daemon":        {func(context.Context, io.Writer) error { return broken }, DaemonLost, 3},
		"no memory log": {fails(drv("x"), store.Failed, "test: out of memory handling... ok\n"), Failed, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t, "x:")
				f.script["x"] = c.script
				s, o := scheduler(f)
				s.Attempts = 3
				runJobs(t, s, "x")
				if r := o.results["x"]; r.Cause != c.want || r.Attempts != c.attempts || len(f.built) != c.attempts {
					t.Errorf("got %s after %d attempts (%d builds), want %s after %d", r.Cause, r.Attempts, len(f.built), c.want, c.attempts)
				}
			})
		})
	}
}

func TestRetryAfterBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "top: x", "x:", "y:")
		failures := 2
		f.script["x"] = func(context.Context, io.Writer) error {
			if failures--; failures >= 0 {
				return fmt.Errorf("build: %w", store.ErrClosed)
			}
			return nil
		}
		s, o := scheduler(f)
		s.Backoff = time.Minute
		begin := time.Now()
		runJobs(t, s, "top", "y")
		wantBuilt(t, f, "x", "y", "x", "x", "top") // y did not wait
		if took := time.Since(begin); took != 3*time.Minute {
			t.Errorf("took %v, want 1 m + 2 m", took)
		}
		wantSummary(t, o, "top succeeded", "x succeeded", "y succeeded")
	})
}

func TestLimits(t *testing.T) {
	chatter := func(ctx context.Context, log io.Writer) error {
		for ctx.Err() == nil {
			io.WriteString(log, "still here\n")
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		return blocks(ctx, log)
	}
	for name, c := range map[string]struct {
		script func(context.Context, io.Writer) error
		limits Limits
		want   Cause
		took   time.Duration
	}{
		"silent":  {blocks, Limits{MaxSilent: time.Minute}, Silent, time.Minute},
		"timeout": {chatter, Limits{Timeout: 90 * time.Second, MaxSilent: time.Minute}, TimedOut, 90 * time.Second},
		"log":     {chatter, Limits{MaxLog: 100}, LogTooLong, 9 * time.Second},
		"default": {blocks, Limits{}, Silent, time.Hour},
		"none":    {chatter, Limits{MaxSilent: -1, MaxLog: -1}, TimedOut, 20 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t, "x:")
				f.script["x"] = c.script
				s, o := scheduler(f)
				begin := time.Now()
				s.Add(Job{Derivation: drv("x"), Limits: c.limits})
				runJobs(t, s)
				r := o.results["x"]
				if took := time.Since(begin).Truncate(time.Second); r.Cause != c.want || r.Attempts != 1 || took != c.took {
					t.Errorf("%s (%s) after %v and %d attempts, want %s after %v", r.Cause, r.Message, took, r.Attempts, c.want, c.took)
				}
			})
		})
	}
}

// Cancelling top stops what only top needs, running or not, and nothing else.
func TestCancel(t *testing.T) {
	f := newFake(t, "above: top", "top: mine shared", "mine:", "shared:", "other: shared")
	f.script["mine"] = blocks
	gate := make(chan struct{})
	f.script["shared"] = func(context.Context, io.Writer) error { <-gate; return nil }
	s, o := scheduler(f)
	s.Slots = 2
	started := 0
	o.also = func(e Event) {
		if e.Kind == Started {
			if started++; started == 2 { // mine and shared
				s.Cancel(drv("top"), drv("unknown"))
			}
		}
		if e.Kind == JobDone && e.Job.Name == "above" {
			close(gate)
		}
	}
	runJobs(t, s, "above", "top", "other")
	wantSummary(t, o, "above cancelled top", "mine cancelled", "other succeeded", "shared succeeded", "top cancelled")
	if n := o.jobs["top"][0].Cause.Number(); n != 4 {
		t.Errorf("number %d", n)
	}
}

func TestCancelledCanBeWantedAgain(t *testing.T) {
	f := newFake(t, "top: base", "base:")
	attempts := 0
	f.script["base"] = func(ctx context.Context, log io.Writer) error {
		if attempts++; attempts == 1 {
			return blocks(ctx, log)
		}
		return nil
	}
	s, o := scheduler(f)
	o.also = func(e Event) {
		switch {
		case e.Kind == Started && attempts == 0:
			s.Cancel(drv("base"))
		case e.Kind == JobDone && e.Job.Name == "top":
			s.Add(Job{Name: "again", Derivation: drv("top")})
			s.Seal()
		}
	}
	s.Add(Job{Name: "top", Derivation: drv("top")})
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := o.jobs["top"][0]; got.Cause != Cancelled || got.Culprit != drv("base") {
		t.Errorf("first time %+v", got)
	}
	if got := o.jobs["again"][0]; got.Cause != Succeeded {
		t.Errorf("again %+v", got)
	}
}

func TestContextEnds(t *testing.T) {
	f := newFake(t, diamond...)
	f.script["base"] = blocks
	s, o := scheduler(f)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("somebody pressed a key")
	o.also = func(e Event) {
		if e.Kind == Started {
			s.Add(Job{Name: "late", Derivation: drv("left")})
			cancel(why)
		}
	}
	s.Add(Job{Name: "top", Derivation: drv("top")})
	if err := s.Run(ctx); !errors.Is(err, why) {
		t.Errorf("Run returned %v, want its context's cause", err)
	}
	wantSummary(t, o, "base cancelled", "left cancelled", "right cancelled", "top cancelled")
	for _, job := range []string{"top", "late"} {
		if got := o.jobs[job]; len(got) != 1 || got[0].Cause != Cancelled {
			t.Errorf("job %s: %+v", job, got)
		}
	}
	if f.active != 0 {
		t.Error("a build goes on")
	}
}

func TestRootBeforeSuccessIsTold(t *testing.T) {
	f := newFake(t, "top: base", "base:", "there:")
	f.valid[path("there")], f.valid[path("there-doc")] = true, true
	s, o := scheduler(f)
	rooted := map[StorePath]bool{}
	s.Root = func(_ context.Context, r Result) error {
		rooted[r.Derivation] = true
		return nil
	}
	o.also = func(e Event) {
		if (e.Kind == Finished || e.Kind == JobDone) && !rooted[e.Derivation] {
			t.Errorf("%s is told before it is rooted", e.Derivation)
		}
	}
	runJobs(t, s, "top", "there")
	if len(rooted) != 3 {
		t.Errorf("rooted %v", rooted)
	}
}

func TestFailureToRootIsNoSuccess(t *testing.T) {
	f := newFake(t, "x:")
	s, o := scheduler(f)
	s.Attempts = 1
	s.Root = func(context.Context, Result) error { return errors.New("permission denied") }
	runJobs(t, s, "x")
	if r := o.results["x"]; r.Cause != NotStarted || !strings.Contains(r.Message, "permission denied") {
		t.Errorf("result %+v", r)
	}
}

func TestLogIsReadableWhileItRuns(t *testing.T) {
	synctest.Test(t, testLogWhileItRuns)
}

func testLogWhileItRuns(t *testing.T) {
	f := newFake(t, "x:")
	s, o := scheduler(f)
	s.Logs = t.TempDir() + "/logs"
	var name, running string
	wrote, seen := make(chan struct{}), make(chan struct{})
	f.script["x"] = func(_ context.Context, log io.Writer) error {
		fmt.Fprintln(log, "first")
		close(wrote)
		<-seen
		fmt.Fprintln(log, "second")
		return nil
	}
	o.also = func(e Event) {
		if e.Kind == Started {
			name = e.Result.Log
			go func() {
				defer close(seen)
				<-wrote
				for running == "" {
					running = readLog(t, name)
					time.Sleep(10 * time.Millisecond)
				}
			}()
		}
	}
	runJobs(t, s, "x")
	if running != "first\n" {
		t.Errorf("while running the log was %q", running)
	}
	if got := readLog(t, o.results["x"].Log); got != "first\nsecond\n" {
		t.Errorf("log is %q", got)
	}
	files, err := os.ReadDir(s.Logs)
	if err != nil || len(files) != 1 || !strings.HasSuffix(files[0].Name(), ".gz") {
		t.Errorf("files %v, %v", files, err)
	}
}

func TestLogOfRetriesIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "x:")
		f.script["x"] = func(_ context.Context, log io.Writer) error {
			fmt.Fprintln(log, "try")
			return fmt.Errorf("build: %w", store.ErrClosed)
		}
		s, o := scheduler(f)
		s.Logs, s.Attempts = t.TempDir(), 2
		runJobs(t, s, "x")
		if got, want := readLog(t, o.results["x"].Log), "try\n\n--- attempt 2 ---\ntry\n"; got != want {
			t.Errorf("log is %q, want %q", got, want)
		}
	})
}

func readLog(t *testing.T, name string) string {
	t.Helper()
	f, err := OpenLog(name)
	if err != nil {
		t.Error(err)
		return "?"
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}
