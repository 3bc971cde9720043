package container

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Who confirms learns what came of it, be the process that waits for it held up or killed. What is confirmed in time
// counts, even if nobody is there any more to take it.
func TestConfirm(t *testing.T) {
	const late, givenUp = "it comes too late: generation 2 waited until ", "generation 2 was given up"
	for _, c := range []struct {
		name    string
		do      func(w *waiting)
		problem string // empty if it counts
	}{
		{"the deployer was killed", func(w *waiting) { w.kill(); w.confirm() }, ""},
		{"the deployer is killed", func(w *waiting) { w.hold(); w.confirm(); w.handedOver(); w.kill() }, ""},
		{"both are killed", func(w *waiting) { w.hold(); w.handOver(); w.kill() }, ""},
		{"both are killed, and it is confirmed again", func(w *waiting) { w.hold(); w.handOver(); w.kill(); w.confirm() }, ""},
		{"the time is over", func(w *waiting) {
			w.kill()
			w.must(writeJSON(w.trial.waitingFile(), time.Now().Add(-time.Second)))
			w.confirm()
		}, late},
		{"the time ends just now", func(w *waiting) {
			release := w.takeTurn()
			w.confirm()
			w.handedOver()
			w.trial.endWaiting()
			w.learn()
			release()
		}, givenUp},
		{"the container ends just now", func(w *waiting) {
			release := w.takeTurn()
			w.confirm()
			w.handedOver()
			w.must(w.trial.Process.signal(syscall.SIGKILL), w.trial.Process.wait(w.Context()))
			release()
		}, givenUp},
	} {
		for _, beside := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, beside: %v", c.name, beside), func(t *testing.T) {
				w := newWaiting(t, beside, "works")
				c.do(w)
				err := w.learn()
				var exit interface{ ExitCode() int }
				switch {
				case c.problem == "" && err != nil:
					t.Errorf("error %v", err)
				case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
					t.Errorf("error %v, want %s", err, c.problem)
				case c.problem != "" && (!errors.As(err, &exit) || exit.ExitCode() != Refused.ExitCode()):
					t.Errorf("status of %v", err)
				}
				w.check(c.problem == "")
			})
		}
	}
}

// Whoever waits measures the time, so a clock that is set forward takes nothing from it.
func TestConfirmAfterTheClockWasSet(t *testing.T) {
	w := newWaiting(t, false, "works")
	w.must(writeJSON(w.trial.waitingFile(), time.Now().Add(-time.Hour)))
	w.confirm()
	w.must(w.learn())
	if now := checkRuns(t, w.d, w.trial.Generation); now.Process != w.trial.Process {
		t.Error("it was started again")
	}
}

// A waiting is a deployment whose second generation waits to be confirmed.
type waiting struct {
	*testing.T
	d        *Deployment
	target   string // see besides; empty if the second one is in the place of the first
	one      *Generation
	trial    *Instance
	deployer *exec.Cmd
	answer   chan error // of Confirm; nil when there is none to come
	learnt   error
}

func newWaiting(t *testing.T, beside bool, mode string) *waiting {
	t.Helper()
	w := &waiting{T: t}
	if beside {
		w.d, w.target = besides(t)
		t.Setenv("SIDE", fmt.Sprintf("%d %d %s", w.d.Environment.Ports[0], w.d.Switch.Alternate.Ports[0], w.target))
	} else {
		w.d = testDeployment(t)
	}
	w.one = mustApply(t, w.d, script(t, w.d, "works", "status-works.sexp"))
	t.Setenv("CONFIRM_BY", "10m")
	w.deployer, _ = startDeployer(t, w.d, script(t, w.d, mode, "status-works.sexp"))
	t.Cleanup(w.kill)
	w.trial = awaitWaiting(t, w.d)
	return w
}

// awaitWaiting waits until an instance waits to be confirmed, and returns it.
func awaitWaiting(t *testing.T, d *Deployment) *Instance {
	t.Helper()
	await(t, func() bool {
		in, err := d.candidate()
		if err == nil {
			_, err = in.waitsUntil()
		}
		return err == nil
	})
	in, err := d.candidate() // it has all its processes now
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func (w *waiting) must(errs ...error) {
	w.Helper()
	if err := errors.Join(errs...); err != nil {
		w.Fatal(err)
	}
}

func (w *waiting) kill() {
	w.deployer.Process.Kill()
	w.deployer.Wait()
}

// hold stops the deployer.
func (w *waiting) hold() { w.must(w.deployer.Process.Signal(syscall.SIGSTOP)) }

// takeTurn kills the deployer and takes its lease.
func (w *waiting) takeTurn() (release func()) {
	w.kill()
	lease, err := w.d.acquire("deployer", "")
	w.must(err)
	return lease.Release
}

// confirm has carol confirm.
func (w *waiting) confirm() {
	carol := Deployment{Name: w.d.Name, Dir: w.d.Dir, Who: "carol", socket: w.d.socket, Logger: w.d.Logger}
	answer := make(chan error, 1)
	w.answer = answer
	go func() { answer <- carol.Confirm(w.Context()) }()
}

// handOver does what carol does if she is killed right after it.
func (w *waiting) handOver() {
	w.must(writeNew(w.trial.confirmedFile(), []byte(`{"who": "carol"}`)))
}

// handedOver waits until carol has, and checks that she has not been told anything yet.
func (w *waiting) handedOver() {
	await(w.T, func() bool { _, err := os.Stat(w.trial.confirmedFile()); return err == nil })
	select {
	case err := <-w.answer:
		w.Fatalf("told, before anything was decided: %v", err)
	default:
	}
}

func (w *waiting) learn() error {
	if w.answer != nil {
		w.learnt = <-w.answer
		w.answer = nil
	}
	return w.learnt
}

// check checks what whoever comes next finds.
func (w *waiting) check(confirmed bool) {
	w.Helper()
	_, err := w.d.Start(w.Context())
	w.must(err)
	current := w.one
	if confirmed {
		current = w.trial.Generation
	}
	s, err := w.d.Status(w.Context())
	w.must(err)
	if s.Running == nil || !s.Confirmed || s.Current.Number != current.Number {
		w.Fatalf("status %+v, want %d", s, current.Number)
	}
	if confirmed && s.Running.Process != w.trial.Process {
		w.Error("it was started again")
	}
	if (s.Beside != nil) != (confirmed && w.target != "") {
		w.Errorf("beside: %+v", s.Beside)
	}
	if w.target != "" {
		checkTraffic(w.T, w.target, current)
	}
	if _, err := os.Stat(w.trial.waitingFile()); err == nil {
		w.Error("it still waits")
	}
	history, err := w.d.History()
	w.must(err)
	var told string
	for _, e := range history[2:] {
		told += fmt.Sprintf("%s %d %s, ", e.Event, e.Generation, e.Who)
	}
	if want := "began 2 deployer, approved 2 carol, confirmed 2 , "; confirmed && told != want {
		w.Errorf("ledger %q, want %q", told, want)
	}
	if !confirmed && !strings.HasPrefix(told, "began 2 deployer, interrupted 2 , ") {
		w.Errorf("ledger %q", told)
	}
}

// What is left of the old generation goes, also when nobody was there any more to see its launcher end, and the new one was
// confirmed all the same.
func TestConfirmedBeforeTheOldIsCleared(t *testing.T) {
	d := testDeployment(t)
	d.StopTimeout = time.Hour // else its launcher may be killed before the deployer is
	one := mustApply(t, d, script(t, d, "lingers", "status-works.sexp"))
	old := checkRuns(t, d, one)
	t.Setenv("CONFIRM_BY", "10m")
	deployer, _ := startDeployer(t, d, script(t, d, "works", "status-works.sexp"))
	two := awaitWaiting(t, d).Generation
	deployer.Process.Kill()
	deployer.Wait()
	if !old.Launcher.Alive() {
		t.Fatal("nothing is left of the old one")
	}
	if err := d.Confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRuns(t, d, two)
	checkNothingLeft(t, d, old)
}
