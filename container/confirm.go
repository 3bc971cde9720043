package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	err = os.Remove(in.waitingFile())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("generation %d does not wait for it", in.Generation.Number)
	}
	return err
}

// waitingFile is there while the instance waits to be confirmed.
func (in *Instance) waitingFile() string {
	return in.d.generationPath(in.Generation.Number, "waiting")
}

// awaitConfirmation waits for [Deployment.Confirm], if it is asked for. An end of the container or
// of ctx ends the waiting, too.
func (in *Instance) awaitConfirmation(ctx context.Context) error {
	if in.d.ConfirmBy == 0 {
		return nil
	}
	if err := writeFile(in.waitingFile(), nil); err != nil {
		return err
	}
	defer os.Remove(in.waitingFile())
	in.d.log().Info("waiting to be confirmed", "generation", in.Generation.Number, "for", in.d.ConfirmBy)
	ctx, cancel := context.WithTimeoutCause(ctx, in.d.ConfirmBy, errUnconfirmed)
	defer cancel()
	ctx, release := in.whileAlive(ctx)
	defer release()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(in.waitingFile()); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
