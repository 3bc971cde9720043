package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// An older generation runs beside the live one, elsewhere, and leaves nothing.
func TestRunBeside(t *testing.T) {
	d := testDeployment(t)
	d.Environment.Ports, d.Environment.Settings = []int{guixtest.FreePort(t)}, map[string]string{"PORT": "1", "NAME": "one"}
	d.Probes = Probes{Alive{}}
	state := Mount{Name: "state", Source: t.TempDir(), Target: "/srv"}
	d.Shares = []Mount{state}
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	two := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	live := checkRuns(t, d, two)
	port := guixtest.FreePort(t)
	copied := t.TempDir()

	ctx, cancel := context.WithCancelCause(t.Context())
	var beside *Instance
	err := d.RunBeside(ctx, one.Number, Beside{Ports: []int{port}, Settings: map[string]string{"PORT": fmt.Sprint(port)},
		Sources: map[string]string{"state": copied}}, func(in *Instance) {
		beside = in
		e := in.Generation.Environment
		if in.Generation.Script != one.Script || !slices.Equal(e.Ports, []int{port}) || e.Settings["PORT"] != fmt.Sprint(port) ||
			e.Settings["NAME"] != "one" || in.Generation.Shares[0].Source != copied {
			t.Errorf("it runs as %+v", in.Generation)
		}
		if !in.Alive() || checkRuns(t, d, two).Process != live.Process {
			t.Error("not both of them run")
		}
		if err := d.RunBeside(ctx, one.Number, Beside{}, nil); !errors.Is(err, ErrSupervised) || exitCode(err) != 10 {
			t.Errorf("the same once more: %v", err)
		}
		if _, err := d.Start(ctx); err != nil || !in.Alive() { // does not clear away what somebody looks after
			t.Errorf("error %v, or it has ended", err)
		}
		cancel(errors.New("enough of it")) // whatever the cause
	})
	if err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d, beside)
	if _, err := os.Stat(d.path("beside")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
	if checkRuns(t, d, two).Process != live.Process {
		t.Error("the live one was touched")
	}

	// what it may not have
	for says, as := range map[string]Beside{
		"has no mount": {Sources: map[string]string{"nonsense": copied}},
		"generation 2 of the deployment in " + d.Dir + " writes to": {Ports: []int{port}},
		"mount source does not exist":                               {Sources: map[string]string{"state": "/nonsense"}},
	} {
		if err := d.RunBeside(t.Context(), one.Number, as, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q", err, says)
		}
	}
	if err := d.RunBeside(t.Context(), 17, Beside{}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	lease, err := d.acquire("somebody", "else")
	if err != nil {
		t.Fatal(err)
	}
	var busy *BusyError
	if err := d.RunBeside(t.Context(), one.Number, Beside{Sources: map[string]string{"state": copied}}, nil); !errors.As(err, &busy) || exitCode(err) != 10 {
		t.Errorf("while somebody changes it: %v", err)
	}
	lease.Release()
	if _, err := os.Stat(d.path("beside")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused one has left its directory: %v", err)
	}
}

// exitCode returns the status that an error has for programs, 0 if it has none.
func exitCode(err error) int {
	var own interface{ ExitCode() int }
	if !errors.As(err, &own) {
		return 0
	}
	return own.ExitCode()
}

// What has ended by itself, and one that does not come up, are errors.
func TestRunBesideFails(t *testing.T) {
	d := testDeployment(t)
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	err := d.RunBeside(t.Context(), one.Number, Beside{}, func(in *Instance) { in.Process.signal(9) })
	if err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("error %v", err)
	}
	if err := os.Remove(one.Script); err != nil {
		t.Fatal(err)
	}
	wantOutcome(t, d.RunBeside(t.Context(), one.Number, Beside{}, nil), Refused)
	if _, err := os.Stat(d.path("beside")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
}

// A mount that two may write to at the same time is no obstacle, neither to what runs beside nor to a
// deployment meanwhile; another deployment's container is.
func TestRunBesideConcurrent(t *testing.T) {
	d := testDeployment(t)
	d.Shares = []Mount{{Name: "state", Source: t.TempDir(), Target: "/srv", Concurrent: true}}
	d.Probes = Probes{Alive{}}
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := d.RunBeside(ctx, one.Number, Beside{}, func(in *Instance) {
		mustApply(t, d, script(t, d, "works", "status-works.sexp"))
		if !in.Alive() {
			t.Error("it has ended")
		}
		stranger := testDeployment(t)
		stranger.Shares = d.Shares
		_, err := stranger.Apply(t.Context(), Revision{Script: script(t, stranger, "works", "status-works.sexp")})
		wantOutcome(t, err, Refused)
		cancel()
	})
	if err != nil {
		t.Error(err)
	}
}

// Whoever ran one beside is killed: it goes with the next change.
func TestRunBesideKilled(t *testing.T) {
	d := testDeployment(t)
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	cmd := standIn(t.Context(), d, "beside")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	beside, err := d.besideAt(one.Number).Running()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if !beside.Alive() {
		t.Error("it went with the process")
	}
	var missing []string
	for _, f := range Doctor(d) {
		if f.Process == beside.Process.PID {
			missing = append(missing, f.Missing...)
		}
	}
	if len(missing) != 1 || !strings.HasPrefix(missing[0], "whoever ran it beside test was killed") {
		t.Errorf("missing %q", missing)
	}
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d, beside)
	checkRuns(t, d, one)
	if _, err := os.Stat(d.path("beside")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
}

// besideMain runs generation 1 beside, says so, and hangs.
func besideMain() int {
	d := &Deployment{Name: "test", Dir: os.Getenv("DIR"), unprivileged: true, socket: os.Getenv("SOCKET"),
		Schedule: Schedule{Interval: 10 * time.Millisecond, Window: 30 * time.Millisecond}}
	err := d.RunBeside(context.Background(), 1, Beside{}, func(*Instance) { fmt.Println("ready") })
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// Probes that would ask the live one are left out.
func TestProbesOfAny(t *testing.T) {
	all := Probes{Alive{}, HTTP{URL: "http://localhost:1/"}, HTTP{URL: "http://localhost:${PORT}/"}, HTTP{URL: "http://localhost:1/", Inside: true},
		TCP{Address: "localhost:1"}, TCP{Address: "localhost:${PORT}"}, TCP{Address: "localhost:1", Inside: true}, DNS{Name: "localhost"}}
	want := Probes{all[0], all[2], all[3], all[5], all[6], all[7]}
	if got := all.ofAny(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
