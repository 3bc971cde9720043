package container

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/genenetwork/guixci/internal/filelock"
)

// A Holder is who changes a deployment just now.
type Holder struct {
	Who   string    `json:"who,omitempty"`
	Why   string    `json:"why,omitempty"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// A BusyError is a deployment that somebody else is changing.
type BusyError struct{ Holder Holder }

func (e *BusyError) Error() string {
	return fmt.Sprintf("process %d (%s: %s) has been changing it since %s",
		e.Holder.PID, orUnknown(e.Holder.Who), orUnknown(e.Holder.Why), e.Holder.Since.Format(time.RFC3339))
}

// ExitCode returns the status a program should end with: nothing was tried, and nothing has changed.
func (e *BusyError) ExitCode() int { return Refused.ExitCode() }

func orUnknown(text string) string {
	if text == "" {
		return "not said"
	}
	return text
}

// acquire takes the right to change the deployment: a lock that goes with
// the process that holds it, so it is never stale. It returns at once, with
// a *[BusyError] if somebody else has it.
func (d *Deployment) acquire(who, why string) (*filelock.Lock, error) {
	if err := d.prepare(); err != nil {
		return nil, err
	}
	l, err := filelock.Try(d.path("lease"))
	if errors.Is(err, filelock.ErrHeld) {
		h, err := d.Holder()
		if h == nil {
			h = new(Holder) // it has just let go
		}
		return nil, errors.Join(&BusyError{*h}, err)
	}
	if err != nil {
		return nil, fmt.Errorf("take lease: %w", err)
	}
	text, err := json.Marshal(Holder{Who: cmp.Or(who, d.Who), Why: cmp.Or(why, d.Why), PID: os.Getpid(), Since: time.Now().Round(time.Second)})
	if err == nil {
		err = l.Note(text)
	}
	d.complain("say who is changing it", err) // on a full disk a container must still be stopped
	return l, nil
}

// demand is acquire for somebody who is going to start, stop or replace what runs: a supervisor that tries to start
// that, again and again, gives way.
func (d *Deployment) demand(ctx context.Context, who, why string) (*filelock.Lock, error) {
	lease, err := d.acquire(who, why)
	var busy *BusyError
	if !errors.As(err, &busy) {
		return lease, err
	}
	asked, err := filelock.Acquire(ctx, d.path("asked"))
	if err != nil {
		return nil, errors.Join(busy, err)
	}
	defer asked.Release()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, starting, err := filelock.Holder(d.path("starting")) // looked at first: else it might let go in between
		if err != nil {
			return nil, errors.Join(busy, err)
		}
		lease, err := d.acquire(who, why)
		if !errors.As(err, &busy) || !starting {
			return lease, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(busy, context.Cause(ctx))
		}
	}
}

// yielding tells those who demand the lease that it is going to be held by somebody who gives way: when
// they do, the context ends with errGivesWay.
func (d *Deployment) yielding(ctx context.Context) (_ context.Context, release func(), err error) {
	starting, err := filelock.Acquire(ctx, d.path("starting"))
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	look := func() {
		if _, asked, err := filelock.Holder(d.path("asked")); asked && err == nil {
			cancel(errGivesWay)
		}
	}
	look()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case <-tick.C:
				look()
			case <-ctx.Done():
			}
		}
	}()
	return ctx, func() { cancel(nil); <-done; starting.Release() }, nil
}

var errGivesWay = errors.New("it gives way to somebody who starts, stops or replaces the container")

// Holder returns who changes the deployment just now, nil for nobody.
func (d *Deployment) Holder() (*Holder, error) {
	note, held, err := filelock.Holder(d.path("lease"))
	if !held || err != nil {
		return nil, err
	}
	h := new(Holder)
	json.Unmarshal(note, h) // it may be about to be written
	return h, nil
}
