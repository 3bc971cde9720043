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
// moves the pointer then, and returns.
func (d *Deployment) Confirm() error {
	if err := d.confirmTrial(); err != nil {
		return fmt.Errorf("confirm %s: %w", d.Name, err)
	}
	return nil
}

func (d *Deployment) confirmTrial() error {
	in, err := d.Running()
	if err != nil {
		return err
	}
	if beside, err := d.kept(); err != nil {
		return err
	} else if beside != nil && (beside.record.Trial || beside.record.Moved) { // new, or the kept one that is returned to
		in = beside
	}
	if _, err := os.Stat(in.waitingFile()); errors.Is(err, fs.ErrNotExist) {
		return decline("generation %d does not wait for it", in.Generation.Number)
	}
	text, err := json.Marshal(Holder{Who: d.Who, Why: d.Why, PID: os.Getpid(), Since: time.Now().Round(time.Second)})
	if err == nil {
		err = writeNew(in.confirmedFile(), text)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("somebody else confirms generation %d just now", in.Generation.Number)
	}
	return err
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

// waitingFile is there while the instance waits to be confirmed.
func (in *Instance) waitingFile() string {
	return in.d.generationPath(in.Generation.Number, "waiting")
}

// confirmedFile is made by who confirms the instance, and says who that is.
func (in *Instance) confirmedFile() string {
	return in.d.generationPath(in.Generation.Number, "confirmed")
}

// approved reports whether somebody has confirmed the instance, and enters who: the Holder of the lease does, because
// the ledger is written by nobody else.
func (in *Instance) approved() bool {
	var by Holder
	if err := readJSON(in.confirmedFile(), &by); err != nil {
		return false
	}
	e := in.d.entry(Revision{}, in.Generation, WasApproved)
	e.Who, e.Why = by.Who, by.Why // not those of who deploys
	in.d.log().Info("deployment "+string(WasApproved), "generation", in.Generation.Number, "who", by.Who)
	in.d.complain("write the ledger", in.d.enter(e))
	return true
}

// awaitConfirmation waits for [Deployment.Confirm], if it is asked for. An end of the container or
// of ctx ends the waiting, too.
func (in *Instance) awaitConfirmation(ctx context.Context) error {
	if in.d.ConfirmBy == 0 {
		return nil
	}
	if err := os.Remove(in.confirmedFile()); err != nil && !errors.Is(err, fs.ErrNotExist) { // of another time
		return err
	}
	if err := writeFile(in.waitingFile(), nil); err != nil {
		return err
	}
	defer os.Remove(in.confirmedFile())
	defer os.Remove(in.waitingFile())
	in.d.log().Info("waiting to be confirmed", "generation", in.Generation.Number, "for", in.d.ConfirmBy)
	ctx, cancel := context.WithTimeoutCause(ctx, in.d.ConfirmBy, errUnconfirmed)
	defer cancel()
	ctx, release := in.whileAlive(ctx)
	defer release()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		cause := context.Cause(ctx) // asked first: who was told that it is confirmed must not be wrong
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
