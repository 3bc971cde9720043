package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Start makes the current generation run, and returns once it is healthy: after
// [Deployment.Stop], a crash, or a boot of the machine. If it runs, nothing happens, except that what a killed
// [Deployment.RestartService] has left stopped is started.
func (d *Deployment) Start(ctx context.Context) (*Instance, error) {
	rev := Revision{Why: cmp.Or(d.Why, "start")}
	lease, err := d.demand(ctx, rev.Who, rev.Why)
	if err == nil {
		defer lease.Release()
		var in *Instance
		if in, err = d.startIf(ctx, rev, func(standing) bool { return true }); err == nil {
			return in, nil
		}
	}
	return nil, fmt.Errorf("start %s: %w", d.Name, err)
}

// startIf returns nil without an error if it may not. The caller has the lease.
func (d *Deployment) startIf(ctx context.Context, rev Revision, may func(standing) bool) (*Instance, error) {
	was, err := d.settle(ctx)
	if err == nil && was.running != nil && !was.running.record.ComingUp {
		d.finishRestart(ctx, rev, was.running)
		return was.running, nil
	}
	if err != nil || !may(was) {
		return was.running, err
	}
	if was.current == nil {
		return nil, ErrNothing
	}
	was.current.Switched = nil // that was another time
	in, err := was.running, nil
	if in == nil {
		if err := d.preflight(ctx, was.current, was); err != nil {
			if ctx.Err() == nil {
				d.noteRefusal(rev, was.current, err)
			}
			return nil, err
		}
		in, err = d.bring(ctx, was.current)
	} else if err = in.comeUp(ctx); err != nil { // whoever started it was killed
		err = errors.Join(err, in.stop(context.WithoutCancel(ctx)))
	}
	if err != nil {
		d.tell(rev, was.current, WasNotStable, err)
		if !was.wanted {
			d.complain("forget the failed start", d.forgetTrial(context.WithoutCancel(ctx), was.current))
		}
		return nil, err
	}
	d.complain("move the traffic to it", d.direct(ctx, nil, was.current))
	d.tell(rev, was.current, WasStarted, nil)
	return in, nil
}

// Stop stops the container and returns with nothing of it left: no process, mount,
// control group or temporary directory. If none runs, nothing happens. It stays
// stopped until [Deployment.Start] or [Deployment.Apply]. When ctx ends the
// services get no more time.
func (d *Deployment) Stop(ctx context.Context) error {
	if err := d.stopRunning(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", d.Name, err)
	}
	return nil
}

func (d *Deployment) stopRunning(ctx context.Context) error {
	rev := Revision{Why: cmp.Or(d.Why, "stop")}
	lease, err := d.demand(ctx, rev.Who, rev.Why)
	if err != nil {
		return err
	}
	defer lease.Release()
	was, err := d.settle(ctx)
	if err != nil || !was.wanted {
		return err
	}
	r := &record{Generation: was.current.Number}
	if was.running != nil {
		r = was.running.record
	}
	r.Stopping, r.Unwanted, r.Who, r.Why = true, true, d.Who, rev.Why
	d.complain("write down what is going to be stopped", d.writeRecord(r))
	if was.beside != nil {
		was.beside.drain(ctx, was.current.Started)
		if err := d.stopStandby(ctx, was); err != nil {
			return err
		}
	}
	if was.running != nil {
		if err := was.running.stop(ctx); err != nil {
			return err
		}
	}
	was.current.Checked, was.current.Switched = nil, nil // of when it started
	d.tell(rev, was.current, WasStopped, nil)
	return d.removeRecord()
}

// A Status is how a deployment is at one moment.
type Status struct {
	Current   *Generation // the confirmed one; nil before the first
	Running   *Instance   // what runs; nil for nothing
	Confirmed bool        // what runs is Current, and not one on trial
	ComingUp  bool        // what runs was not healthy yet, since it was started
	Wanted    bool        // something ought to run
	Beside    *Instance   // runs, too: on trial, or kept to return to; nil for none
	Since     time.Time   // when what runs was started
	// WaitsUntil is when one that is healthy and waits for [Deployment.Confirm] is taken back; zero if none waits.
	WaitsUntil time.Time
	Services   []Service // of what runs
	// Unwell are those that are not as they should be, once it is confirmed: of one on trial they may be coming up.
	Unwell []*ServiceError
	// Trouble is why shepherd could not be asked for Services; nil if it could.
	Trouble error
	Holder  *Holder // who is changing it; nil for nobody
}

// Status looks without touching anything, and may be called while somebody else changes
// the deployment.
func (d *Deployment) Status(ctx context.Context) (*Status, error) {
	s := new(Status)
	var err error
	if s.Current, err = d.Current(); err != nil {
		return nil, err
	}
	if s.Holder, err = d.Holder(); err != nil {
		return nil, err
	}
	if err := d.addRunning(ctx, s); err != nil {
		return nil, err
	}
	return s, nil
}

func (d *Deployment) addRunning(ctx context.Context, s *Status) error {
	r, err := d.readRecord()
	if err != nil || r == nil {
		return err
	}
	s.Wanted = !r.Unwanted
	in, err := d.instance(r)
	if err != nil || !in.Alive() {
		return err
	}
	s.Running, s.Since, s.ComingUp = in, r.Started, r.ComingUp
	if s.Beside, err = d.kept(); err != nil {
		return err
	}
	s.Confirmed = s.Current != nil && s.Current.Number == r.Generation
	if trial, err := d.candidate(); err == nil && trial != nil && (s.Current == nil || trial.Generation.Number != s.Current.Number) {
		if until, err := trial.waitsUntil(); err == nil { // else it does not
			s.WaitsUntil = until
		}
	}
	if s.Services, s.Trouble = in.services(ctx); s.Trouble == nil && s.Confirmed {
		s.Unwell = in.Generation.Probes.unwell(s.Services)
	}
	return nil
}

// errStopped is returned where a running container is needed.
var errStopped = decline("no container is running")

// Running returns the instance that runs, on trial or confirmed.
func (d *Deployment) Running() (*Instance, error) {
	r, err := d.readRecord()
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errStopped
	}
	in, err := d.instance(r)
	if err == nil && !in.Alive() {
		err = errStopped
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// Stdio is where a command inside a container reads and writes; nil is /dev/null.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exec runs a command inside the running container, as root, and returns its exit status.
// A command that a signal ended has 128 and the signal's number, as in a shell;
// one that does not exist 127. The error is about running it at all.
func (d *Deployment) Exec(ctx context.Context, stdio Stdio, command ...string) (status int, err error) {
	in, err := d.Running()
	if err != nil {
		return 0, fmt.Errorf("run %q in %s: %w", command[0], d.Name, err)
	}
	if status, err = enter(ctx, in.Process, stdio, command...); err != nil {
		return status, fmt.Errorf("run %q in %s: %w", command[0], d.Name, err)
	}
	return status, nil
}
