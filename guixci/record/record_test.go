package record

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, dir string) *Record {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// evaluate records a whole evaluation of "sample": its Lock's digest, and how
// each job ended, its derivation being unlike that of any other evaluation.
func evaluate(t *testing.T, r *Record, digest string, jobs map[string]Status) int64 {
	t.Helper()
	id, err := r.BeginEvaluation(Evaluation{Specification: "sample", LockDigest: digest, Lock: json.RawMessage(`{"d":"` + digest + `"}`)})
	must(t, err)
	for name, status := range jobs {
		drv := digest + "-" + name + ".drv"
		must(t, r.AddJobs(id, Job{Name: name, System: "x86_64-linux", Derivation: drv}))
		must(t, r.StartBuild(drv, time.Now(), ""))
		must(t, r.FinishBuild(Build{Derivation: drv, Status: status}))
	}
	must(t, r.FinishEvaluation(id, EvaluationSucceeded, json.RawMessage(`"green"`)))
	return id
}

func jobs(t *testing.T, r *Record, evaluation int64) map[string]Job {
	t.Helper()
	byName := map[string]Job{}
	for j, err := range r.Jobs(evaluation) {
		must(t, err)
		byName[j.Name] = j
	}
	return byName
}

func TestStateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "state")
	if _, err := OpenReadOnly(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read-only open of nothing: %v", err)
	}
	open(t, dir)
	info, err := os.Stat(dir)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("state directory has mode %v", info.Mode())
	}
}

func TestEvaluationRoundTrip(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	id := evaluate(t, r, "d1", map[string]Status{"hello": Succeeded})

	reader, err := OpenReadOnly(dir) // beside the writer
	must(t, err)
	defer reader.Close()
	got, err := reader.Evaluation(id)
	must(t, err)
	if got.Started.IsZero() || got.Finished.Before(got.Started) {
		t.Errorf("times %v to %v", got.Started, got.Finished)
	}
	got.Started, got.Finished = time.Time{}, time.Time{}
	want := &Evaluation{ID: id, Specification: "sample", LockDigest: "d1", Lock: json.RawMessage(`{"d":"d1"}`),
		Status: EvaluationSucceeded, Verdict: json.RawMessage(`"green"`)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("evaluation (-want +got):\n%s", diff)
	}
	if _, err := reader.BeginEvaluation(Evaluation{}); err == nil {
		t.Error("a read-only record was written")
	}
	if _, err := r.Evaluation(id + 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown evaluation: %v", err)
	}
	if err := r.FinishEvaluation(id+1, EvaluationFailed, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("finish unknown evaluation: %v", err)
	}
	if err := r.AddJobs(id+1, Job{Name: "x"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("add jobs to unknown evaluation: %v", err)
	}
}

func TestEvaluationsNewestFirst(t *testing.T) {
	r := open(t, t.TempDir())
	first, second := evaluate(t, r, "d1", nil), evaluate(t, r, "d2", nil)
	other, err := r.BeginEvaluation(Evaluation{Specification: "other"})
	must(t, err)

	ids := func(specification string) (ids []int64) {
		for e, err := range r.Evaluations(specification) {
			must(t, err)
			ids = append(ids, e.ID)
		}
		return ids
	}
	if diff := cmp.Diff([]int64{second, first}, ids("sample")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int64{other, second, first}, ids("")); diff != "" {
		t.Error(diff)
	}
	e, err := r.EvaluationOf("sample", "d1")
	must(t, err)
	if e.ID != first {
		t.Errorf("evaluation of d1 is %d, want %d", e.ID, first)
	}
}

// The same derivation wanted by two jobs is one build, and settles both.
func TestBuildSettlesEveryJob(t *testing.T) {
	r := open(t, t.TempDir())
	id, err := r.BeginEvaluation(Evaluation{Specification: "sample"})
	must(t, err)
	must(t, r.AddJobs(id, Job{Name: "a", Derivation: "x.drv"}, Job{Name: "b", Derivation: "x.drv"},
		Job{Name: "c", Derivation: "y.drv"}, Job{Name: "bad", Error: "Unbound variable: foo"}))
	started := time.Now()
	must(t, r.StartBuild("x.drv", started, "x.log"))
	if got := jobs(t, r, id)["a"].Status; got != Running {
		t.Errorf("status while building is %v", got)
	}
	if running, err := r.LatestBuild("x.drv"); err != nil || running.Log != "x.log" {
		t.Errorf("the log of a build that runs: %+v %v", running, err)
	}
	b := Build{Derivation: "x.drv", Status: FailedOther, Cause: "silent too long", Attempts: 2, Started: started,
		Stopped: started.Add(time.Second), Log: "x.gz", Telling: []string{"one", "two"}}
	must(t, r.FinishBuild(b))
	must(t, r.FinishBuild(b)) // the same again is no second build

	got := jobs(t, r, id)
	for _, name := range []string{"a", "b"} {
		if j := got[name]; j.Status != FailedOther || j.Cause != "silent too long" || j.Log != "x.gz" || j.Build != got["a"].Build {
			t.Errorf("job %s: %+v", name, j)
		}
	}
	if j := got["c"]; j.Status != Scheduled || j.Build != 0 {
		t.Errorf("job c: %+v", j)
	}
	if j := got["bad"]; j.Status != Failed || j.Error != "Unbound variable: foo" {
		t.Errorf("job bad: %+v", j)
	}
	known, err := r.LatestBuild("x.drv")
	must(t, err)
	b.ID, b.Started, b.Stopped = known.ID, b.Started.UTC().Round(0), b.Stopped.UTC().Round(0)
	if diff := cmp.Diff(b, *known); diff != "" {
		t.Errorf("build (-want +got):\n%s", diff)
	}
	if known.ID != 1 {
		t.Errorf("saying it twice made build %d", known.ID)
	}
}

func TestFinishBuildWantsAnEnd(t *testing.T) {
	r := open(t, t.TempDir())
	if err := r.FinishBuild(Build{Derivation: "x.drv", Status: Running}); err == nil {
		t.Error("a running build was finished")
	}
}

func TestKnownBuild(t *testing.T) {
	r := open(t, t.TempDir())
	for drv, status := range map[string]Status{"ok.drv": Succeeded, "bad.drv": Failed, "dep.drv": DependencyFailed, "lost.drv": FailedOther, "gone.drv": Cancelled} {
		must(t, r.FinishBuild(Build{Derivation: drv, Status: status, Started: time.Now()}))
	}
	for _, drv := range []string{"dep.drv", "lost.drv", "gone.drv", "never.drv"} {
		if b, err := r.KnownBuild(drv); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s is remembered: %+v, %v", drv, b, err)
		}
	}
	all := []string{"ok.drv", "bad.drv", "dep.drv", "lost.drv", "gone.drv", "never.drv"}
	failures, err := r.KnownFailures(all)
	must(t, err)
	if len(failures) != 1 || failures["bad.drv"].Status != Failed {
		t.Errorf("known failures: %v", failures)
	}
	must(t, r.Forget("bad.drv"))
	if _, err := r.KnownBuild("bad.drv"); !errors.Is(err, ErrNotFound) {
		t.Errorf("forgotten failure: %v", err)
	}
	if failures, err = r.KnownFailures(all); err != nil || len(failures) != 0 {
		t.Errorf("after forgetting: %v, %v", failures, err)
	}
}

// A failure that was repaired is no known failure, and outputs found in the
// store are no second build.
func TestLaterSuccessWins(t *testing.T) {
	r := open(t, t.TempDir())
	must(t, r.FinishBuild(Build{Derivation: "x.drv", Status: Failed, Started: time.Now()}))
	must(t, r.FinishBuild(Build{Derivation: "x.drv", Status: Succeeded, Started: time.Now()}))
	must(t, r.FinishBuild(Build{Derivation: "x.drv", Status: Succeeded}))
	failures, err := r.KnownFailures([]string{"x.drv"})
	must(t, err)
	if len(failures) != 0 {
		t.Errorf("known failures: %v", failures)
	}
	b, err := r.KnownBuild("x.drv")
	must(t, err)
	if b.ID != 2 || b.Status != Succeeded {
		t.Errorf("known build: %+v", b)
	}
}

func TestWeather(t *testing.T) {
	// Each step is one evaluation: how the job ended, and the weather it then has.
	type step struct {
		status Status
		want   Weather
	}
	for name, steps := range map[string][]step{
		"breaks":           {{Succeeded, WeatherUnknown}, {Failed, NewFailure}, {Failed, StillFailing}, {DependencyFailed, StillFailing}},
		"is fixed":         {{Failed, WeatherUnknown}, {Succeeded, NewSuccess}, {Succeeded, StillSucceeding}},
		"cancelled in bad": {{Failed, WeatherUnknown}, {Cancelled, WeatherUnknown}, {Failed, StillFailing}},
		"cancelled in ok":  {{Succeeded, WeatherUnknown}, {Cancelled, WeatherUnknown}, {Succeeded, StillSucceeding}},
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t, t.TempDir())
			for i, s := range steps {
				id := evaluate(t, r, string(rune('a'+i)), map[string]Status{"hello": s.status})
				if got := jobs(t, r, id)["hello"].Weather; got != s.want {
					t.Errorf("step %d: %v after %v, want %v", i, got, s.status, s.want)
				}
			}
		})
	}
}

func TestWeatherOfUnloweredJob(t *testing.T) {
	r := open(t, t.TempDir())
	evaluate(t, r, "d1", map[string]Status{"hello": Succeeded})
	id, err := r.BeginEvaluation(Evaluation{Specification: "sample"})
	must(t, err)
	must(t, r.AddJobs(id, Job{Name: "hello", System: "x86_64-linux", Error: "boom"}))
	if got := jobs(t, r, id)["hello"].Weather; got != NewFailure {
		t.Errorf("weather %v", got)
	}
}

func TestTurn(t *testing.T) {
	r := open(t, t.TempDir())
	check := func(when string, want Turn) {
		t.Helper()
		got, err := r.JobTurn("sample", "hello", "x86_64-linux")
		must(t, err)
		if got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	check("nothing yet", Turn{})
	var ids []int64
	add := func(statuses ...Status) {
		for _, s := range statuses {
			ids = append(ids, evaluate(t, r, string(rune('a'+len(ids))), map[string]Status{"hello": s}))
		}
	}
	add(Cancelled)
	check("cancelled", Turn{})
	add(Failed)
	check("never good", Turn{Bad: true, Since: ids[1]})
	add(Succeeded, FailedOther, Failed, FailedOther, Cancelled)
	check("broken", Turn{Bad: true, Since: ids[4], Before: ids[2]})
	add(Succeeded, Succeeded)
	check("fixed", Turn{Since: ids[7], Before: ids[4]})

	if got, err := r.PullTurn("sample"); err != nil || got != (Turn{Since: ids[0]}) {
		t.Errorf("pull %+v %v", got, err)
	}
	end := func(s EvaluationStatus, verdict string) int64 {
		id, err := r.BeginEvaluation(Evaluation{Specification: "sample"})
		must(t, err)
		must(t, r.FinishEvaluation(id, s, json.RawMessage(verdict)))
		return id
	}
	end(EvaluationAborted, "")
	red := end(EvaluationFailed, `"red"`)
	end(EvaluationAborted, "")
	if got, err := r.PullTurn("sample"); err != nil || got != (Turn{Bad: true, Since: red, Before: ids[8]}) {
		t.Errorf("pull %+v %v", got, err)
	}
	early := end(EvaluationAborted, `"green"`) // it was only to be pulled
	if got, err := r.PullTurn("sample"); err != nil || got != (Turn{Since: early, Before: red}) {
		t.Errorf("pull %+v %v", got, err)
	}
}

func TestLastGreen(t *testing.T) {
	r := open(t, t.TempDir())
	check := func(when string, policy Policy, want int64) {
		t.Helper()
		e, err := r.LastGreen("sample", policy)
		if want == 0 {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v, %v, want none", when, e, err)
			}
			return
		}
		must(t, err)
		if e.ID != want {
			t.Errorf("%s: last green is %d, want %d", when, e.ID, want)
		}
	}
	hello := Policy{Jobs: []string{"hello"}}
	both := Policy{Jobs: []string{"hello", "guile"}}
	check("nothing yet", Policy{}, 0)

	green := evaluate(t, r, "d1", map[string]Status{"hello": Succeeded, "guile": Succeeded})
	partly := evaluate(t, r, "d2", map[string]Status{"hello": Succeeded, "guile": Failed})
	check("one job broke", Policy{}, green)
	check("one job broke", hello, partly)
	check("one job broke", both, green)
	check("a job nobody has", Policy{Jobs: []string{"nope"}}, 0)

	red, err := r.BeginEvaluation(Evaluation{Specification: "sample", LockDigest: "d3"})
	must(t, err)
	check("one is running", Policy{}, green)
	must(t, r.FinishEvaluation(red, EvaluationFailed, nil))
	check("the channel broke", Policy{}, green)

	pending, err := r.BeginEvaluation(Evaluation{Specification: "sample", LockDigest: "d4"})
	must(t, err)
	must(t, r.AddJobs(pending, Job{Name: "hello", Derivation: "p.drv"}))
	must(t, r.FinishEvaluation(pending, EvaluationSucceeded, nil))
	check("a build is pending", Policy{}, green)
	must(t, r.FinishBuild(Build{Derivation: "p.drv", Status: Succeeded}))
	check("all is built", Policy{}, pending)
}

func TestFailedEvaluationCancelsItsJobs(t *testing.T) {
	r := open(t, t.TempDir())
	id, err := r.BeginEvaluation(Evaluation{Specification: "sample"})
	must(t, err)
	must(t, r.AddJobs(id, Job{Name: "a", Derivation: "a.drv"}))
	must(t, r.FinishEvaluation(id, EvaluationFailed, nil))
	if got := jobs(t, r, id)["a"].Status; got != Cancelled {
		t.Errorf("status %v", got)
	}
}

func TestEventsAndSpecifications(t *testing.T) {
	r := open(t, t.TempDir())
	first, err := r.AddEvent(Event{Kind: "lock", Evaluation: 7})
	must(t, err)
	_, err = r.AddEvent(Event{Kind: "green", Data: json.RawMessage(`{"a":1}`)})
	must(t, err)
	events, err := collect(r.Events(first))
	must(t, err)
	if len(events) != 1 || events[0].Kind != "green" || string(events[0].Data) != `{"a":1}` || events[0].Time.IsZero() {
		t.Errorf("events after the first: %+v", events)
	}
	must(t, r.PutSpecification(Specification{Name: "s", Data: json.RawMessage(`1`)}))
	must(t, r.PutSpecification(Specification{Name: "s", Data: json.RawMessage(`2`)}))
	specs, err := collect(r.Specifications())
	must(t, err)
	if diff := cmp.Diff([]Specification{{Name: "s", Data: json.RawMessage(`2`)}}, specs); diff != "" {
		t.Error(diff)
	}
}

func TestNewerRecordIsRefused(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	_, err := r.db.Exec("PRAGMA user_version = 999")
	must(t, err)
	must(t, r.Close())
	for name, f := range map[string]func(string) (*Record, error){"Open": Open, "OpenReadOnly": OpenReadOnly} {
		if _, err := f(dir); err == nil {
			t.Errorf("%s: a record from the future was opened", name)
		}
	}
}

// The verdict on what goes on is there before its end.
func TestJudgeEvaluation(t *testing.T) {
	r := open(t, t.TempDir())
	id, err := r.BeginEvaluation(Evaluation{Specification: "sample"})
	must(t, err)
	must(t, r.JudgeEvaluation(id, json.RawMessage(`"green"`)))
	if e, err := r.Evaluation(id); err != nil || string(e.Verdict) != `"green"` || e.Status != EvaluationStarted || !e.Finished.IsZero() {
		t.Errorf("%+v %v", e, err)
	}
	must(t, r.FinishEvaluation(id, EvaluationSucceeded, json.RawMessage(`"green"`)))
	for _, other := range []int64{id, id + 1} {
		if err := r.JudgeEvaluation(other, nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("evaluation %d: %v", other, err)
		}
	}
}
