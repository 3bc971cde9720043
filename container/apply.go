package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Apply makes a revision the running generation, and returns once it is healthy
// and current. If it already is, nothing happens, except that other probes, another schedule
// or another way to switch are those of the running generation from then on, if it passes.
//
// The old generation is stopped before the new one starts, since both may want the
// same ports and files. On any failure, and when ctx ends, what ran before
// is started again and probed in the same way; that takes its time even though ctx has
// ended. A revision that failed by itself is rejected: it is refused from
// then on, unless forced. So is one that takes a channel back, or that brings what is not confirmed where the deployment
// follows, unless that is allowed. The error is an *[Error].
func (d *Deployment) Apply(ctx context.Context, rev Revision) (*Generation, error) {
	lease, err := d.demand(ctx, rev.Who, rev.Why)
	if err != nil {
		return nil, d.failed(notBegun(err), err)
	}
	defer lease.Release()
	was, err := d.settle(ctx)
	if err != nil {
		return nil, d.failed(notBegun(err), err)
	}
	if g := d.generation(rev); was.runs(g) && !rev.Force {
		return d.adopt(ctx, rev, was, g)
	}
	if rev, err = d.weigh(ctx, rev, was.current); err != nil {
		d.tell(rev, d.next(rev, was), WasRefused, err)
		return nil, d.failed(notBegun(err), err)
	}
	if g, err := d.comeBack(ctx, rev, was); g != nil || err != nil {
		return g, err
	}
	next, err := d.admit(ctx, rev, was)
	if err != nil {
		d.tell(rev, next, WasRefused, err)
		return nil, d.failed(notBegun(err), err)
	}
	if err := d.begin(ctx, rev, was, next); err != nil {
		return nil, d.failed(notBegun(err), err)
	}
	if next.beside(was) {
		err = d.sideBySide(ctx, was, next)
	} else {
		err = d.replace(ctx, was, next, rev.snapshotOf)
	}
	if err == nil {
		d.tell(rev, next, Confirmed, nil)
		d.complain("write down what was gone back from", d.withdraw(next.Number))
		d.complain("remove old snapshots", d.forgetSnapshots(next.Number))
		_, err = d.prune()
		d.complain("remove old generations", err)
		return next, nil
	}
	return nil, d.giveUp(ctx, was, next, rev, err)
}

// adopt has the running generation probed and switched as g, which is what it runs, is to be.
// On error everything is as it was.
func (d *Deployment) adopt(ctx context.Context, rev Revision, was standing, g *Generation) (*Generation, error) {
	g = g.onSideOf(was.current)
	next := *was.current
	next.Switched = nil // that was another time
	if g.sameWay(was.current) {
		return &next, nil
	}
	if err := errors.Join(d.checkWay(g)...); err != nil {
		d.tell(rev, g, WasRefused, err)
		return nil, d.failed(Refused, err)
	}
	next.Probes, next.Schedule, next.Switch, next.Handling = g.Probes, g.Schedule, g.Switch, g.Handling
	err := was.running.await(ctx, g.Probes, g.Schedule.ofOld())
	next.Checked = was.running.Generation.Checked
	if err == nil {
		kept := next
		kept.Switched = was.current.Switched
		err = d.writeGeneration(&kept)
	}
	if err != nil {
		d.tell(rev, &next, WasKept, err)
		return nil, d.failed(Kept, err)
	}
	d.tell(rev, &next, Adopted, nil)
	return &next, nil
}

// onSideOf returns a generation, which is like another one, as it is on the ports of that.
func (g *Generation) onSideOf(h *Generation) *Generation {
	if g.Bindings() == h.Bindings() {
		return g
	}
	return g.other()
}

// sameWay reports whether two generations are probed, switched and handled in the same way, as far as that is written down.
func (g *Generation) sameWay(h *Generation) bool {
	text := func(g *Generation) string {
		text, err := json.Marshal(struct {
			Probes   Probes
			Schedule Schedule
			Switch   Switch
			Handling Handling
		}{g.Probes, g.Schedule, g.Switch, g.Handling})
		if err != nil {
			panic(err) // there is nothing in it that JSON lacks
		}
		return string(text)
	}
	return text(g) == text(h)
}

// bring starts a generation and waits until it is healthy. On error it is
// stopped and nothing is left of it.
func (d *Deployment) bring(ctx context.Context, g *Generation) (*Instance, error) {
	return d.future(g).bring(ctx)
}

// future returns a generation as it is going to run.
func (d *Deployment) future(g *Generation) *Instance {
	return &Instance{Generation: g, d: d, record: &record{Generation: g.Number, Boot: bootID()}}
}

// bring is [Deployment.bring] for what is not started yet, or waits at its gate.
func (in *Instance) bring(ctx context.Context) (*Instance, error) {
	once := *in.record
	once.Launcher = Process{}
	err := in.bringOnce(ctx, true)
	if errors.Is(err, errForkCrashed) && ctx.Err() == nil {
		in.d.log().Warn("starting the container once more", "generation", in.Generation.Number, "because", err)
		in = &Instance{Generation: in.Generation, d: in.d, record: &once, main: in.main}
		err = in.bringOnce(ctx, false)
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// bringOnce is bring for one start; again says that it is not the last.
func (in *Instance) bringOnce(ctx context.Context, again bool) error {
	in.record.Started, in.record.ComingUp = time.Now(), true
	if err := in.start(ctx); err != nil {
		return err
	}
	in.d.log().Info("container started", "generation", in.Generation.Number, "beside", in.main != nil, "pid", in.Process.PID, "launcher", in.Launcher.PID)
	in.again = again
	if err := in.comeUp(ctx); err != nil {
		if !errors.Is(err, errForkCrashed) && in.forkCrashed() {
			err = fmt.Errorf("%w\n%w", err, errForkCrashed)
		}
		return errors.Join(err, in.stop(context.WithoutCancel(ctx)))
	}
	return nil
}

// comeUp waits until the container is healthy, and writes that down.
func (in *Instance) comeUp(ctx context.Context) error {
	if err := in.await(ctx, in.Generation.Probes, in.Generation.Schedule); err != nil {
		return err
	}
	if in.again && in.lostByCrash(ctx) {
		return errForkCrashed
	}
	in.d.log().Info("container healthy", "generation", in.Generation.Number, "took", time.Since(in.record.Started))
	in.record.ComingUp = false
	in.d.complain("write down that the container is healthy", in.save())
	return nil
}

// giveUp goes back to what was and returns the *[Error] that says how that went.
func (d *Deployment) giveUp(ctx context.Context, was standing, next *Generation, rev Revision, cause error) error {
	result := d.failed(Kept, cause)
	returned, astray := errors.Is(cause, errReturned), errors.Is(cause, errAstray)
	untouched := errors.Is(cause, errUntouched) || returned || astray
	switch {
	case returned:
		result.Outcome = RolledBack
	case astray:
		result.Outcome = RollbackFailed
	}
	stuck := !untouched && was.running != nil && was.running.Alive() // it could not be stopped
	result.Machine = ctx.Err() == nil && blamesMachine(cause)
	if !stuck && !result.Machine && ctx.Err() == nil { // else it may be as good as any
		next.Rejected = cause.Error()
	}
	if !stuck && !untouched {
		result.Outcome, result.Rollback = d.restore(context.WithoutCancel(ctx), was, next)
	}
	d.complain("write down the failed generation", d.writeGeneration(next))
	event := map[Outcome]Event{Kept: WasKept, RolledBack: WasRolled, RollbackFailed: WasLost}[result.Outcome]
	d.tell(rev, next, event, result)
	return result
}

// blamesMachine reports whether the failure is none of the revision's: the same may well succeed later.
func blamesMachine(cause error) bool {
	var notLaunched notLaunched
	return errors.Is(cause, errForkCrashed) || errors.As(cause, &notLaunched) ||
		slices.ContainsFunc(exhausted, func(e unix.Errno) bool { return errors.Is(cause, e) })
}

// exhausted is what system calls of ours answer on a machine that has no more of something. Services have their
// own, and say so in words.
var exhausted = []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO, unix.ENOMEM, unix.EMFILE, unix.ENFILE}

// restore makes what was before next run again, if it did or ought to, on the state there was.
func (d *Deployment) restore(ctx context.Context, was standing, next *Generation) (Outcome, error) {
	if err := d.clearTrial(ctx, next); err != nil {
		return RollbackFailed, err
	}
	if err := d.undo(ctx, next.Number); err != nil {
		return RollbackFailed, err
	}
	if !was.wanted {
		d.complain("forget the failed generation", d.removeRecord())
		return Kept, nil
	}
	d.log().Info("going back", "generation", was.current.Number)
	_, err := d.bring(ctx, was.current)
	if err == nil {
		err = d.direct(ctx, next, was.current)
	}
	if err != nil {
		return RollbackFailed, err
	}
	return RolledBack, nil
}

// clearTrial makes sure that nothing is left of next, which has been stopped if it was started. While something is, the record
// is about that, and nothing else may be started.
func (d *Deployment) clearTrial(ctx context.Context, next *Generation) error {
	r, err := d.readRecord()
	if err != nil || r == nil || r.Generation != next.Number {
		return err
	}
	in, err := d.instance(r)
	if err == nil {
		err = in.kill(ctx)
	}
	return err
}

// forgetTrial has nothing recorded to run, once nothing is left of next.
func (d *Deployment) forgetTrial(ctx context.Context, next *Generation) error {
	if err := d.clearTrial(ctx, next); err != nil {
		return err
	}
	return d.removeRecord()
}

// generation returns what the revision would be run as.
func (d *Deployment) generation(rev Revision) *Generation {
	return &Generation{Script: rev.Script, Lock: rev.Lock, Shares: slices.Clone(d.Shares),
		Exposes: slices.Clone(d.Exposes), Environment: d.Environment,
		Channels: slices.Clone(rev.Channels), Probes: slices.Clone(d.Probes),
		Schedule: d.Schedule, Handling: d.handling(), Switch: d.Switch.clone(), Created: time.Now()}
}

// admit makes the revision a generation, rooted, if nothing speaks against trying it.
func (d *Deployment) admit(ctx context.Context, rev Revision, was standing) (*Generation, error) {
	g := d.next(rev, was)
	if err := d.preflight(ctx, g, was); err != nil {
		return g, err
	}
	if err := d.permit(rev, g); err != nil {
		return g, err
	}
	return g, d.create(ctx, g)
}

// permit refuses a revision because of what happened before.
func (d *Deployment) permit(rev Revision, g *Generation) error {
	if rev.Force {
		return nil
	}
	old, err := d.rejected(g)
	if err != nil || old == nil {
		return err
	}
	return &RejectedError{Generation: old}
}

// A RejectedError is a revision that was given up before and is not tried again
// unless forced.
type RejectedError struct{ Generation *Generation }

// ExitCode returns the status a program should end with.
func (e *RejectedError) ExitCode() int { return Refused.ExitCode() }

func (e *RejectedError) Error() string {
	why, _, _ := strings.Cut(e.Generation.Rejected, "\n")
	return fmt.Sprintf("%s was rejected as generation %d, and is tried again only when asked for: %s",
		e.Generation.Script, e.Generation.Number, why)
}

// create gives the generation a number, a directory and a root. It is rooted
// before it is written down, so that what exists cannot be collected.
func (d *Deployment) create(ctx context.Context, g *Generation) error {
	numbers, err := numbersIn(d.path("generations"))
	if err != nil {
		return err
	}
	g.Number = 1 + slices.Max(append(numbers, 0))
	if err := os.Mkdir(d.generationPath(g.Number), 0o700); err != nil {
		return err
	}
	if d.Root != nil {
		if err := d.Root(ctx, d.generationPath(g.Number, "root"), g.Script); err != nil {
			return fmt.Errorf("root %s: %w", g.Script, err)
		}
	}
	return d.writeGeneration(g)
}
