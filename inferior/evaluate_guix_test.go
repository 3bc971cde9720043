package inferior_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// onPackages are options for the packages of testdata.
func onPackages(t *testing.T, specs ...string) inferior.EvaluateOptions {
	t.Helper()
	dir, err := filepath.Abs("testdata/packages")
	if err != nil {
		t.Fatal(err)
	}
	return inferior.EvaluateOptions{
		Session:  inferior.Options{Stderr: testLog{t}},
		LoadPath: []string{dir},
		Packages: specs,
	}
}

// evaluate returns the jobs by package.
func evaluate(t *testing.T, o inferior.EvaluateOptions) map[string]inferior.Job {
	t.Helper()
	jobs := make(map[string]inferior.Job)
	for job, err := range inferior.Evaluate(t.Context(), o) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := jobs[job.Package]; twice {
			t.Errorf("%s comes twice", job.Package)
		}
		jobs[job.Package] = job
	}
	return jobs
}

func TestGuixEvaluatePackages(t *testing.T) {
	guixtest.Require(t)
	jobs := evaluate(t, onPackages(t, "hello", "fine"))
	if len(jobs) != 2 {
		t.Fatalf("%d jobs", len(jobs))
	}
	hello := jobs["hello"]
	if hello.Name != "hello.x86_64-linux" || hello.Err != nil || hello.License != "GPL 3+" || !hello.Substitutable ||
		hello.Location.File != "gnu/packages/base.scm" || hello.Location.Line == 0 || hello.NixName != "hello-"+hello.Version ||
		hello.MaxSilentTime != time.Hour || hello.Timeout != 20*time.Hour || hello.Synopsis == "" || hello.HomePage == "" {
		t.Errorf("%+v", hello)
	}
	if _, err := os.Stat(hello.Derivation); err != nil {
		t.Error(err)
	}
	if out := hello.Outputs["out"]; !strings.HasPrefix(out, "/gnu/store/") || !strings.HasSuffix(out, "-"+hello.NixName) {
		t.Errorf("outputs %v", hello.Outputs)
	}
	fine := jobs["fine"]
	if fine.Timeout != time.Minute || fine.License != "GPL 3+, Expat" ||
		!strings.HasSuffix(fine.Location.File, "broken/loads.scm") {
		t.Errorf("%+v", fine)
	}
}

// One bad package is one bad job, whatever it does.
func TestGuixEvaluateBroken(t *testing.T) {
	guixtest.Require(t)
	o := onPackages(t, "fine", "unbound-input", "says-why", "wrong-input", "killer", "chatter",
		"no-substitutes", "no-such-package", "eater")
	o.SessionMemory = 500 << 20
	jobs := evaluate(t, o)
	for name, want := range map[string]struct{ key, message string }{
		"unbound-input":   {"unbound-variable", "Unbound variable: linux-libre-7.2"},
		"says-why":        {"&formatted-message", "2024 is not the year 2025"},
		"wrong-input":     {"&package-input-error", "invalid"},
		"killer":          {"session-ended", "signal: killed"},
		"eater":           {"package-memory", "at most 1000 MiB allowed"},
		"no-such-package": {"quit", "no-such-package: unknown package"},
	} {
		job, ok := jobs[name]
		if !ok || job.Err == nil {
			t.Errorf("%s: no exception in %+v", name, job)
			continue
		}
		if job.Err.Key != want.key || !strings.Contains(job.Err.Message(), want.message) {
			t.Errorf("%s: %q %q", name, job.Err.Key, job.Err.Message())
		}
	}
	for _, name := range []string{"fine", "chatter", "no-substitutes"} {
		if job := jobs[name]; job.Err != nil || job.Derivation == "" {
			t.Errorf("%s: %+v", name, job)
		}
	}
	if len(jobs["unbound-input"].Err.Stack) == 0 {
		t.Error("no stack")
	}
	if jobs["no-substitutes"].Substitutable {
		t.Error("no-substitutes is substitutable")
	}
	if len(jobs) != 9 {
		t.Errorf("%d jobs", len(jobs))
	}
}

// One that never ends costs the time that it may take, and itself.
func TestGuixEvaluateForEver(t *testing.T) {
	guixtest.Require(t)
	o := onPackages(t, "fine", "for-ever", "chatter")
	o.PackageTimeout = 10 * time.Second
	_, jobs, limit := patiently(t, o, "for-ever")
	if job := jobs["for-ever"]; job.Err == nil || job.Err.Key != "package-timeout" || job.Err.Message() != "not lowered within "+limit.String() {
		t.Errorf("%+v", job)
	}
	if len(jobs) != 3 || jobs["fine"].Err != nil || jobs["chatter"].Err != nil {
		t.Errorf("%v", jobs)
	}
}

func TestGuixEvaluateSystems(t *testing.T) {
	guixtest.Require(t)
	o := onPackages(t, "hello")
	o.Systems = []string{"x86_64-linux", "aarch64-linux"}
	var names []string
	drvs := map[string]bool{}
	for job, err := range inferior.Evaluate(t.Context(), o) {
		if err != nil || job.Err != nil {
			t.Fatal(err, job.Err)
		}
		names = append(names, job.Name)
		drvs[job.Derivation] = true
	}
	if got := strings.Join(names, " "); got != "hello.x86_64-linux hello.aarch64-linux" || len(drvs) != 2 {
		t.Errorf("%s, %d derivations", got, len(drvs))
	}
}

func TestGuixEvaluateCancelled(t *testing.T) {
	guixtest.Require(t)
	reason := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var last error
	n := 0
	for _, err := range inferior.Evaluate(ctx, onPackages(t, "fine", "for-ever")) {
		last = err
		n++
		cancel(reason)
	}
	if n != 2 || !errors.Is(last, reason) {
		t.Errorf("%d results, last %v", n, last)
	}
}

func TestGuixEvaluateNothing(t *testing.T) {
	guixtest.Require(t)
	if jobs := evaluate(t, inferior.EvaluateOptions{}); len(jobs) != 0 {
		t.Errorf("%v", jobs)
	}
	if jobs := evaluate(t, inferior.EvaluateOptions{Channels: []string{"no-such-channel"}}); len(jobs) != 0 {
		t.Errorf("%v", jobs)
	}
}
