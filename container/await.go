package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// A Schedule says when a container counts as healthy: once all probes have passed
// and went on passing for Window. It is unhealthy as soon as Threshold checks have
// failed. Failures before the first success do not count while the
// start period lasts. A container that ends is given up at once.
type Schedule struct {
	// StartPeriod is how long services may take to come up; 0 means one minute.
	StartPeriod time.Duration `json:"start_period,omitempty"`
	// Interval is the time between two checks; 0 means one second.
	Interval time.Duration `json:"interval,omitempty"`
	// Timeout limits one check of one probe; 0 means five seconds.
	// Reaching it is a failure.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Window is how long all must stay well; 0 means three intervals.
	Window time.Duration `json:"window,omitempty"`
	// Threshold is the number of counted failures, not necessarily in a row,
	// that make a container unhealthy; 0 means three.
	Threshold int `json:"threshold,omitempty"`
}

// withDefaults replaces what is zero.
func (s Schedule) withDefaults() Schedule {
	s.StartPeriod = cmp.Or(s.StartPeriod, time.Minute)
	s.Interval = cmp.Or(s.Interval, time.Second)
	s.Timeout = cmp.Or(s.Timeout, 5*time.Second)
	s.Window = cmp.Or(s.Window, 3*s.Interval)
	s.Threshold = cmp.Or(s.Threshold, 3)
	return s
}

// ofOld is the schedule for a container that has come up long ago.
func (s Schedule) ofOld() Schedule {
	s.StartPeriod, s.Window = time.Nanosecond, time.Nanosecond
	return s
}

// An UnhealthyError is a container that ran and did not become or stay healthy.
type UnhealthyError struct {
	Probe string // the last one that failed
	Tries int    // checks in all
	Err   error  // why it failed; a *[ServiceError] when a service is guilty
}

func (e *UnhealthyError) Error() string {
	return fmt.Sprintf("probe %s: %v", e.Probe, e.Err)
}

func (e *UnhealthyError) Unwrap() error { return e.Err }

// ExitCode returns the status a program should end with: something is red.
func (e *UnhealthyError) ExitCode() int { return red }

// await returns nil once the container is healthy. Otherwise it returns
// an *[UnhealthyError], an error of the container's end, or the cause of ctx's end.
func (in *Instance) await(ctx context.Context, probes Probes, schedule Schedule) error {
	a := in.awaiting(probes, schedule)
	err := a.run(ctx, in)
	in.well, in.Generation.Checked = a.first, a.checked
	return err
}

// watch goes on probing an instance that has become healthy, for a time. It returns nil if it stays so, and
// otherwise as await does.
func (in *Instance) watch(ctx context.Context, window time.Duration) error {
	schedule := in.Generation.Schedule.ofOld()
	schedule.Window = window
	return in.awaiting(in.Generation.Probes, schedule).run(ctx, in)
}

// whileWell returns a context that also ends when the instance, which is healthy, is no longer, with
// the reason as its cause. release frees what it takes.
func (in *Instance) whileWell(ctx context.Context) (well context.Context, release func()) {
	well, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(in.watch(well, math.MaxInt64))
	}()
	return well, func() { cancel(nil); <-done }
}

// awaiting returns the state before the first check.
func (in *Instance) awaiting(probes Probes, schedule Schedule) *awaiting {
	a := &awaiting{probes: probes, schedule: schedule.withDefaults(), begin: time.Now()}
	if len(probes) == 0 {
		a.probes = Probes{Alive{}, AllServices{}}
	}
	a.memory, a.probes = make([]any, len(a.probes)), a.probes.expand(in.Generation.Environment)
	return a
}

// run checks until the container is healthy, or is not going to be, or ctx ends.
func (a *awaiting) run(ctx context.Context, in *Instance) error {
	ctx, release := in.whileAlive(ctx)
	defer release()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		done, err := a.check(ctx, in)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if done || err != nil {
			return err
		}
		if in.again && a.well.IsZero() && in.forkCrashed() {
			if a.crashed {
				return errForkCrashed // what it has cost does not come up any more
			}
			a.crashed = true // else shepherd itself has, and is about to end
		}
		pause.Reset(a.pause())
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-pause.C:
		}
	}
}

// awaiting is the state between two checks.
type awaiting struct {
	probes   Probes
	schedule Schedule
	memory   []any
	checked  []Checked // those that were tried
	begin    time.Time
	well     time.Time // since when all probes have passed; zero after a failure
	started  bool      // all have passed once, at first: the start period is over
	first    time.Time
	tries    int
	failures int
	crashed  bool // what shepherd forks had, after the last check
}

// pause returns the time until the next check: Interval, but less before the first success,
// so that noticing it adds little to the time it takes.
func (a *awaiting) pause() time.Duration {
	if a.started {
		return a.schedule.Interval
	}
	return min(a.schedule.Interval, max(20*time.Millisecond, time.Since(a.begin)/20))
}

// Checked is what a probe said while a generation was tried.
type Checked struct {
	Probe    string `json:"probe"`
	Tries    int    `json:"tries"`
	Failures int    `json:"failures,omitempty"` // of Tries, those in the start period included
	// Slowest is how long the longest check took that passed.
	Slowest time.Duration `json:"slowest,omitempty"`
	// Last is the first line of the last failure; empty for none.
	Last string `json:"last,omitempty"`
}

// note writes a check of a probe down.
func (c *Checked) note(took time.Duration, err error) {
	if c.Tries++; err == nil {
		c.Slowest = max(c.Slowest, took)
		return
	}
	c.Failures++
	c.Last, _, _ = strings.Cut(err.Error(), "\n")
}

// check tries all probes once. done is true when the container is healthy.
func (a *awaiting) check(ctx context.Context, in *Instance) (done bool, err error) {
	a.tries++
	for i, probe := range a.probes {
		if err := a.try(ctx, in, i); err != nil {
			in.d.log().Debug("not yet well", "probe", probe, "error", err)
			return false, a.failed(&UnhealthyError{Probe: probe.String(), Tries: a.tries, Err: err})
		}
	}
	now := time.Now()
	if a.well.IsZero() {
		a.well = now
	}
	if !a.started {
		a.started, a.first = true, now
	}
	return now.Sub(a.well) >= a.schedule.Window, nil
}

func (a *awaiting) try(ctx context.Context, in *Instance, i int) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, a.schedule.Timeout,
		fmt.Errorf("no answer within %v", a.schedule.Timeout))
	defer cancel()
	begin := time.Now()
	a.memory[i], err = a.probes[i].Check(ctx, in, a.memory[i])
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = context.Cause(ctx)
	}
	for len(a.checked) <= i {
		a.checked = append(a.checked, Checked{Probe: a.probes[len(a.checked)].String()})
	}
	a.checked[i].note(time.Since(begin), err)
	return err
}

// failed counts a failure, and returns it when it was one too many.
func (a *awaiting) failed(err error) error {
	a.well = time.Time{}
	if !a.started {
		clear(a.memory) // what went wrong before all was well is no change for the worse
		if time.Since(a.begin) < a.schedule.StartPeriod {
			return nil
		}
	}
	if a.failures++; a.failures < a.schedule.Threshold {
		return nil
	}
	return err
}
