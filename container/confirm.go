package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// errUnconfirmed is why a healthy generation is taken back.
var errUnconfirmed = errors.New("nobody confirmed it in time")

// Confirm is for somebody who has looked at a generation that is healthy and waits for
// confirmation, as ConfirmBy of the [Deployment] asks: it is kept. Who applied it
// moves the pointer then, and Confirm returns nil once that is done; if that process was killed, Confirm does it. Of a
// confirmation that comes too late, or for a generation that is given up all the same, the error says so.
func (d *Deployment) Confirm(ctx context.Context) error {
	if err := d.confirmTrial(ctx); err != nil {
		return fmt.Errorf("confirm %s: %w", d.Name, err)
	}
	return nil
}

func (d *Deployment) confirmTrial(ctx context.Context) error {
	in, err := d.candidate()
	if err != nil {
		return err
	}
	if in == nil {
		return errStopped
	}
	until, err := in.waitsUntil()
	if errors.Is(err, fs.ErrNotExist) {
		return decline("generation %d does not wait for it", in.Generation.Number)
	}
	if err != nil {
		return err
	}
	// A clock that was set says nothing of the time that who waits has left: he measures it.
	if holder, err := in.d.Holder(); err != nil {
		return err
	} else if holder == nil && time.Now().After(until) {
		return decline("it comes too late: generation %d waited until %s", in.Generation.Number, until.Format(time.RFC3339))
	}
	text, err := json.Marshal(Holder{Who: d.Who, Why: d.Why, PID: os.Getpid(), Since: time.Now().Round(time.Second)})
	if err != nil {
		return err
	}
	// If somebody else has just confirmed it, what comes of that is as good an answer.
	if err := writeNew(in.confirmedFile(), text); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return in.learnOutcome(ctx)
}

// candidate returns what may wait to be confirmed: what ought to run, or what was started beside that, or the one kept
// beside it that is being returned to. It is nil if nothing ought to run.
func (d *Deployment) candidate() (*Instance, error) {
	r, err := d.readRecord()
	if err != nil || r == nil {
		return nil, err
	}
	if r.Beside == nil || !r.Beside.Trial && !r.Beside.Moved {
		return d.instance(r)
	}
	in, err := d.instance(r.Beside)
	if err == nil {
		in.main = r
	}
	return in, err
}

// learnOutcome returns nil once the instance, which somebody has confirmed, is the current one, and an error if it is
// not and does not wait any more.
func (in *Instance) learnOutcome(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for over := false; ; {
		if _, err := in.waitsUntil(); errors.Is(err, fs.ErrNotExist) { // looked at first: what came of it is there then
			over = true
		}
		current, err := in.d.Current()
		switch {
		case err != nil:
			return err
		case current != nil && current.Number == in.Generation.Number:
			return nil
		case over:
			return decline("generation %d was given up, as it came too late or something else went wrong", in.Generation.Number)
		}
		if over, err = in.d.settleAbandoned(ctx); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// settleAbandoned settles what there is if nobody is at it.
func (d *Deployment) settleAbandoned(ctx context.Context) (settled bool, err error) {
	lease, err := d.acquire("", "confirm")
	var busy *BusyError
	if errors.As(err, &busy) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lease.Release()
	_, err = d.settle(ctx)
	return err == nil, err
}

// writeNew makes name, which must not be there, hold data, all of it or not at all.
func writeNew(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), name)
}

// waitingFile is there while the instance waits to be confirmed, and until it is the current one or is going to be given
// up: it says until when it waits.
func (in *Instance) waitingFile() string {
	return in.d.generationPath(in.Generation.Number, "waiting")
}

// confirmedFile is made by who confirms the instance, and says who that is.
func (in *Instance) confirmedFile() string {
	return in.d.generationPath(in.Generation.Number, "confirmed")
}

// waitsUntil returns when the time is over, or [fs.ErrNotExist].
func (in *Instance) waitsUntil() (until time.Time, err error) {
	return until, readJSON(in.waitingFile(), &until)
}

// beginWaiting has the instance wait to be confirmed.
func (in *Instance) beginWaiting(until time.Time) error {
	if err := os.Remove(in.confirmedFile()); err != nil && !errors.Is(err, fs.ErrNotExist) { // of another time
		return err
	}
	return writeJSON(in.waitingFile(), until)
}

// endWaiting comes after the decision: who confirms the instance learns by it that there is one.
func (in *Instance) endWaiting() {
	os.Remove(in.waitingFile())
	os.Remove(in.confirmedFile())
}

// approved reports whether somebody has confirmed the instance, and enters who: the Holder of the lease does, because
// the ledger is written by nobody else.
func (in *Instance) approved() bool {
	var by Holder
	if err := readJSON(in.confirmedFile(), &by); err != nil {
		return false
	}
	last, err := in.d.lastEntered()
	if err == nil && last.Event == WasApproved && last.Generation == in.Generation.Number {
		return true // and who entered it was killed
	}
	e := in.d.entry(Revision{}, in.Generation, WasApproved)
	e.Who, e.Why = by.Who, by.Why // not those of who deploys
	in.d.log().Info("deployment "+string(WasApproved), "generation", in.Generation.Number, "who", by.Who)
	in.d.complain("write the ledger", in.d.enter(e))
	return true
}

// confirm makes a healthy generation the current one, after [Deployment.Confirm] if that is asked for. An end of the
// container or of its health, or of ctx, ends the waiting, too; and what is confirmed must be healthy just then.
func (in *Instance) confirm(ctx context.Context) error {
	if in.d.ConfirmBy == 0 || in.d.proven {
		return in.becomeCurrent()
	}
	until := time.Now().Add(in.d.ConfirmBy)
	if err := in.beginWaiting(until); err != nil {
		return err
	}
	defer in.endWaiting()
	if in.d.Waiting != nil {
		in.d.Waiting(in.Generation.Number, until)
	}
	err := in.awaitConfirmation(ctx)
	if err == nil {
		err = in.stillWell(ctx)
	}
	if err != nil {
		return err
	}
	return in.becomeCurrent()
}

// awaitConfirmation waits until somebody has confirmed the instance.
func (in *Instance) awaitConfirmation(ctx context.Context) error {
	in.d.log().Info("waiting to be confirmed", "generation", in.Generation.Number, "for", in.d.ConfirmBy)
	ctx, cancel := context.WithTimeoutCause(ctx, in.d.ConfirmBy, errUnconfirmed)
	defer cancel()
	ctx, release := in.whileWell(ctx)
	defer release()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		cause := context.Cause(ctx) // asked first: a confirmation in time counts
		switch {
		case cause != nil && !errors.Is(cause, errUnconfirmed):
			return cause
		case in.approved():
			return nil
		case cause != nil:
			return cause
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// stillWell returns why the instance, which was healthy, is not any more.
func (in *Instance) stillWell(ctx context.Context) error { return in.watch(ctx, time.Nanosecond) }

// becomeCurrent moves the pointer, which is what counts; a process that is killed right after it has confirmed all the
// same.
func (in *Instance) becomeCurrent() error {
	in.Generation.Started, in.Generation.Withdrawn = time.Now(), false
	if err := in.d.writeGeneration(in.Generation); err != nil {
		return err
	}
	return in.d.point(in.Generation.Number)
}

// settleConfirmation makes current what somebody has confirmed, and is healthy, while, or right before, the process that waited for that
// was killed. Otherwise nothing waits any more.
func (d *Deployment) settleConfirmation(ctx context.Context) error {
	in, err := d.candidate()
	if err != nil || in == nil {
		return err
	}
	if _, err := os.Stat(in.waitingFile()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	defer in.endWaiting()
	if !in.Alive() || in.record.Stopping || !in.approved() || in.stillWell(ctx) != nil {
		return nil
	}
	return in.becomeCurrent()
}
