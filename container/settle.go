package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// standing is what there is when a change begins.
type standing struct {
	current *Generation // the confirmed one; nil before the first
	running *Instance   // of current; nil when it does not run
	wanted  bool        // current ought to run: nobody has stopped it
	beside  *Instance   // the one before, kept to return to; nil for none
}

// runs reports whether g, or one just like it, is what runs, and has been healthy.
func (s standing) runs(g *Generation) bool {
	return s.running != nil && !s.running.record.ComingUp && s.current.Rejected == "" && g.like(s.current)
}

// lingers reports whether the generation that is kept ought to have been stopped: who should have has been killed, or had to end.
func (s standing) lingers() bool { return s.beside != nil && s.current.Switch.StopOld }

// previous returns the number to go back to; 0 for none.
func (s standing) previous() int {
	if !s.wanted {
		return 0
	}
	return s.current.Number
}

// number returns that of the confirmed generation; 0 for none.
func (s standing) number() int {
	if s.current == nil {
		return 0
	}
	return s.current.Number
}

// stop stops what runs. Only something that is still there is an error. What the
// container leaves behind has been cleared away when cleared returns.
func (s standing) stop(ctx context.Context) (cleared func(), err error) {
	if s.running == nil {
		return func() {}, nil
	}
	clear := s.running.halt(ctx)
	if s.running.Alive() {
		return func() {}, errors.Join(errStubborn, clear())
	}
	done := make(chan error, 1)
	go func() { done <- clear() }()
	return func() { s.running.d.complain("clear away the old container", <-done) }, nil
}

// settle finds out what there is, and clears away what a process that was
// killed, or a machine that went down, has left half done.
func (d *Deployment) settle(ctx context.Context) (standing, error) {
	d.complain("finish a confirmation", d.settleConfirmation(context.WithoutCancel(ctx)))
	current, err := d.Current()
	if err != nil {
		return standing{}, err
	}
	d.complain("settle the ledger", d.settleLedger(current))
	if current != nil {
		d.complain("write down what was gone back from", d.withdraw(current.Number))
	}
	d.complain("remove what is half made", d.sweep())
	d.complain("stop what ran beside", d.sweepBeside(context.WithoutCancel(ctx)))
	if err := d.stopHooks(context.WithoutCancel(ctx)); err != nil {
		return standing{}, fmt.Errorf("end hooks that were left behind: %w", err)
	}
	r, err := d.readRecord()
	if err != nil || r == nil {
		return standing{current: current}, err
	}
	beside, err := d.settleBeside(ctx, r, current)
	if err != nil {
		return standing{}, err
	}
	in, err := d.instance(r)
	if err != nil {
		return standing{}, err
	}
	confirmed := current != nil && current.Number == r.Generation
	d.unfreeze(in)
	if in.Process.dying() {
		limited, cancel := context.WithTimeout(ctx, dyingTimeout)
		d.complain("see the container end", in.Process.wait(limited))
		cancel()
	}
	if in.Alive() && r.Stopping {
		d.log().Info("ending what somebody who was killed has begun to stop", "generation", r.Generation)
		if err := in.stop(context.WithoutCancel(ctx)); err != nil {
			return standing{}, err
		}
	}
	left := d.clearOthers(context.WithoutCancel(ctx), r)
	if confirmed && in.Alive() {
		d.complain("clear away what does not run", left)
		in.record = r
		was := standing{current, in, true, beside}
		if was.lingers() {
			d.complain("stop the old generation, which is kept", d.endStandby(ctx, was))
			if r.Beside == nil {
				was.beside = nil
			}
		}
		return was, nil
	}
	if beside != nil {
		if err := beside.kill(context.WithoutCancel(ctx)); err != nil {
			return standing{}, err
		}
	}
	if err := in.kill(context.WithoutCancel(ctx)); err != nil {
		return standing{}, fmt.Errorf("clear away generation %d, which a process that was killed has left: %w", r.Generation, err)
	}
	if left != nil {
		return standing{}, left
	}
	if !confirmed {
		if err := d.undo(context.WithoutCancel(ctx), r.Generation); err != nil {
			return standing{}, err
		}
	}
	if confirmed && r.Unwanted {
		d.tellFinished(r, current)
		return standing{current: current}, d.removeRecord()
	}
	if confirmed || r.Previous != 0 && current != nil {
		// Written down before anything else happens to it.
		err := d.writeRecord(&record{Generation: current.Number})
		if confirmed { // what is there says no less, and there may be no space for more
			d.complain("write down what ought to run", err)
			err = nil
		}
		return standing{current: current, wanted: true}, err
	}
	return standing{current: current}, d.removeRecord()
}

// dyingTimeout is how long a container that was killed may take to end before it counts as one that runs: the kernel cannot
// end what waits for a disk that does not answer.
const dyingTimeout = 10 * time.Second

// unfreeze lets a container go on that a supervisor who was killed has left frozen. Only supervisors freeze.
func (d *Deployment) unfreeze(in *Instance) {
	if held, err := d.Supervised(); in.Alive() && !held {
		d.complain("let the container go on", errors.Join(err, in.thaw()))
	}
}

// clearOthers clears away what generations that are not recorded to run have left behind: they were stopped, but who stopped them
// was killed before he saw their launchers end, or could not end them.
func (d *Deployment) clearOthers(ctx context.Context, r *record) error {
	found, err := d.generationsWith("run")
	for _, number := range found {
		if number == r.Generation || r.Beside != nil && number == r.Beside.Generation {
			continue
		}
		in, e := d.instance(&record{Generation: number})
		if e == nil {
			e = in.kill(ctx)
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("clear away what is left of generation %d: %w", number, e))
		}
	}
	return err
}

// finishLedger is settleLedger for who enters something, and changes no container.
func (d *Deployment) finishLedger() error {
	current, err := d.Current()
	if err != nil {
		return err
	}
	return d.settleLedger(current)
}

// settleLedger ends an entry that began and was cut off.
func (d *Deployment) settleLedger(current *Generation) error {
	last, err := d.lastEntered()
	if err != nil || last.Event != Began && last.Event != WasApproved {
		return err
	}
	e := Entry{Event: WasCutOff, Generation: last.Generation, Script: last.Script, Lock: last.Lock}
	if current != nil && current.Number == last.Generation {
		e.Event, e.Detail = Confirmed, "found so after an interruption"
	}
	return d.enter(e)
}

func (d *Deployment) failed(o Outcome, err error) *Error {
	return &Error{Deployment: d.Name, Outcome: o, Err: err}
}

// entry is the ledger's about a generation.
func (d *Deployment) entry(rev Revision, g *Generation, event Event) Entry {
	return Entry{Event: event, Generation: g.Number, Script: g.Script, Lock: g.Lock,
		Bindings: g.Bindings(), Environment: g.Environment.Name, Who: cmp.Or(rev.Who, d.Who), Why: cmp.Or(rev.Why, d.Why)}
}

// note enters what is done to a generation without deploying it.
func (d *Deployment) note(rev Revision, g *Generation, event Event, detail string) {
	e := d.entry(rev, g, event)
	e.Detail = detail
	d.log().Info("deployment "+string(event), "generation", g.Number, "detail", detail)
	d.complain("write the ledger", d.enter(e))
}

// noteRefusal enters that the generation is not started, unless that is what was entered last: a
// supervisor tries again and again.
func (d *Deployment) noteRefusal(rev Revision, g *Generation, cause error) {
	last, err := d.lastEntered()
	if err != nil || last.Event != WasRefused || last.Generation != g.Number || last.Who != d.entry(rev, g, WasRefused).Who || last.Detail != cause.Error() {
		d.note(rev, g, WasRefused, cause.Error())
	}
}

// begin enters that next is going to be tried, and what distinguishes it from what ran
// before. What cannot be written down must not begin.
func (d *Deployment) begin(ctx context.Context, rev Revision, was standing, next *Generation) error {
	if err := d.willWithdraw(next.Number, rev.back, was.number()); err != nil {
		return err
	}
	e := d.entry(rev, next, Began)
	difference, err := distinguish(ctx, d.Closures, was.current, next)
	if err == nil {
		e.Plan = difference
		e.Plan.Rebuilt.Items = nil // there may be very many
	}
	d.complain("compare generations", err)
	d.log().Info("deployment "+string(Began), "generation", next.Number)
	return d.enter(e)
}

// tell enters what became of a generation in the ledger.
func (d *Deployment) tell(rev Revision, g *Generation, event Event, cause error) {
	e := d.entry(rev, g, event)
	e.Switched, e.Probes = g.Switched, g.Checked
	if cause != nil {
		e.Detail = cause.Error()
	}
	d.log().Info("deployment "+string(event), "generation", g.Number, "detail", e.Detail)
	d.complain("write the ledger", d.enter(e))
}

// complain logs an error that must not change the course of things: a container is
// not taken down because its history cannot be written.
func (d *Deployment) complain(doing string, err error) {
	if err != nil {
		d.log().Error("cannot "+doing, "error", err)
	}
}

// tellFinished enters a stop that somebody had asked for who was killed, unless he has entered it himself.
func (d *Deployment) tellFinished(r *record, g *Generation) {
	last, err := d.lastEntered()
	if err == nil && last.Event == WasStopped && last.Generation == g.Number && last.Who == r.Who && last.Why == r.Why {
		return
	}
	e := d.entry(Revision{}, g, WasStopped)
	e.Who, e.Why = r.Who, r.Why // not those of who finishes it
	e.Detail = "found begun after an interruption, and finished later"
	d.log().Info("deployment "+string(WasStopped), "generation", g.Number, "who", r.Who)
	d.complain("write the ledger", d.enter(e))
}

// ErrNothing is why something cannot be done with a deployment that has no current generation.
var ErrNothing = decline("no generation was ever confirmed")
