package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

func mustApply(t *testing.T, d *Deployment, script string) *Generation {
	t.Helper()
	g, err := d.Apply(t.Context(), Revision{Script: script})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// events returns the ledger's events and checks its chain.
func events(t *testing.T, d *Deployment) []Event {
	t.Helper()
	history, err := d.History()
	if err != nil {
		t.Error(err)
	}
	var all []Event
	for _, e := range history {
		all = append(all, e.Event)
	}
	return all
}

// checkRuns checks that the generation, and nothing else, runs and is current.
func checkRuns(t *testing.T, d *Deployment, want *Generation) *Instance {
	t.Helper()
	s, err := d.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Running == nil || !s.Confirmed || s.Current.Number != want.Number {
		t.Fatalf("running %+v, current %+v, confirmed %v; want generation %d", s.Running, s.Current, s.Confirmed, want.Number)
	}
	for n := range want.Number + 3 {
		other := &Instance{Generation: &Generation{Number: n}, d: d}
		kept := s.Beside != nil && s.Beside.Generation.Number == n
		if found := launchersOf(other.pidFile()); n != want.Number && !kept && len(found) > 0 {
			t.Errorf("generation %d runs too: %v", n, found)
		}
	}
	return s.Running
}

func TestApply(t *testing.T) {
	d := testDeployment(t)
	var rooted []string
	d.Root = func(_ context.Context, link, item string) error {
		rooted = append(rooted, link)
		return os.Symlink(item, link)
	}

	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	first := checkRuns(t, d, one)

	// again: nothing to do, and nothing is interrupted
	if g := mustApply(t, d, one.Script); g.Number != one.Number || g.Switched != nil {
		t.Errorf("generation %+v", g)
	}
	if in := checkRuns(t, d, one); in.Process != first.Process {
		t.Error("it was started again")
	}

	// one → two
	two := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	second := checkRuns(t, d, two)
	checkNothingLeft(t, d, first)

	// and two again, as it has ended by itself: that is no switch
	if err := errors.Join(second.Process.signal(9), second.Process.wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	history, err := d.History()
	if err != nil || history[3].Switched == nil || history[3].Switched.Gap == 0 || history[4].Switched != nil {
		t.Errorf("ledger %+v, %v", history[3:], err)
	}
	if g, err := d.Current(); err != nil || g.Switched == nil {
		t.Errorf("what the switch took is forgotten: %+v, %v", g, err)
	}

	want := []Event{Began, Confirmed, Began, Confirmed, WasStarted}
	if diff := cmp.Diff(want, events(t, d)); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
	for i, link := range rooted {
		if item, err := os.Readlink(link); err != nil || item != []string{one.Script, two.Script}[i] {
			t.Errorf("root %s: %q, %v", link, item, err)
		}
	}
}

// Other probes are those of what runs from now on, if it passes, without interrupting it.
func TestApplyAdopts(t *testing.T) {
	for _, mode := range []Mode{Replace, SideBySide} {
		t.Run(string(mode), func(t *testing.T) {
			d, _ := besides(t)
			if mode == Replace {
				d = testDeployment(t)
			}
			d.Probes, d.Switch.StopOld = Probes{Alive{}}, mode == SideBySide
			name := script(t, d, "works", "status-works.sexp")
			first := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			awaitShepherd(t, checkRuns(t, d, first)) // else it might take the socket from the next one
			g := mustApply(t, d, name)               // on the other side, if there are two
			in := checkRuns(t, d, g)
			awaitShepherd(t, in)
			if again := mustApply(t, d, name); !again.sameWay(g) || len(events(t, d)) != 4 {
				t.Errorf("nothing was to do: %v", events(t, d))
			}

			unwell := *d
			unwell.Probes = Probes{Alive{}, TCP{Address: "127.0.0.1:1"}}
			_, err := unwell.Apply(t.Context(), Revision{Script: name})
			wantOutcome(t, err, Kept)
			absent := *d
			absent.Switch.Hooks = []Hook{{Command: []string{"/nonsense"}}}
			_, err = absent.Apply(t.Context(), Revision{Script: name})
			wantOutcome(t, err, Refused)

			d.Probes, d.Schedule.Threshold = Probes{Alive{}, AllServices{Except: []string{"nscd"}}}, 7
			plan, err := d.Plan(t.Context(), Revision{Script: name})
			var text strings.Builder
			plan.WriteTo(&text)
			if err != nil || !plan.Adopts || plan.Nothing ||
				!strings.HasPrefix(text.String(), "generation 2 runs on, and takes over:\n  the same store item\n+ probe services: except nscd\n") {
				t.Errorf("plan %q, %v", &text, err)
			}
			mustApply(t, d, name)
			now, err := d.Current()
			if err != nil || now.Number != g.Number || len(now.Probes) != 2 || now.Schedule.Threshold != 7 || !slices.Equal(now.Environment.Ports, g.Environment.Ports) {
				t.Errorf("%+v, %v", now, err)
			}
			if checkRuns(t, d, now).Process != in.Process {
				t.Error("it was started again")
			}
			if all := events(t, d); !slices.Equal(all[4:], []Event{WasKept, WasRefused, Adopted}) {
				t.Errorf("ledger %v", all)
			}
			history, err := d.History()
			if last := history[len(history)-1]; err != nil || last.Switched != nil || len(last.Probes) != 2 {
				t.Errorf("it has been switched to, or probed otherwise: %+v, %v", last, err)
			}
			if now.Switched == nil {
				t.Error("what its switch took is forgotten")
			}
		})
	}
}

// A launcher that hangs before there is a container is started once more, after half of its time.
func TestLauncherHangsOnce(t *testing.T) {
	d := testDeployment(t)
	hangs := script(t, d, "hangs at first", "status-works.sexp")
	d.Root = func(context.Context, string, string) error { // too late to be the generation's own
		d.StartTimeout = 2 * time.Second
		return nil
	}
	again := 0
	d.Logger = slog.New(heard{d.Logger.Handler(), "starting the container once more", func() {
		again++
		d.StartTimeout = time.Hour
		if err := os.WriteFile(hangs+".enough", nil, 0o600); err != nil {
			t.Error(err)
		}
	}})
	checkRuns(t, d, mustApply(t, d, hangs))
	if again != 1 {
		t.Errorf("it was started once more %d times", again)
	}
}

// One whose child waits for a lock that nobody can release is started once more at once.
func TestLauncherDeadlocks(t *testing.T) {
	t.Setenv("FUTEX", strconv.Itoa(unix.SYS_FUTEX))
	d := testDeployment(t)
	d.StartTimeout = time.Hour
	again := 0
	d.Logger = slog.New(heard{d.Logger.Handler(), "starting the container once more", func() { again++ }})
	checkRuns(t, d, mustApply(t, d, script(t, d, "deadlocks once", "status-works.sexp")))
	if again != 1 {
		t.Errorf("it was started once more %d times", again)
	}
}

// One that hangs again is given up, and the error tells what it was doing, once it has come to that.
func TestLauncherHangs(t *testing.T) {
	d := testDeployment(t)
	hangs := script(t, d, "hangs", "status-works.sexp")
	for d.StartTimeout = 4 * time.Second; ; d.StartTimeout *= 2 {
		_, err := d.Apply(t.Context(), Revision{Script: hangs, Force: true})
		wantOutcome(t, err, Kept)
		var launch *LaunchError
		if errors.As(err, &launch) && strings.Contains(launch.Stuck, ", sleep: S (sleeping), blocks signals 0") &&
			strings.Contains(err.Error(), "\nit was stuck:\n  process ") {
			return
		}
		if launch == nil || d.StartTimeout > plenty {
			t.Fatalf("error %v", err)
		}
	}
}

func TestApplyRollsBack(t *testing.T) {
	waitpid := "the container's first process died while it was being set up"
	for _, c := range []struct {
		name, mode, reply string
		says              []string
	}{
		{"launcher dies", "dies", "waitpid.log", []string{waitpid, "waitpid #f"}},
		{"pid file lies", "lies", "status-works.sexp", []string{"no child of launcher"}},
		{"no pid file", "tells nothing", "status-works.sexp", []string{"did not appear in time"}},
		{"container ends", "ends", "status-works.sexp", []string{"ended", "out of luck"}},
		{"service fails", "works", "status-fails.sexp", []string{"service broken is stopped after 1 failure to start",
			"cannot read /etc/sample.conf"}},
		{"service dies", "works", "status-dies.sexp", []string{"service broken was given up after 6 respawns",
			"cannot read /etc/sample.conf"}},
		{"not a shepherd", "works", "README.md", []string{"not a reply"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := testDeployment(t)
			d.StartTimeout = plenty // which the old one keeps
			old := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			bad := script(t, d, c.mode, c.reply)
			switch c.mode {
			case "works": // what it is like is seen from its first answer on
				d.Probes, d.Schedule.StartPeriod, d.Schedule.Timeout = Probes{eventual(answers), AllServices{}}, 1, plenty
			case "lies": // as soon as it can
				d.StartTimeout = 10 * time.Second
			case "tells nothing":
				d.StartTimeout = 2 * time.Second
			}
			_, err := d.Apply(t.Context(), Revision{Script: bad})
			wantOutcome(t, err, RolledBack)
			for _, text := range c.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("does not say %q: %v", text, err)
				}
			}
			checkRuns(t, d, old)

			// remembered, until forced
			_, err = d.Apply(t.Context(), Revision{Script: bad})
			wantOutcome(t, err, Refused)
			var rejected *RejectedError
			if !errors.As(err, &rejected) || rejected.Generation.Number != 2 {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A rejected revision may be forced, and be healthy this time.
func TestApplyForce(t *testing.T) {
	d := testDeployment(t)
	reply := filepath.Join(t.TempDir(), "reply")
	say := func(name string) {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err == nil {
			err = os.WriteFile(reply, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	say("status-fails.sexp")
	changing := script(t, d, "works", reply)
	d.Schedule.StartPeriod = time.Second
	_, err := d.Apply(t.Context(), Revision{Script: changing})
	wantOutcome(t, err, Kept)
	say("status-works.sexp")
	_, err = d.Apply(t.Context(), Revision{Script: changing})
	wantOutcome(t, err, Refused)
	d.Schedule.StartPeriod = plenty
	g, err := d.Apply(t.Context(), Revision{Script: changing, Force: true})
	if err != nil {
		t.Fatal(err)
	}
	checkRuns(t, d, g)
}

func TestApplyFirstFails(t *testing.T) {
	d := testDeployment(t)
	_, err := d.Apply(t.Context(), Revision{Script: script(t, d, "dies", "waitpid.log")})
	wantOutcome(t, err, Kept)
	if s, err := d.Status(t.Context()); err != nil || s.Current != nil || s.Running != nil || s.Wanted {
		t.Errorf("status %+v, %v", s, err)
	}
	if diff := cmp.Diff([]Event{Began, WasKept}, events(t, d)); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
}

func TestApplyRollbackFails(t *testing.T) {
	d := testDeployment(t)
	old := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	if err := os.Remove(old.Script); err != nil { // what a GC root is there to prevent
		t.Fatal(err)
	}
	_, err := d.Apply(t.Context(), Revision{Script: script(t, d, "dies", "waitpid.log")})
	e := wantOutcome(t, err, RollbackFailed)
	if !errors.Is(e.Rollback, os.ErrNotExist) {
		t.Errorf("rollback: %v", e.Rollback)
	}
	if diff := cmp.Diff([]Event{Began, Confirmed, Began, WasLost}, events(t, d)); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
}

// A deployment somebody stopped stays stopped when a new generation fails.
func TestApplyOnStopped(t *testing.T) {
	d := testDeployment(t)
	old := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := d.Apply(t.Context(), Revision{Script: script(t, d, "dies", "waitpid.log")})
	wantOutcome(t, err, Kept)
	if s, err := d.Status(t.Context()); err != nil || s.Running != nil || s.Wanted || s.Current.Number != old.Number {
		t.Errorf("status %+v, %v", s, err)
	}
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRuns(t, d, old)
	want := []Event{Began, Confirmed, WasStopped, Began, WasKept, WasStarted}
	if diff := cmp.Diff(want, events(t, d)); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
}

// Ctrl-C at each step: before, while the launcher has not told the pid, while probing.
func TestApplyCancelled(t *testing.T) {
	d := testDeployment(t)
	old := mustApply(t, d, script(t, d, "works", "status-works.sexp"))

	ctx, cancel := context.WithCancel(t.Context())
	d.Root = func(context.Context, string, string) error { cancel(); return nil }
	_, err := d.Apply(ctx, Revision{Script: script(t, d, "works", "status-works.sexp")})
	wantOutcome(t, err, Kept)
	d.Root = nil
	checkRuns(t, d, old)

	starting, cancel := context.WithCancel(t.Context())
	defer cancel()
	silent, done := script(t, d, "tells nothing", "status-works.sexp"), make(chan error, 1)
	go func() {
		_, err := d.Apply(starting, Revision{Script: silent})
		done <- err
	}()
	await(t, func() bool {
		r, err := d.readRecord()
		return err == nil && r != nil && r.Generation == 3 && len(r.Launcher.children()) > 0
	})
	cancel()
	err = <-done
	wantOutcome(t, err, RolledBack)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	checkRuns(t, d, old)

	probing, cancel := context.WithCancel(t.Context())
	e := *d
	e.Probes = Probes{probeFunc(func() error { cancel(); return nil })}
	last := script(t, d, "works", "status-works.sexp")
	_, err = e.Apply(probing, Revision{Script: last})
	wantOutcome(t, err, RolledBack)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	checkRuns(t, d, old)

	// none of this was the revision's fault
	checkRuns(t, d, mustApply(t, d, last))
}

// A root that cannot be made keeps the deployment from beginning at all.
func TestApplyRootFails(t *testing.T) {
	d := testDeployment(t)
	old := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	before := checkRuns(t, d, old)
	d.Root = func(context.Context, string, string) error { return syscall.ENOSPC }
	next := script(t, d, "works", "status-works.sexp")
	_, err := d.Apply(t.Context(), Revision{Script: next})
	wantOutcome(t, err, NotTried)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v", err)
	}
	if in := checkRuns(t, d, old); in.Process != before.Process {
		t.Error("it was started again")
	}
	d.Root = nil
	checkRuns(t, d, mustApply(t, d, next))
}

// The deployer is killed while it probes: its container runs, unconfirmed, and
// the old one does not. Whoever comes next sets that right.
func TestKilledWhileProbing(t *testing.T) {
	for _, next := range []string{"start", "apply", "stop"} {
		t.Run(next, func(t *testing.T) {
			d := testDeployment(t)
			old := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			killDeployer(t, d, script(t, d, "works", "status-works.sexp"))
			trial, err := d.Running()
			if err != nil {
				t.Fatal(err)
			}
			if s, err := d.Status(t.Context()); err != nil || s.Confirmed || s.Running == nil || s.Current.Number != old.Number || s.Holder != nil {
				t.Errorf("status %+v, %v", s, err)
			}
			goOn(t, d, next, old, trial)
			checkNothingLeft(t, d, trial)
			if all := events(t, d); !slices.Contains(all, WasCutOff) {
				t.Errorf("ledger %v", all)
			}
		})
	}
}

// Between the request to end and the end of the old container the deployer is killed. The old one
// runs, is confirmed, and is not to be counted on any more.
func TestKilledWhileStopping(t *testing.T) {
	for _, next := range []string{"start", "apply", "stop", "supervise"} {
		t.Run(next, func(t *testing.T) {
			d, old, was := stubborn(t)
			deployer, _ := startDeployer(t, d, script(t, d, "works", "status-works.sexp"))
			poised := awaitPoised(t, d)
			e := *d
			e.Runners = map[string]Runner{"": new(Supervisor)} // it tells of all units there are
			for _, f := range Doctor(&e) {
				if f.Unit == poised.unit().Name {
					t.Errorf("%+v", f)
				}
			}
			deployer.Process.Kill()
			deployer.Wait()
			if !was.Process.Alive() {
				t.Fatal("it has ended before the deployer was killed")
			}
			hurry(t, d, old)
			goOn(t, d, next, old, was)
			if was.Process.Alive() {
				t.Error("what was asked to end still runs")
			}
			checkNothingLeft(t, d, poised)
		})
	}
}

// stubborn returns a deployment whose container does not end when it is asked to, nor is killed, until hurry is called.
func stubborn(t *testing.T) (*Deployment, *Generation, *Instance) {
	t.Helper()
	d := testDeployment(t)
	d.StopTimeout = time.Hour
	g := mustApply(t, d, script(t, d, "is stubborn", "status-works.sexp"))
	t.Cleanup(func() { hurry(t, d, g) })
	return d, g, checkRuns(t, d, g)
}

// hurry has a generation get next to no time to stop from who begins with that from now on.
func hurry(t *testing.T, d *Deployment, g *Generation) {
	t.Helper()
	g.Handling.StopTimeout = 50 * time.Millisecond
	if err := d.writeGeneration(g); err != nil {
		t.Fatal(err)
	}
}

// awaitPoised waits until a deployer has asked the old container to end, and returns what waits to take its place, once
// that does: how far its launcher has come when the old one is asked, nobody knows.
func awaitPoised(t *testing.T, d *Deployment) *Instance {
	t.Helper()
	var r *record
	await(t, func() (stopping bool) {
		var err error
		r, err = d.readRecord()
		return err == nil && r.Stopping
	})
	poised, err := d.instance(r.Beside)
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", poised.Launcher.PID)) // none: it has ended
		return slices.ContainsFunc(files, func(file string) bool {
			name, _ := os.Readlink(file) // it may be closed again
			return name == poised.gateFile()
		})
	})
	if !poised.Launcher.Alive() || poised.Alive() || len(poised.Launcher.children()) > 0 {
		t.Fatalf("it does not wait at the gate: %+v", poised)
	}
	return poised
}

// The deployer is killed when the next launcher waits already, and the old container has not been asked to end: that runs on, and
// the launcher ends by itself.
func TestKilledWhilePoised(t *testing.T) {
	for _, next := range []string{"start", "supervise"} {
		t.Run(next, func(t *testing.T) {
			d, old, was := stubborn(t)
			deployer, _ := startDeployer(t, d, script(t, d, "works", "status-works.sexp"))
			poised := awaitPoised(t, d)
			deployer.Process.Kill()
			deployer.Wait()
			hurry(t, d, old)
			await(t, func() bool { return !poised.Launcher.Alive() })
			r, err := d.readRecord()
			if err != nil {
				t.Fatal(err)
			}
			r.Stopping = false // as it was when the launcher was started
			if err := d.writeRecord(r); err != nil {
				t.Fatal(err)
			}
			if next == "start" {
				if _, err := d.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else {
				supervise(t, d, quickly)
			}
			await(t, func() bool {
				r, err = d.readRecord()
				return err == nil && r.Beside == nil
			})
			if now := checkRuns(t, d, old); now.Process != was.Process {
				t.Error("it was started again")
			}
			checkNothingLeft(t, d, poised)
		})
	}
}

// A launcher that cannot be started leaves the old container alone, and the revision is not to blame: it can be tried again.
func TestNotPoised(t *testing.T) {
	d := testDeployment(t)
	old := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	was := checkRuns(t, d, old)
	e := *d
	e.Runners = map[string]Runner{"": reluctant{ownSupervisor}}
	next := script(t, d, "works", "status-works.sexp")
	_, err := e.Apply(t.Context(), Revision{Script: next})
	if failed := wantOutcome(t, err, Kept); !failed.Machine || failed.ExitCode() != NotTried.ExitCode() {
		t.Errorf("status %d of %v", failed.ExitCode(), err)
	}
	if now := checkRuns(t, d, old); now.Process != was.Process {
		t.Error("it was started again")
	}
	two, err := d.Generation(2)
	if err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d, d.future(two))
	if r, err := d.readRecord(); err != nil || r.Stopping || r.Beside != nil {
		t.Errorf("record %+v, %v", r, err)
	}
	checkRuns(t, d, mustApply(t, d, next))
}

type reluctant struct{ Runner }

func (reluctant) Start(context.Context, Unit) error { return errors.New("no") }

// goOn does what somebody may do next with a deployment that was left as it is, and checks that it runs then, or does not:
// its old generation, but not as the instance that there was, or a new one.
func goOn(t *testing.T, d *Deployment, next string, old *Generation, was *Instance) {
	t.Helper()
	switch next {
	case "start":
		if _, err := d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkRuns(t, d, old)
	case "apply":
		checkRuns(t, d, mustApply(t, d, script(t, d, "works", "status-works.sexp")))
	case "stop":
		if err := d.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkNothingLeft(t, d, was)
	case "supervise":
		supervise(t, d, quickly)
		awaitRunning(t, d, was)
	}
}

// Somebody who stops it is killed in the middle of that: it is stopped all the same, and stays so.
func TestKilledStop(t *testing.T) {
	for _, next := range []string{"start", "apply", "stop", "supervise until stopped"} {
		t.Run(next, func(t *testing.T) {
			d, old, was := stubborn(t)
			stopper := standIn(t.Context(), d, "stopper")
			d.Who, d.Why = "somebody else", "another reason"
			if err := stopper.Start(); err != nil {
				t.Fatal(err)
			}
			await(t, func() bool {
				r, err := d.readRecord()
				return err == nil && r.Stopping
			})
			stopper.Process.Kill()
			stopper.Wait()
			if !was.Process.Alive() {
				t.Fatal("it has ended before the other process was killed")
			}
			hurry(t, d, old)
			if s, err := d.Status(t.Context()); err != nil || s.Wanted {
				t.Errorf("status %+v, %v", s, err)
			}
			if found := Doctor(d); len(found) == 0 || !strings.Contains(strings.Join(found[0].Missing, ""), "it is being stopped") {
				t.Errorf("findings %+v", found)
			}
			if next == "supervise until stopped" {
				how := quickly
				how.UntilStopped = true
				if err := supervise(t, d, how).wait(); err != nil {
					t.Fatal(err)
				}
				checkNothingLeft(t, d, was)
			} else {
				goOn(t, d, next, old, was)
			}
			if was.Process.Alive() {
				t.Error("what was asked to end still runs")
			}
			history, err := d.History()
			if err != nil || len(history) < 3 {
				t.Fatalf("%+v, %v", history, err)
			}
			if e := history[2]; e.Event != WasStopped || e.Who != "stopper" || e.Why != "to be killed" || !strings.HasSuffix(e.Detail, "finished later") {
				t.Errorf("entered as %+v", e)
			}
		})
	}
}

// Somebody who starts it is killed before it is healthy: the next one waits until it is, or says that it does not come up.
func TestKilledStart(t *testing.T) {
	for _, next := range []string{"start", "start in vain", "supervise", "apply"} {
		t.Run(next, func(t *testing.T) {
			address := fmt.Sprintf("127.0.0.1:%d", guixtest.FreePort(t)) // nobody takes it while it does not listen
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			d := testDeployment(t)
			d.Probes, d.Schedule.StartPeriod = Probes{TCP{Address: address}}, time.Hour
			works := script(t, d, "works", "status-works.sexp")
			g := mustApply(t, d, works)
			if err := errors.Join(d.Stop(t.Context()), l.Close()); err != nil {
				t.Fatal(err)
			}
			starter := standIn(t.Context(), d, "starter")
			if err := starter.Start(); err != nil {
				t.Fatal(err)
			}
			var in *Instance
			await(t, func() bool { in, err = d.Running(); return err == nil })
			starter.Process.Kill()
			starter.Wait()
			if s, err := d.Status(t.Context()); err != nil || !s.ComingUp || !s.Confirmed || !s.Wanted {
				t.Errorf("status %+v, %v", s, err)
			}
			if found := Doctor(d); len(found) == 0 || !strings.Contains(strings.Join(found[0].Missing, ""), "it is coming up") {
				t.Errorf("findings %+v", found)
			}
			if next == "start in vain" {
				g.Schedule.StartPeriod = 1
				if err := d.writeGeneration(g); err != nil {
					t.Fatal(err)
				}
				if _, err := d.Start(t.Context()); err == nil {
					t.Error("what does not come up is started")
				}
				checkNothingLeft(t, d, in)
				if all := events(t, d); all[len(all)-1] != WasNotStable {
					t.Errorf("ledger %v", all)
				}
				return
			}
			if l, err = net.Listen("tcp", address); err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			entered := WasStarted
			switch next {
			case "start":
				_, err = d.Start(t.Context())
			case "supervise":
				supervise(t, d, quickly)
				awaitRunning(t, d, nil)
			case "apply":
				entered = Confirmed
				checkRuns(t, d, mustApply(t, d, works))
			}
			if err != nil {
				t.Fatal(err)
			}
			await(t, func() bool { all := events(t, d); return len(all) > 3 && all[len(all)-1] == entered })
			s, err := d.Status(t.Context())
			if err != nil || s.ComingUp || s.Running == nil || (s.Running.Process == in.Process) == (next == "apply") {
				t.Errorf("status %+v, %v; it was %v", s, err, in.Process)
			}
		})
	}
}

// startDeployer runs a deployment in another process, which says on standard output that it probes.
func startDeployer(t *testing.T, d *Deployment, script string) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := standIn(t.Context(), d, "deployer", "SCRIPT="+script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// killDeployer runs a deployment in another process and kills that as soon as the
// container is being probed.
func killDeployer(t *testing.T, d *Deployment, script string) {
	t.Helper()
	cmd, out := startDeployer(t, d, script)
	if _, err := out.Read(make([]byte, 7)); err != nil {
		t.Errorf("the deployer did not probe: %v", err)
	}
	h, err := d.Holder()
	if err != nil || h == nil || h.Who != "deployer" || h.PID != cmd.Process.Pid {
		t.Errorf("lease %+v, %v", h, err)
	}
	_, err = d.Apply(t.Context(), Revision{Script: script})
	wantOutcome(t, err, Refused)
	if !strings.Contains(err.Error(), "to be killed") {
		t.Errorf("error %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
}

// The machine goes down: nothing runs, the record is of another boot,
// whose pids may be anybody's now.
func TestReboot(t *testing.T) {
	d := testDeployment(t)
	old := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	in := checkRuns(t, d, old)
	in.kill(t.Context())
	r, err := d.readRecord()
	if err != nil {
		t.Fatal(err)
	}
	self, _, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	r.Boot, r.Launcher, r.Process = "another", self, self
	if err := d.writeRecord(r); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Status(t.Context()); err != nil || s.Running != nil || !s.Wanted {
		t.Errorf("status %+v, %v", s, err)
	}
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRuns(t, d, old)
}

func TestStopStubborn(t *testing.T) {
	d := testDeployment(t)
	g := mustApply(t, d, script(t, d, "is stubborn", "status-works.sexp"))
	in := checkRuns(t, d, g)
	d.StopTimeout = 50 * time.Millisecond
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d, in)
}

// A signal that is lost is sent again, well before the container is killed.
func TestStopHardOfHearing(t *testing.T) {
	d := testDeployment(t)
	g := mustApply(t, d, script(t, d, "is hard of hearing", "status-works.sexp"))
	in := checkRuns(t, d, g)
	d.StopTimeout = time.Hour
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d, in)
}

// Who interrupts a deployment while the old container stops does not cut its services short; it runs again.
func TestInterruptedWhileStopping(t *testing.T) {
	d := testDeployment(t)
	d.StopTimeout = time.Hour
	old := mustApply(t, d, script(t, d, "is hard of hearing", "status-works.sexp"))
	was := checkRuns(t, d, old)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	e := *d
	killed := false
	e.Logger = slog.New(heard{heard{d.Logger.Handler(), "killing the container", func() { killed = true }}, "stopping the container", cancel})
	_, err := e.Apply(ctx, Revision{Script: script(t, d, "works", "status-works.sexp")})
	wantOutcome(t, err, RolledBack)
	if now := checkRuns(t, d, old); killed || now.Process == was.Process {
		t.Errorf("killed %v, instance %+v", killed, now)
	}
}

// Somebody kills the launcher: the container goes on, and can still be stopped.
func TestStopWithoutLauncher(t *testing.T) {
	d := testDeployment(t)
	in := checkRuns(t, d, mustApply(t, d, script(t, d, "works", "status-works.sexp")))
	if err := in.Launcher.signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := in.Launcher.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := (Alive{}).Check(t.Context(), in, nil); err == nil {
		t.Error("the probe misses nothing")
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d, in)
}

func TestStartNothing(t *testing.T) {
	d := testDeployment(t)
	if _, err := d.Start(t.Context()); !errors.Is(err, ErrNothing) {
		t.Errorf("error %v", err)
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := d.Exec(t.Context(), Stdio{}, "true"); !errors.Is(err, errStopped) {
		t.Errorf("error %v", err)
	}
}

func TestPreflight(t *testing.T) {
	d := testDeployment(t)
	good := script(t, d, "works", "status-works.sexp")
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, c := range []struct {
		script string
		mounts []Mount
		says   string
	}{
		{"run-container", nil, "not an absolute"},
		{filepath.Join(dir, "run-container"), nil, "no such file"},
		{plain, nil, "cannot be executed"},
		{dir, nil, "cannot be executed"},
		{good, []Mount{{Source: filepath.Join(dir, "data")}}, "mount source does not exist"},
		{good, []Mount{{Source: "data"}}, "not an absolute"},
		{good, []Mount{{Source: dir, Target: "data"}}, "not an absolute"},
		{good, []Mount{{Source: dir, Target: "/tmp/"}}, "empties"},
		{good, []Mount{{Source: dir, Target: "/srv"}, {Source: "/usr", Target: "/srv/"}}, "hide"},
	} {
		d.Shares = c.mounts
		_, err := d.Apply(t.Context(), Revision{Script: c.script})
		wantOutcome(t, err, Refused)
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %v: does not say %q: %v", c.script, c.mounts, c.says, err)
		}
	}
	d.Shares = []Mount{{Source: dir, Target: "/srv"}}
	d.Exposes = []Mount{{Source: "/usr"}}
	g := mustApply(t, d, good)
	if diff := cmp.Diff(d.Shares, g.Shares); diff != "" {
		t.Error(diff)
	}
}
