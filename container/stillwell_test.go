package container

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What falls ill while it waits to be confirmed is taken back at once, and what is ill when it is confirmed is not kept.
func TestConfirmUnwell(t *testing.T) {
	d := testDeployment(t)
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	for name, c := range map[string]struct {
		threshold int
		confirm   bool
	}{"ill while it waits": {3, false}, "ill when it is confirmed": {20, true}} {
		t.Run(name, func(t *testing.T) {
			var ill atomic.Bool
			var confirmed atomic.Pointer[string]
			e := *d
			e.ConfirmBy, e.Schedule.Threshold = 10*time.Minute, c.threshold
			e.Probes = Probes{probeFunc(func() error {
				if file := confirmed.Load(); ill.Load() || file != nil && exists(*file) {
					return errors.New("not any more")
				}
				return nil
			})}
			waits := make(chan int, 1)
			e.Waiting = func(generation int, until time.Time) { waits <- generation }
			done := make(chan error, 1)
			next := script(t, d, "works", "status-works.sexp")
			go func() {
				_, err := e.Apply(t.Context(), Revision{Script: next})
				done <- err
			}()
			number := <-waits
			if s, err := d.Status(t.Context()); err != nil || s.Confirmed || time.Until(s.WaitsUntil) > e.ConfirmBy || time.Until(s.WaitsUntil) < time.Minute {
				t.Errorf("%+v, %v", s, err)
			}
			if c.confirm {
				file := d.generationPath(number, "confirmed")
				confirmed.Store(&file)
				if err := d.Confirm(t.Context()); err == nil || !strings.Contains(err.Error(), "was given up") {
					t.Errorf("error %v", err)
				}
			} else {
				ill.Store(true)
			}
			err := <-done
			if wantOutcome(t, err, RolledBack); !strings.Contains(err.Error(), "not any more") {
				t.Errorf("error %v", err)
			}
			checkRuns(t, d, one)
			if s, err := d.Status(t.Context()); err != nil || !s.WaitsUntil.IsZero() {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// What is ill when whoever comes after a deployer that was killed finds it confirmed is not kept either.
func TestConfirmUnwellAbandoned(t *testing.T) {
	w := newWaiting(t, false, "works")
	w.hold()
	w.handOver()
	w.kill()
	g, err := w.d.Generation(w.trial.Generation.Number)
	w.must(err)
	g.Probes = Probes{Unix{Path: "/nowhere/socket"}}
	w.must(w.d.writeGeneration(g))
	_, err = w.d.Start(t.Context())
	w.must(err)
	checkRuns(t, w.d, w.one)
}

// Going back to what was confirmed waits for nobody, unless somebody has gone back from it.
func TestRollBackWaitsForNobody(t *testing.T) {
	d := testDeployment(t)
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	two := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	e := *d
	e.ConfirmBy = 10 * time.Minute
	waits, stop := context.WithCancel(t.Context())
	e.Waiting = func(int, time.Time) { stop() }
	back, err := e.RollBack(waits, 0, Revision{})
	if err != nil || back.Handling.ConfirmBy != e.ConfirmBy { // the next one is asked about again
		t.Fatalf("%+v, %v", back, err)
	}
	_, err = e.RollBack(waits, two.Number, Revision{})
	if wantOutcome(t, err, RolledBack); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
