package guixci_test

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/specification"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/internal/samples"
)

// daemonLog is when guix-daemon last wrote the log of a derivation; the zero Time if never.
func daemonLog(drv store.StorePath) time.Time {
	base := filepath.Base(string(drv))
	for _, suffix := range []string{".gz", ".bz2", ""} {
		if info, err := os.Stat(filepath.Join("/var/log/guix/drvs", base[:2], base[2:]+suffix)); err == nil {
			return info.ModTime()
		}
	}
	return time.Time{}
}

// Specifications that want the same things have them built once, those of the most urgent one
// first, and each has all its answers.
func TestRunAll(t *testing.T) {
	guixtest.Require(t)
	b := newBench(t)
	manifest := `(specifications->manifest (list "sample-hello" "sample-slow"))`
	if _, err := b.set.Repo(samples.Project).Commit("master", "Add a manifest.", map[string]string{
		"ci/manifest.scm": "(load \"list.scm\")\n", "ci/list.scm": manifest}, b.set.Alice); err != nil {
		t.Fatal(err)
	}
	var mu = &b.mu
	var finished []build.Event
	owners := map[string]int{}
	b.Close()
	var err error
	b.Pipeline, err = guixci.Open(b.state, guixci.Options{Log: testLog{t}, Notify: func(e guixci.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind == guixci.Built && e.Build.Kind == build.Finished {
			finished = append(finished, *e.Build)
		}
		if e.Kind == guixci.Built && e.Build.Kind == build.JobDone {
			owners[e.Specification]++
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	specs := []guixci.Specification{
		{Name: "all", Channels: b.set.Channels(), Priority: 9},
		{Name: "manifest", Channels: b.set.Channels(), Priority: 1, Timeout: time.Hour,
			Build: specification.Build{Mode: "manifests", Arguments: []string{"ci/manifest.scm"}}},
		{Name: "packages", Channels: b.set.Channels(), Priority: 5, Sessions: 2,
			Build: specification.Build{Mode: "packages", Arguments: []string{"sample-slow-reader", "sample-broken"}}},
		{Name: "asleep", Channels: b.set.Channels(), Inactive: true},
	}
	outcomes := b.RunAll(t.Context(), specs...)
	jobs := map[string]map[string]string{}
	for i, o := range outcomes {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if o.Specification.Name != specs[i].Name {
			t.Errorf("outcome %d is of %s", i, o.Specification.Name)
		}
		if o.Report != nil {
			jobs[specs[i].Name] = statuses(o.Report)
		}
	}
	want := map[string]map[string]string{
		"all":      wantStatuses,
		"manifest": {"sample-hello-1": "succeeded", "sample-slow-1": "succeeded"},
		"packages": {"sample-slow-reader": "succeeded", "sample-broken": "failed"},
	}
	if diff := gocmp.Diff(want, jobs); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	if want := map[string]int{"all": 9, "manifest": 2, "packages": 2}; !gocmp.Equal(want, owners) {
		t.Errorf("jobs done %v, want %v", owners, want)
	}
	if !outcomes[1].Report.Green || outcomes[1].Report.Built != 8 {
		t.Errorf("report %+v", outcomes[1].Report)
	}
	// Each once, says the daemon, too: its log is from the one time that we saw.
	times := map[store.StorePath]int{}
	for _, e := range finished {
		if e.Result.Attempts == 0 {
			continue
		}
		times[e.Derivation]++
		if at := daemonLog(e.Derivation); at.Before(e.Result.Started.Add(-time.Second)) || at.After(e.Result.Stopped.Add(time.Second)) {
			t.Errorf("%s: the daemon's log is of %v, and the build was from %v to %v", e.Derivation.Name(), at, e.Result.Started, e.Result.Stopped)
		}
	}
	for drv, n := range times {
		if n != 1 {
			t.Errorf("%s was built %d times", drv.Name(), n)
		}
	}
	if len(times) != 8 {
		t.Errorf("%d derivations were built, want 8", len(times))
	}
	// What the manifest wants goes before what only the least urgent one does.
	at := func(name string) int {
		return slices.IndexFunc(finished, func(e build.Event) bool { return strings.Contains(string(e.Derivation), name+"-1.0.drv") })
	}
	if hello, talker := at("sample-hello"), at("sample-talker"); cmp.Compare(hello, talker) >= 0 {
		t.Errorf("sample-hello was number %d to be built, sample-talker %d", hello, talker)
	}
	for _, o := range b.RunAll(t.Context(), specs...) {
		if o.Err != nil || o.Report != nil && !o.Report.Unchanged {
			t.Errorf("%s again: %+v %v", o.Specification.Name, o.Report, o.Err)
		}
	}
	t.Run("Retry", func(t *testing.T) { retried(t, b, specs[2]) })
	t.Run("Until", func(t *testing.T) { until(t, b) })
	t.Run("Errors", func(t *testing.T) { someFail(t, b, specs) })
}

// retried builds what failed once more, and nothing else.
func retried(t *testing.T, b *bench, spec guixci.Specification) {
	if n, err := b.Retry(t.Context(), spec.Name, "nobody"); n != 0 || err != nil {
		t.Errorf("retry of a job that is not: %d %v", n, err)
	}
	if n, err := b.Retry(t.Context(), spec.Name); n != 1 || err != nil {
		t.Errorf("retry: %d %v", n, err)
	}
	if r := b.mustRun(t, spec); r.Unchanged || r.Built != 1 {
		t.Errorf("after retry: unchanged %v, built %d", r.Unchanged, r.Built)
	}
	if r := b.mustRun(t, spec); !r.Unchanged {
		t.Error("and again")
	}
}

// until ends a run early, and then goes on.
func until(t *testing.T, b *bench) {
	spec := b.spec()
	spec.Name = "until"
	b.open(t, guixci.Options{Until: guixci.Pulled})
	if r := b.mustRun(t, spec); !r.Verdict.Green || r.Green || len(r.Jobs) != 0 {
		t.Errorf("until pulled: %+v", r)
	}
	b.open(t, guixci.Options{Until: guixci.Enumerated})
	if r := b.mustRun(t, spec); len(r.Jobs) != 10 || r.Built != 0 || r.Green || len(r.Undecided()) != 9 {
		t.Errorf("until enumerated: %+v", r)
	}
	b.open(t, guixci.Options{})
	if r := b.mustRun(t, spec); r.Unchanged || len(r.Undecided()) != 0 {
		t.Errorf("to the end: %+v", r)
	}
	noneStarted(t, b.Pipeline)
}

// someFail has one specification that cannot be resolved, which is nothing to the others.
func someFail(t *testing.T, b *bench, specs []guixci.Specification) {
	gone := guixci.Specification{Name: "gone", Channels: channel.List{{Name: "guix", URL: "file:///nonexistent.git"}}}
	outcomes := b.RunAll(t.Context(), gone, specs[1])
	if outcomes[0].Err == nil || outcomes[1].Err != nil || !outcomes[1].Report.Green {
		t.Errorf("outcomes %+v", outcomes)
	}
	outcomes = b.RunAll(t.Context(), specs[1], specs[1])
	if outcomes[0].Err == nil || outcomes[1].Err == nil {
		t.Error("two of one name were run")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	other := specs[1]
	other.Green = record.Policy{Jobs: []string{"x"}}
	if o := b.RunAll(ctx, other); o[0].Err == nil {
		t.Error("run although it was given up")
	}
}
