package build_test

import (
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// real is a scheduler on the real daemon, and what it notifies.
type real struct {
	*build.Scheduler
	kit     *storetest.Kit
	client  *store.Client
	names   map[build.StorePath]string
	started map[string]int
	results map[string]build.Result
	also    func(build.Event)
}

func newReal(t *testing.T) *real {
	t.Helper()
	guixtest.Require(t)
	client, err := store.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	daemon := &build.Daemon{}
	t.Cleanup(func() { daemon.Close() })
	r := &real{kit: storetest.New(t, client), client: client, names: map[build.StorePath]string{},
		started: map[string]int{}, results: map[string]build.Result{}}
	r.Scheduler = &build.Scheduler{Store: daemon, Builder: daemon, Slots: 2, Logs: t.TempDir(), Notify: r.notify}
	return r
}

func (r *real) notify(e build.Event) {
	name := r.names[e.Derivation]
	switch e.Kind {
	case build.Started:
		r.started[name]++
	case build.Finished:
		r.results[name] = e.Result
	}
	if r.also != nil {
		r.also(e)
	}
}

func (r *real) add(name, script string, inputs ...*storetest.Build) *storetest.Build {
	b := r.kit.Add(storetest.Spec{Name: name, Script: script, Inputs: inputs})
	r.names[b.Derivation] = name
	return b
}

func (r *real) build(t *testing.T, jobs ...*storetest.Build) {
	t.Helper()
	for _, j := range jobs {
		r.Add(build.Job{Name: j.Name, Derivation: j.Derivation})
	}
	r.Seal()
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, result := range r.results {
		t.Logf("%s: %s %s", name, result.Cause, result.Message)
	}
}

func TestRealDiamond(t *testing.T) {
	r := newReal(t)
	base := r.add("base", "echo making base; echo base >$out")
	left := r.add("left", "cat $base >$out", base)
	right := r.add("right", "cat $base >$out", base)
	top := r.add("top", "cat $left $right >$out", left, right)
	r.build(t, top, right)
	for _, name := range []string{"base", "left", "right", "top"} {
		if r.started[name] != 1 || r.results[name].Cause != build.Succeeded {
			t.Errorf("%s was started %d times and %s", name, r.started[name], r.results[name].Cause)
		}
	}
	if text, err := os.ReadFile(string(top.Out())); err != nil || string(text) != "base\nbase\n" {
		t.Errorf("top contains %q, %v", text, err)
	}
	if got := readLog(t, r.results["base"].Log); got != "making base\n" {
		t.Errorf("log of base is %q", got)
	}

	again := newReal(t)
	again.names = r.names
	again.build(t, top)
	if len(again.started) != 0 {
		t.Errorf("built again: %v", again.started)
	}
}

func TestRealFailingBranch(t *testing.T) {
	r := newReal(t)
	base := r.add("base", "echo >$out")
	bad := r.add("bad", "echo x.c:1: error: no such thing >&2; exit 3", base)
	good := r.add("good", "echo >$out", base)
	top := r.add("top", "echo >$out", bad, good)
	empty := r.add("empty", "true")
	r.build(t, top, good, empty)
	want := map[string]build.Cause{"base": build.Succeeded, "bad": build.Failed, "good": build.Succeeded,
		"top": build.DependencyFailed, "empty": build.Failed}
	for name, cause := range want {
		if r.results[name].Cause != cause {
			t.Errorf("%s: %+v, want %s", name, r.results[name], cause)
		}
	}
	if got := r.results["bad"].Telling; !slices.Contains(got, "x.c:1: error: no such thing") {
		t.Errorf("telling lines %q", got)
	}
	if r.results["top"].Culprit != bad.Derivation || r.started["top"] != 0 {
		t.Errorf("top: %+v", r.results["top"])
	}
}

// A cancelled build is really stopped: its process ends.
func TestRealCancel(t *testing.T) {
	r := newReal(t)
	w := newWhistle(t)
	slow := r.add("slow", w.script()+"sleep 600; echo >$out")
	top := r.add("top", "echo >$out", slow)
	other := r.add("other", "echo >$out")
	r.also = func(e build.Event) {
		if e.Kind == build.Started && e.Derivation == slow.Derivation {
			go func() {
				await(t, "the builder", w.heard)
				r.Cancel(slow.Derivation)
			}()
		}
	}
	r.build(t, top, other)
	if r.results["slow"].Cause != build.Cancelled || r.results["top"].Cause != build.Cancelled || r.results["other"].Cause != build.Succeeded {
		t.Errorf("results %+v", r.results)
	}
	await(t, "the builder's end", w.over)
	valid, err := r.client.Valid(context.Background(), slow.Out())
	if err != nil || valid {
		t.Errorf("output of the cancelled build is valid: %v, %v", valid, err)
	}
}

func TestRealLimits(t *testing.T) {
	r := newReal(t)
	silent := r.add("silent", "echo once; sleep 600")
	chatty := r.add("chatty", "while :; do echo again; sleep 0.1; done")
	loud := r.add("loud", "while :; do echo $PATH; done")
	// Each can only come to its own, however long a builder takes to begin.
	for b, limits := range map[*storetest.Build]build.Limits{
		silent: {MaxSilent: 2 * time.Second}, chatty: {Timeout: 4 * time.Second}, loud: {MaxLog: 100_000},
	} {
		r.Add(build.Job{Derivation: b.Derivation, Limits: limits})
	}
	r.build(t)
	for name, want := range map[string]build.Cause{"silent": build.Silent, "chatty": build.TimedOut, "loud": build.LogTooLong} {
		if got := r.results[name]; got.Cause != want || got.Attempts != 1 {
			t.Errorf("%s: %s (%s) after %d attempts, want %s", name, got.Cause, got.Message, got.Attempts, want)
		}
	}
}

// What is planned survives a garbage collection that comes in between, and
// what was built and rooted survives one afterwards.
func TestRealGarbageCollection(t *testing.T) {
	r := newReal(t)
	base := r.add("base", "echo base >$out")
	top := r.add("top", "cat $base >$out", base)
	r.Slots = 1
	links := t.TempDir()
	r.Root = (&build.Roots{Dir: links}).Add
	r.also = func(e build.Event) {
		if e.Kind == build.Finished && e.Derivation == base.Derivation {
			if _, err := r.client.Delete(context.Background(), base.Out()); err == nil {
				t.Error("the output of base could be deleted before top was built")
			}
		}
	}
	r.build(t, top)
	if r.results["top"].Cause != build.Succeeded {
		t.Errorf("top: %+v", r.results["top"])
	}
	again, err := store.Dial(t.Context(), "") // the other connection still holds what it added
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.Delete(t.Context(), top.Out()); err == nil {
		t.Error("the rooted output of top could be deleted")
	}
}

func TestRealDaemonIsAway(t *testing.T) {
	guixtest.Require(t)
	daemon := &build.Daemon{Pool: &store.Pool{Address: t.TempDir() + "/socket"}}
	var result build.Result
	s := &build.Scheduler{Store: daemon, Builder: daemon, Attempts: 2, Backoff: time.Millisecond,
		Notify: func(e build.Event) { result = e.Result }}
	client, err := store.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s.Add(build.Job{Derivation: storetest.New(t, client).Add(storetest.Spec{Script: "echo >$out"}).Derivation})
	s.Seal()
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if result.Cause != build.DaemonLost || result.Attempts != 2 || !strings.Contains(result.Message, "socket") {
		t.Errorf("result %+v", result)
	}
}

// openUp lets the build users reach a file in a test's directory.
func openUp(t *testing.T, file string) {
	t.Helper()
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	letThrough(t, file)
}

// letThrough lets the build users as far as the directory of a file.
func letThrough(t *testing.T, file string) {
	t.Helper()
	for dir := file; len(dir) > len("/tmp"); {
		dir = dir[:strings.LastIndexByte(dir, '/')]
		if dir == "/tmp" || dir == "" {
			return
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func readLog(t *testing.T, name string) string {
	t.Helper()
	f, err := build.OpenLog(name)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}
