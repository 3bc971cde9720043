package container

import (
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
	text, err := json.Marshal(Holder{Who: who, Why: why, PID: os.Getpid(), Since: time.Now().Round(time.Second)})
	if err == nil {
		err = l.Note(text)
	}
	d.complain("say who is changing it", err) // on a full disk a container must still be stopped
	return l, nil
}

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
