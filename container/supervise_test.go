package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A supervisor is one that runs during a test.
type supervisor struct {
	stop  func()        // asks it to end
	ended chan struct{} // closed when it has
	err   error         // what Supervise returned, from then on
}

func supervise(t *testing.T, d *Deployment, how Supervision) *supervisor {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &supervisor{stop: cancel, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		s.err = d.Supervise(ctx, how)
	}()
	t.Cleanup(func() { cancel(); <-s.ended })
	return s
}

func (s *supervisor) wait() error {
	<-s.ended
	return s.err
}

var quickly = Supervision{RestartAfter: time.Millisecond, RestartAtMost: 50 * time.Millisecond}

// await waits until done; within three minutes, even on a machine that is slow or was stopped for a while, it must be.
func await(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(3 * time.Minute); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("not within three minutes")
		}
	}
}

// awaitRunning waits until something runs that is not the old instance.
func awaitRunning(t *testing.T, d *Deployment, old *Instance) (in *Instance) {
	t.Helper()
	var err error
	ran := false
	defer func() {
		if !ran {
			t.Logf("after %+v runs %+v, %v", old, in, err)
		}
	}()
	await(t, func() bool {
		in, err = d.Running()
		ran = err == nil && (old == nil || in.Process != old.Process) && isConfirmed(d, in)
		return ran
	})
	return in
}

func isConfirmed(d *Deployment, in *Instance) bool {
	g, err := d.Current()
	h, errHolder := d.Holder()
	return errors.Join(err, errHolder) == nil && g != nil && g.Number == in.Generation.Number && h == nil
}

// applied returns a deployment that runs.
func applied(t *testing.T, mode string) (*Deployment, *Instance) {
	t.Helper()
	d := testDeployment(t)
	mustApply(t, d, script(t, d, mode, "status-works.sexp"))
	return d, awaitRunning(t, d, nil)
}

// What is killed comes back, as often as it takes, the launcher's death does no harm, and
// what is stopped stays so.
func TestSupervise(t *testing.T) {
	d, in := applied(t, "works")
	how := quickly
	how.UntilStopped = true
	s := supervise(t, d, how)
	for range 2 {
		if err := in.Process.signal(9); err != nil {
			t.Fatal(err)
		}
		in = awaitRunning(t, d, in)
	}
	if err := errors.Join(in.Launcher.signal(9), in.Launcher.wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	if now := awaitRunning(t, d, nil); now.Process != in.Process {
		t.Errorf("%v instead of %v", now.Process, in.Process)
	}
	if err := d.Supervise(t.Context(), how); !errors.Is(err, ErrSupervised) {
		t.Errorf("a second one: %v", err)
	}
	if held, err := d.Supervised(); err != nil || !held {
		t.Errorf("supervised: %v, %v", held, err)
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.wait(); err != nil {
		t.Error(err)
	}
	if _, err := d.Running(); !errors.Is(err, errStopped) {
		t.Errorf("error %v", err)
	}
	checkNothingLeft(t, d, in)
	var again int
	for _, e := range events(t, d) {
		if e == WasStarted {
			again++
		}
	}
	if again != 2 {
		t.Errorf("%d starts in the ledger", again)
	}
}

// The first request to end stops the container, in order; the next supervisor starts it again.
func TestSuperviseEnds(t *testing.T) {
	d, in := applied(t, "works")
	s := supervise(t, d, quickly)
	s.stop()
	if err := s.wait(); err != nil {
		t.Error(err)
	}
	checkNothingLeft(t, d, in)
	if status, err := d.Status(t.Context()); err != nil || !status.Wanted || status.Running != nil {
		t.Errorf("%+v, %v", status, err)
	}
	s = supervise(t, d, quickly)
	awaitRunning(t, d, in)
	s.stop()
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

// A supervisor that is killed takes nothing with it, and the next one starts nothing twice.
func TestSupervisorKilled(t *testing.T) {
	d, in := applied(t, "works")
	cmd := standIn(t.Context(), d, "supervisor")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { held, err := d.Supervised(); return err == nil && held })
	cmd.Process.Kill()
	cmd.Wait()
	s := supervise(t, d, quickly)
	await(t, func() bool { held, err := d.Supervised(); return err == nil && held })
	if now := awaitRunning(t, d, nil); now.Process != in.Process {
		t.Errorf("%v instead of %v", now.Process, in.Process)
	}
	if found := launchersOf(in.pidFile()); len(found) != 1 {
		t.Errorf("launchers %v", found)
	}
	s.stop()
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

// What a killed deployer was trying goes, and what was confirmed comes back.
func TestSuperviseAfterKilledDeployer(t *testing.T) {
	d, in := applied(t, "works")
	cmd, out := startDeployer(t, d, script(t, d, "works", "status-works.sexp"))
	s := supervise(t, d, quickly)
	line := make([]byte, len("probing\n"))
	if _, err := out.Read(line); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if now := awaitRunning(t, d, in); now.Generation.Number != in.Generation.Number {
		t.Errorf("generation %d runs", now.Generation.Number)
	}
	s.stop()
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

// The wait before a start doubles up to a limit, and is forgiven after a long run.
func TestBackOff(t *testing.T) { synctest.Test(t, testBackOff) }

func testBackOff(t *testing.T) {
	k := &keeper{Deployment: &Deployment{}, Supervision: Supervision{RestartAfter: time.Second, RestartAtMost: 5 * time.Second}}
	var waits []time.Duration
	for range 5 {
		k.delay()
		waits = append(waits, k.wait)
	}
	if got := fmt.Sprint(waits); got != "[1s 2s 4s 5s 5s]" {
		t.Error(got)
	}
	for _, c := range []struct{ ran, want time.Duration }{{49 * time.Second, 5 * time.Second}, {51 * time.Second, time.Second}} {
		k.kept, k.since = Process{PID: 1}, time.Now().Add(-c.ran)
		if err := k.start(t.Context(), &Instance{Process: k.kept, record: new(record)}); err != nil || k.wait != c.want {
			t.Errorf("after %v: wait %v, %v", c.ran, k.wait, err)
		}
	}
}

// Only what ends by itself is started later each time: not what is replaced or returned to, nor what a deployer that was
// killed has stopped. Another generation begins anew.
func TestBackOffCountsCrashes(t *testing.T) {
	d, _ := applied(t, "works")
	k := &keeper{Deployment: d, Supervision: Supervision{RestartAfter: time.Minute, RestartAtMost: time.Hour}}
	look := func() {
		t.Helper()
		if _, err := k.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, wait time.Duration, runs bool) {
		t.Helper()
		look()
		if k.wait != wait || runs != (k.instant != nil) {
			t.Errorf("%s: wait %v, runs: %v", what, k.wait, k.instant != nil)
		}
	}
	want("from the beginning", 0, true)
	during := *d
	during.Probes = Probes{AllServices{}, probeFunc(func() error { look(); return nil })}
	mustApply(t, &during, script(t, d, "works", "status-works.sexp"))
	want("replaced", 0, true)
	during.Probes = append(during.Probes, probeFunc(func() error { return errors.New("never well") }))
	during.Schedule.StartPeriod = time.Nanosecond
	_, err := during.Apply(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
	wantOutcome(t, err, RolledBack)
	want("returned to", 0, true)
	killDeployer(t, d, script(t, d, "works", "status-works.sexp"))
	want("after a killed deployer", 0, true)

	ends := func() {
		t.Helper()
		if err := errors.Join(k.instant.Process.signal(9), k.instant.Process.wait(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.instant.willStop(); err != nil {
		t.Fatal(err)
	}
	ends()
	want("asked to end", 0, true)
	ends()
	want("ended by itself", time.Minute, false)
	want("not yet", time.Minute, false)
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("started by hand", time.Minute, true)
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	want("another generation", 0, true)
}

// A container that does not come up can be stopped and replaced while a supervisor tries to start it, again and
// again: it gives way.
func TestSupervisorGivesWay(t *testing.T) {
	for _, next := range []string{"stop", "apply", "start"} {
		t.Run(next, func(t *testing.T) {
			dir := t.TempDir()
			l := listenIn(t, dir)
			defer l.Close()
			d := testDeployment(t)
			d.Probes, d.Schedule.StartPeriod = Probes{Unix{filepath.Join(dir, "socket")}}, time.Hour
			mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			in := awaitRunning(t, d, nil)
			l.Close() // from now on it does not come up
			supervise(t, d, quickly)
			if err := in.Process.signal(9); err != nil {
				t.Fatal(err)
			}
			await(t, func() bool {
				again, err := d.Running()
				return err == nil && again.Process != in.Process
			})
			switch next {
			case "stop":
				if err := d.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
				checkNothingLeft(t, d, in)
			case "apply":
				mended := *d
				mended.Probes = nil
				checkRuns(t, d, mustApply(t, &mended, script(t, d, "works", "status-works.sexp")))
			case "start":
				ctx, cancel := context.WithCancel(t.Context())
				started := make(chan error, 1)
				go func() {
					_, err := d.Start(ctx)
					started <- err
				}()
				await(t, func() bool { h, err := d.Holder(); return err == nil && h != nil && h.Why == "start" })
				cancel()
				if err := <-started; !errors.Is(err, context.Canceled) {
					t.Errorf("error %v", err)
				}
			}
			history, err := d.History()
			if err != nil || !slices.ContainsFunc(history, func(e Entry) bool {
				return e.Event == WasNotStable && e.Who == "supervisor" && strings.HasPrefix(e.Detail, errGivesWay.Error())
			}) {
				t.Errorf("%+v, %v", history, err)
			}
		})
	}
}

// A container that prints all the time does not lose a line when its log is put aside.
func TestRotateLog(t *testing.T) {
	if testing.Short() {
		t.Skip("writes megabytes")
	}
	d, in := applied(t, "prints")
	const size, count = 1 << 20, 1000
	for i := range 5 {
		await(t, func() bool { info, err := os.Stat(in.logFile()); return err == nil && info.Size() >= size })
		if err := in.rotateLog(t.Context(), size, count); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(in.asideName(i + 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for i := 5; i > 0; i-- {
		text, err := os.ReadFile(in.asideName(i))
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	text, err := os.ReadFile(in.logFile())
	if err != nil {
		t.Fatal(err)
	}
	all.Write(text)
	next := 1
	for line := range strings.Lines(all.String()) {
		if !strings.HasPrefix(line, "line ") {
			continue
		}
		if line != fmt.Sprintf("line %d\n", next) && strings.HasSuffix(line, "\n") {
			t.Fatalf("%q, want line %d", line, next)
		}
		next++
	}
	if next < 100_000 {
		t.Errorf("only %d lines", next)
	}
}

// As many logs are kept as are asked for, the newest first, and readers go on reading.
func TestRotateKeeps(t *testing.T) {
	d, in := applied(t, "works")
	reader, err := os.Open(in.logFile())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var read bytes.Buffer
	for i := range 4 {
		f, err := os.OpenFile(in.logFile(), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(f, "number %d%s\n", i, strings.Repeat(".", 1000-100*i))
		f.Close()
		if err := copyMore(&read, reader); err != nil {
			t.Fatal(err)
		}
		if err := in.rotateLog(t.Context(), 100, 2); err != nil {
			t.Fatal(err)
		}
	}
	names, err := fs.Glob(os.DirFS(d.generationPath(1)), "log*")
	if err != nil || len(names) != 3 {
		t.Errorf("%q, %v", names, err)
	}
	for i, want := range map[int]string{1: "number 3.", 2: "number 2."} {
		if text, err := os.ReadFile(in.asideName(i)); err != nil || !strings.HasPrefix(string(text), want) {
			t.Errorf("log.%d: %.20q, %v", i, text, err)
		}
	}
	for i := range 4 {
		if !strings.Contains(read.String(), fmt.Sprintf("number %d.", i)) {
			t.Errorf("the reader has not seen number %d", i)
		}
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A supervisor that is killed while it puts a log aside leaves the container frozen: the next one, or whoever changes
// something without one, lets it go on.
func TestFrozen(t *testing.T) {
	for _, next := range []string{"supervise", "start", "stop"} {
		t.Run(next, func(t *testing.T) {
			d, in := applied(t, "works")
			if state, err := in.state(t.Context()); err != nil || !state.Held {
				t.Skipf("no control group here that could be frozen: %+v, %v", state, err)
			}
			answers := func() error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := in.Shepherd().Services(ctx)
				return err
			}
			if err := ownSupervisor.Freeze(t.Context(), in.unit()); err != nil {
				t.Fatal(err)
			}
			if answers() == nil {
				t.Fatal("it is not frozen")
			}
			switch next {
			case "supervise":
				supervise(t, d, quickly)
			case "start":
				if _, err := d.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			case "stop":
				begin := time.Now()
				if err := d.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
				if time.Since(begin) >= in.handling().StopTimeout {
					t.Error("it could not be asked to end")
				}
				return
			}
			eventually(t, answers)
			if awaitRunning(t, d, nil).Process != in.Process {
				t.Error("it was started again")
			}
		})
	}
}

// What was killed does not run, though it is still there.
func TestStartOfDying(t *testing.T) {
	for _, next := range []string{"start", "apply"} {
		t.Run(next, func(t *testing.T) {
			d, in := applied(t, "works")
			if state, err := in.state(t.Context()); err != nil || !state.Held {
				t.Skipf("no control group here that could be frozen: %+v, %v", state, err)
			}
			if err := ownSupervisor.Freeze(t.Context(), in.unit()); err != nil { // it has no time to die
				t.Fatal(err)
			}
			if in.Process.dying() {
				t.Error("it is dying before it was killed")
			}
			if err := in.Process.signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if in.Alive() && !in.Process.dying() {
				t.Error("it is not dying")
			}
			if next == "start" {
				if _, err := d.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else {
				mustApply(t, d, in.Generation.Script)
			}
			if now, err := d.Running(); err != nil || now.Process == in.Process {
				t.Errorf("%+v runs, %v", now, err)
			}
		})
	}
}

// So it is with the generation that is kept beside another one.
func TestFrozenBeside(t *testing.T) {
	for _, next := range []string{"supervise", "start", "back"} {
		t.Run(next, func(t *testing.T) {
			d, _ := besides(t)
			one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			two := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			standby := checkBoth(t, d, two, one).Beside
			if state, err := standby.state(t.Context()); err != nil || !state.Held {
				t.Skipf("no control group here that could be frozen: %+v, %v", state, err)
			}
			if err := ownSupervisor.Freeze(t.Context(), standby.unit()); err != nil {
				t.Fatal(err)
			}
			switch next {
			case "supervise":
				supervise(t, d, quickly)
			case "start":
				if _, err := d.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			case "back":
				if _, err := d.RollBack(t.Context(), 0, Revision{}); err != nil {
					t.Fatal(err)
				}
				if now := checkBoth(t, d, one, two).Running; now.Process != standby.Process {
					t.Error("it was started again")
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			if err := errors.Join(standby.Process.signal(syscall.SIGTERM), standby.Process.wait(ctx)); err != nil {
				t.Errorf("it does not hear: %v", err)
			}
		})
	}
}

// The log of a generation that is kept is put aside, too.
func TestSuperviseRotatesBeside(t *testing.T) {
	d, _ := besides(t)
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	two := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	standby := checkBoth(t, d, two, one).Beside
	how := quickly
	how.LogSize = 10
	supervise(t, d, how)
	await(t, func() bool {
		_, err := os.Stat(standby.asideName(1))
		return err == nil
	})
}
