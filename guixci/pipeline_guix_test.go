package guixci_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/specification"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/internal/samples"
	"github.com/genenetwork/guixci/substitute"
)

// A bench is sample repositories and a pipeline for them.
type bench struct {
	*guixci.Pipeline
	set   *samples.Set
	state string

	mu     sync.Mutex // guards events
	events map[guixci.Kind]int
	builds map[build.Kind]int
	also   func(guixci.Event) // nil, or told of each event, too
}

// newBench makes samples that nobody has built before.
func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{state: filepath.Join(dir, "state")}
	var err error
	if b.set, err = samples.Make(filepath.Join(dir, "git"), rand.Text()); err != nil {
		t.Fatal(err)
	}
	b.open(t, guixci.Options{Slots: 2, Publish: true})
	t.Cleanup(func() { b.Close() })
	return b
}

// open opens the state directory, anew if it was open.
func (b *bench) open(t *testing.T, o guixci.Options) {
	t.Helper()
	if b.Pipeline != nil {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b.forget()
	o.Log = testLog{t}
	o.Notify = func(e guixci.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events[e.Kind]++
		if e.Build != nil {
			b.builds[e.Build.Kind]++
		}
		if b.also != nil {
			b.also(e)
		}
	}
	var err error
	if b.Pipeline, err = guixci.Open(b.state, o); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events, b.builds = map[guixci.Kind]int{}, map[build.Kind]int{}
}

// happened returns the numbers of events since the last forget.
func (b *bench) happened() (map[guixci.Kind]int, map[build.Kind]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.events, b.builds
}

// spec is green when the jobs of these packages are, or all jobs without any.
func (b *bench) spec(packages ...string) guixci.Specification {
	var jobs []string
	for _, name := range packages {
		jobs = append(jobs, jobName(name))
	}
	return guixci.Specification{Name: "sample", Channels: b.set.Channels(), Green: record.Policy{Jobs: jobs}}
}

func jobName(name string) string {
	return name + "." + map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] + "-linux"
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// mustRun is Run, which has an answer.
func (b *bench) mustRun(t *testing.T, spec guixci.Specification) *guixci.Report {
	t.Helper()
	r, err := b.Run(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantStatuses is what becomes of the samples as they are made.
var wantStatuses = map[string]string{
	"sample-broken": "failed", "sample-hello": "succeeded", "sample-needs-broken": "failed-dependency",
	"sample-project": "succeeded", "sample-slow": "succeeded", "sample-slow-reader": "succeeded",
	"sample-slow-writer": "succeeded", "sample-talker": "succeeded", "sample-two-outputs": "succeeded",
	"sample-unlowerable": "failed",
}

func statuses(r *guixci.Report) map[string]string {
	all := map[string]string{}
	for _, j := range r.Jobs {
		name, _, _ := strings.Cut(j.Name, ".")
		all[name] = j.Status.String()
	}
	return all
}

func TestRun(t *testing.T) {
	guixtest.Require(t)
	b := newBench(t)
	if _, err := b.set.Repo(samples.Project).Commit("master", "Add a system with a mistake.", map[string]string{
		"deploy/wrong/container.scm": "(use-modules (gnu))\n\n(list\n  no-such-name)\n",
		"deploy/wrong/loads.scm":     "(use-modules (gnu))\n(load \"../common/said.scm\")\n",
		"deploy/common/said.scm":     "(error \"the other file was read\")\n"}, b.set.Alice); err != nil {
		t.Fatal(err)
	}
	spec := b.spec("sample-project", "sample-hello")
	followed := follow(t, b)
	r := b.mustRun(t, spec)
	followed()
	if diff := cmp.Diff(wantStatuses, statuses(r)); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
	// Of the 10 jobs one has no derivation and one needs what fails.
	if !r.Green || r.Unchanged || r.Built != 8 || r.LastGreen == nil || r.LastGreen.Digest() != r.Digest || len(r.Undecided()) != 0 {
		t.Errorf("report %+v", r)
	}
	events, builds := b.happened()
	if want := map[guixci.Kind]int{guixci.Locked: 1, guixci.Authenticated: 1, guixci.Pulled: 1, guixci.Evaluated: 10,
		guixci.Enumerated: 1, guixci.Built: builds[build.Started] + builds[build.Finished] + builds[build.JobDone]}; !cmp.Equal(want, events) {
		t.Errorf("events %v, want %v", events, want)
	}
	if builds[build.Started] != 8 || builds[build.JobDone] != 9 {
		t.Errorf("build events %v", builds)
	}

	t.Run("NoSystem", func(t *testing.T) { noSystem(t, b, r.Lock) })
	t.Run("Cache", func(t *testing.T) { servedFromCache(t, b, r) })
	t.Run("Cancelled", func(t *testing.T) { cancelled(t, b) })
	t.Run("NoRoom", func(t *testing.T) { noRoom(t, b) })
	t.Run("Policy", func(t *testing.T) { stricter(t, b) })
	t.Run("Held", func(t *testing.T) { held(t, b) })
	t.Run("Unchanged", func(t *testing.T) { unchanged(t, b) })
}

// follow follows the log of sample-slow, twice while it is built and once later. The
// function returned waits for that.
func follow(t *testing.T, b *bench) (wait func()) {
	var group sync.WaitGroup
	var drv store.StorePath
	read := func() {
		text := ""
		for piece, err := range b.Follow(t.Context(), drv) {
			if err != nil {
				t.Error(err)
			}
			text += string(piece)
		}
		if !strings.Contains(text, "taking its time\n") {
			t.Errorf("log of sample-slow: %q", text)
		}
	}
	b.also = func(e guixci.Event) {
		if e.Build != nil && e.Build.Kind == build.Started && strings.HasSuffix(string(e.Build.Derivation), "-sample-slow-1.0.drv") {
			drv = e.Build.Derivation
			group.Go(read)
			group.Go(read)
		}
	}
	return func() {
		b.also = nil
		group.Wait()
		read()
	}
}

// noSystem asks for containers that cannot be.
func noSystem(t *testing.T, b *bench, lock *channel.Lock) {
	tests := []struct {
		system guixci.System
		want   string
	}{
		{guixci.System{Channel: "other", File: "container.scm"}, `no channel "other" in the lock`},
		{guixci.System{Channel: samples.Project, File: "deploy/missing.scm"}, `channel sample-project has no file "deploy/missing.scm" at commit `},
		{guixci.System{Channel: samples.Project, File: "deploy"}, `channel sample-project has no file "deploy" at commit `},
		{guixci.System{Channel: samples.Project, File: "deploy/wrong/container.scm"}, "no-such-name"},
		{guixci.System{Channel: samples.Project, File: "deploy/wrong/loads.scm"}, "the other file was read"},
	}
	for _, test := range tests {
		_, err := b.Container(t.Context(), lock, test.system)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.system, err, test.want)
		}
		var failed *inferior.SystemError
		if strings.Contains(test.want, "no-such") && (!errors.As(err, &failed) || failed.Location.Line != 4 ||
			!strings.HasSuffix(failed.Location.File, "deploy/wrong/container.scm")) {
			t.Errorf("%v does not say where", err)
		}
	}
}

// servedFromCache fetches what the store has no more.
func servedFromCache(t *testing.T, b *bench, r *guixci.Report) {
	j, _ := r.Job(jobName("sample-talker"))
	drv, err := store.ReadDerivation(store.StorePath(j.Derivation))
	if err != nil {
		t.Fatal(err)
	}
	item := drv.Outputs[0].Path
	if err := os.Remove(filepath.Join(b.state, "roots", item.Base())); err != nil {
		t.Fatal(err)
	}
	storetest.Remove(t, b.Store(), item)
	if valid, err := b.Store().Valid(t.Context(), item); valid || err != nil {
		t.Fatalf("%s was not deleted: %v", item, err)
	}
	handler, err := b.Handler()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	narinfo := get(t, server.URL+"/"+item.Hash()+".narinfo")
	info, err := substitute.ParseNarInfo([]byte(narinfo))
	if err != nil {
		t.Fatalf("%v in %s", err, narinfo)
	}
	if info.StorePath != item {
		t.Errorf("narinfo of %s, want %s", info.StorePath, item)
	}
	for _, u := range info.URLs {
		if body := get(t, server.URL+"/"+u.URL); u.FileSize > 0 && int64(len(body)) != u.FileSize {
			t.Errorf("%s has %d bytes, want %d", u.URL, len(body), u.FileSize)
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("get %s: %s %v: %s", url, resp.Status, err, body)
	}
	return string(body)
}

// cancelled stops the build of what was deleted, about which nothing is known then.
func cancelled(t *testing.T, b *bench) {
	b.also = func(e guixci.Event) {
		if e.Build != nil && e.Build.Kind == build.Started {
			b.Cancel(e.Build.Derivation)
		}
	}
	defer func() { b.also = nil }()
	r := b.mustRun(t, b.spec())
	if j, _ := r.Job(jobName("sample-talker")); j.Status != record.Cancelled || j.Weather != record.WeatherUnknown || len(r.Undecided()) != 1 {
		t.Errorf("a cancelled build: %+v, %d undecided", j, len(r.Undecided()))
	}
	b.Cancel("/gnu/store/09hwjnf10095ajxx8idsyz2wvrw1z8ci-nobody.drv") // nobody is at work
}

// noRoom wants more free space than there is before it builds what was deleted.
func noRoom(t *testing.T, b *bench) {
	b.open(t, guixci.Options{Slots: 2, Publish: true, MinFree: 1 << 62})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	full := errors.New("seen that there is no room")
	b.also = func(e guixci.Event) {
		if e.Build != nil && e.Build.Kind == build.Retrying && e.Build.Result.Cause == build.DiskFull {
			cancel(full)
		}
	}
	defer func() { b.also = nil }()
	if _, err := b.Run(ctx, b.spec()); !errors.Is(err, full) {
		t.Errorf("%v, want that it was tried in vain", err)
	}
	b.open(t, guixci.Options{Slots: 2, Publish: true})
}

// stricter asks for all jobs, some of which are there to fail.
func stricter(t *testing.T, b *bench) {
	b.forget()
	r := b.mustRun(t, b.spec())
	if r.Green || r.Unchanged || r.LastGreen != nil {
		t.Errorf("green although jobs fail: %+v", r)
	}
	// sample-talker was deleted; failures are remembered.
	if _, builds := b.happened(); r.Built != 1 || builds[build.Started] != 1 {
		t.Errorf("%d derivations were built again: %v", r.Built, builds)
	}
	if diff := cmp.Diff(wantStatuses, statuses(r)); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

// held opens the state directory a second time.
func held(t *testing.T, b *bench) {
	_, err := guixci.Open(b.state, guixci.Options{})
	var busy *record.HeldError
	if !errors.As(err, &busy) || busy.PID != os.Getpid() || busy.Dir != b.state || busy.Advice() == "" {
		t.Errorf("%v, want that process %d has it", err, os.Getpid())
	}
}

// unchanged runs with a Guix and a daemon that do not exist, so that whatever
// asks them for something ends in an error.
func unchanged(t *testing.T, b *bench) {
	before := b.mustRun(t, b.spec())
	b.open(t, guixci.Options{Guix: "/nonexistent/guix", Daemon: "/nonexistent/socket"})
	r := b.mustRun(t, b.spec())
	events, _ := b.happened()
	if !r.Unchanged || r.Built != 0 || len(events) != 0 {
		t.Errorf("%+v with events %v, want it unchanged", r, events)
	}
	before.Unchanged, before.Commits, before.Built = r.Unchanged, r.Commits, r.Built
	if diff := cmp.Diff(statuses(before), statuses(r)); diff != "" || r.Evaluation != before.Evaluation || !cmp.Equal(before.Verdict, r.Verdict) {
		t.Errorf("report differs from that of the run itself: %+v, want %+v\n%s", r, before, diff)
	}

	changes := map[string]func(*guixci.Specification){
		"channels to build": func(s *guixci.Specification) { s.Build = specification.Channels(samples.Project) },
		"systems":           func(s *guixci.Specification) { s.Systems = []string{"i686-linux"} },
		"policy":            func(s *guixci.Specification) { s.Green.Jobs = []string{jobName("sample-hello")} },
	}
	for name, change := range changes {
		spec := b.spec()
		change(&spec)
		if r, err := b.Run(t.Context(), spec); err == nil && r.Unchanged {
			t.Errorf("other %s: unchanged", name)
		}
		// The attempt is no reason to take the old evaluation for one of the new specification.
		if r, err := b.Run(t.Context(), spec); err == nil && r.Unchanged {
			t.Errorf("other %s, again: unchanged", name)
		}
	}
	// Another introduction is another question, which needs no Guix to be answered.
	spec := b.spec()
	intro := *spec.Channels[1].Introduction
	intro.Commit = channel.Commit(strings.Repeat("1", 40))
	spec.Channels[1].Introduction = &intro
	if r, err := b.Run(t.Context(), spec); err != nil || r.Unchanged || r.Verdict.Stage != "authenticate" {
		t.Errorf("other introduction: %+v %v", r, err)
	}
	spec = b.spec()
	spec.Build = specification.Channels("nobodys")
	var wrong *guixci.SpecificationError
	if _, err := b.Run(t.Context(), spec); !errors.As(err, &wrong) {
		t.Errorf("a channel that is not in the lock: %v", err)
	}
	noneStarted(t, b.Pipeline)
}

// noneStarted checks that no evaluation is open.
func noneStarted(t *testing.T, p *guixci.Pipeline) {
	t.Helper()
	for e, err := range p.Record().Evaluations("") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Status == record.EvaluationStarted {
			t.Errorf("evaluation %d is left %s", e.ID, e.Status)
		}
	}
}

// A specification is not taken for evaluated because its channels could not be fetched
// after another one of the name was, nor is a lock whose profile is gone.
func TestNotUnchanged(t *testing.T) {
	guixtest.Require(t)
	b := newBench(t)
	spec := b.spec()
	spec.Build = specification.Channels(samples.Project)
	if r := b.mustRun(t, spec); !r.Green || len(r.Jobs) != 1 {
		t.Fatalf("%+v", r)
	}
	both := spec
	both.Build = specification.Build{}
	away := b.set.Repo(samples.Project).Dir + ".away"
	if err := os.Rename(b.set.Repo(samples.Project).Dir, away); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Run(t.Context(), both); err == nil || !strings.Contains(err.Error(), "sample-project.git") {
		t.Errorf("with a repository gone: %v", err)
	}
	if err := os.Rename(away, b.set.Repo(samples.Project).Dir); err != nil {
		t.Fatal(err)
	}
	if r := b.mustRun(t, both); r.Unchanged || len(r.Jobs) != 10 {
		t.Errorf("unchanged: %v, %d jobs", r.Unchanged, len(r.Jobs))
	}
	r := b.mustRun(t, both)
	if !r.Unchanged {
		t.Error("changed although nothing did")
	}
	if err := os.Remove(filepath.Join(b.state, "profiles", r.Digest)); err != nil {
		t.Fatal(err)
	}
	r = b.mustRun(t, both)
	if r.Unchanged || r.Built != 0 {
		t.Errorf("without its profile: unchanged %v, %d built", r.Unchanged, r.Built)
	}
	if _, err := os.Stat(r.Verdict.Profile); err != nil {
		t.Error(err)
	}
}

func TestVerdicts(t *testing.T) {
	guixtest.Require(t)
	b := newBench(t)
	repo := b.set.Repo(samples.Channel)
	honest, _ := repo.Head("master")
	if _, err := repo.Commit("master", "Greet differently.", map[string]string{"README": "mine now"}, b.set.Mallory); err != nil {
		t.Fatal(err)
	}
	r := b.mustRun(t, b.spec())
	v := r.Verdict
	if v.Green || r.Green || v.Stage != "authenticate" || v.Channel != samples.Channel || v.Cause != "unauthorized-signer" || v.Hint == "" || len(r.Jobs) != 0 {
		t.Errorf("a commit of mallory's: %+v", v)
	}
	if pulled, _ := os.ReadDir(filepath.Join(b.state, "profiles")); len(pulled) != 0 {
		t.Errorf("it was pulled all the same: %v", pulled)
	}
	if !b.mustRun(t, b.spec()).Unchanged {
		t.Error("a refused commit is looked at again")
	}

	if err := repo.SetBranch("master", honest); err != nil {
		t.Fatal(err)
	}
	if _, err := b.set.Break(); err != nil {
		t.Fatal(err)
	}
	r = b.mustRun(t, b.spec())
	v = r.Verdict
	if v.Green || v.Stage != "build" || v.Channel != samples.Channel || v.Cause != "unbound-variable" || v.Module != "(sample packages)" ||
		v.File != "sample/packages.scm" || v.Line == 0 || r.LastGreen != nil {
		t.Errorf("a broken channel: %+v", v)
	}

	if _, err := b.set.Repair(); err != nil {
		t.Fatal(err)
	}
	// Two at the same time: one does it, the other one learns what it found.
	b.forget()
	reports := make([]*guixci.Report, 2)
	var group sync.WaitGroup
	for i := range reports {
		group.Go(func() {
			var err error
			if reports[i], err = b.Run(t.Context(), b.spec()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	if x, y := reports[0], reports[1]; !x.Green || !y.Green || x.Unchanged == y.Unchanged || x.Evaluation != y.Evaluation {
		t.Errorf("two runs: %+v\n%+v", x, y)
	}
	if events, _ := b.happened(); events[guixci.Pulled] != 1 || events[guixci.Evaluated] != 10 {
		t.Errorf("events of two runs: %v", events)
	}
	noneStarted(t, b.Pipeline)
}

// A run that waits for another one can be given up.
func TestTurn(t *testing.T) {
	guixtest.Require(t)
	b := newBench(t)
	first, cancelFirst := context.WithCancel(t.Context())
	defer cancelFirst()
	pulling := make(chan struct{})
	b.Close()
	var err error
	b.Pipeline, err = guixci.Open(b.state, guixci.Options{Log: onFirstWrite(pulling)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := b.Run(first, b.spec())
		ended <- err
	}()
	<-pulling
	second, cancelSecond := context.WithCancel(t.Context())
	cancelSecond()
	if _, err := b.Run(second, b.spec()); !errors.Is(err, context.Canceled) {
		t.Errorf("the second run: %v", err)
	}
	cancelFirst()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the first run: %v", err)
	}
	noneStarted(t, b.Pipeline)
}

// onFirstWrite closes the channel when it is first written to.
func onFirstWrite(c chan struct{}) io.Writer {
	var once sync.Once
	return writerFunc(func([]byte) { once.Do(func() { close(c) }) })
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }
