package containertest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/inferior/sexp"
)

// Deploy deploys a run-container script that works, its runner being called name, and tests
// that the container comes back when it is killed, is found by others, is not started
// twice, and leaves nothing behind.
// The container sees the exposed directories of the machine.
func Deploy(t *testing.T, name string, r container.Runner, script string, exposed []string) {
	t.Helper()
	d := container.Deployment{
		Name: "real", Dir: t.TempDir(), Runners: map[string]container.Runner{name: r},
		Shares:      []container.Mount{{Source: t.TempDir(), Target: "/srv/state"}},
		Environment: container.Environment{Runner: name},
		Schedule:    container.Schedule{StartPeriod: 3 * time.Minute, Interval: 200 * time.Millisecond, Window: 400 * time.Millisecond},
	}
	for _, dir := range exposed {
		d.Exposes = append(d.Exposes, container.Mount{Source: dir})
	}
	if _, err := d.Apply(t.Context(), container.Revision{Script: script, Why: "a test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Stop(context.Background()) })
	first, err := d.Running()
	if err != nil {
		t.Fatal(err)
	}
	said := func() (starts int, last string) {
		var log, service strings.Builder
		if err := errors.Join(d.Logs(t.Context(), &log, "", false), d.Logs(t.Context(), &service, "counter", false)); err != nil {
			t.Fatal(err)
		}
		return strings.Count(log.String(), "] counter is counting\n"), service.String()
	}
	before := 0 // it may have had to boot twice
	await(t, "what a service says", func() bool {
		var last string
		before, last = said()
		return last == "counter is counting\n"
	})
	if err := unix.Kill(first.Process.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := first
	await(t, "restart", func() bool {
		second, err = d.Running()
		return err == nil && second.Process != first.Process && isUp(t, second)
	})
	if first.Launcher.Alive() {
		t.Error("the first launcher is there beside the second")
	}
	await(t, "what the services of both have said", func() bool {
		starts, last := said()
		return starts == before+1 && last == "counter is counting\n"
	})
	other := d
	found, err := other.Start(t.Context())
	if err != nil || found.Process != second.Process || found.Launcher != second.Launcher {
		t.Errorf("somebody else found %+v, %v", found, err)
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if second.Alive() || second.Launcher.Alive() {
		t.Error("it runs on")
	}
	names, err := r.Units(t.Context())
	if err != nil || len(names) > 0 {
		t.Errorf("units %q, %v", names, err)
	}
}

// SampleScript has Guix build the container of package container's testdata, as seen from a
// package beside it. Its web server listens on the port, which nobody else may take in the meantime.
func SampleScript(t *testing.T, port int) string {
	t.Helper()
	// ((@ (sample-system) sample-system) #:port 80 #:greeting "one" #:mode 'works)
	system := sexp.L(sexp.L(sexp.Symbol("@"), sexp.L(sexp.Symbol("sample-system")), sexp.Symbol("sample-system")),
		sexp.Keyword("port"), sexp.Int(port), sexp.Keyword("greeting"), sexp.String("one"),
		sexp.Keyword("mode"), sexp.Quote(sexp.Symbol("works")))
	cmd := exec.CommandContext(t.Context(), "guix", "system", "container", "--network",
		"--load-path=../testdata", "--expression="+system.String())
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("guix system container: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// isUp reports whether the container's services run.
func isUp(t *testing.T, in *container.Instance) bool {
	services, err := in.Shepherd().Services(t.Context())
	return err == nil && slices.ContainsFunc(services, func(s container.Service) bool {
		return s.Name() == "counter" && s.Status == "running"
	})
}
