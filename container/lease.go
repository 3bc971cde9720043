package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
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

func orUnknown(text string) string {
	if text == "" {
		return "not said"
	}
	return text
}

// lease is the right to change a deployment. It is a lock of the kernel's, which goes with
// the process that holds it, so a lease is never stale; the file's text only
// says whose it is.
type lease struct{ file *os.File }

// acquire returns at once, with a *[BusyError] if the lease is taken.
func (d *Deployment) acquire(who, why string) (*lease, error) {
	if err := d.prepare(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.path("lease"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, &BusyError{readHolder(f)}
	}
	if err == nil {
		err = writeHolder(f, Holder{Who: who, Why: why, PID: os.Getpid(), Since: time.Now().Round(time.Second)})
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("take lease: %w", err)
	}
	return &lease{f}, nil
}

// readHolder tells as much as the file does: its holder may be about to write it.
func readHolder(f *os.File) Holder {
	var h Holder
	if text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<16)); err == nil {
		json.Unmarshal(text, &h)
	}
	return h
}

func writeHolder(f *os.File, h Holder) error {
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	return err
}

// release gives the lease back. The file stays: removing it would let two
// processes each lock a file of that name.
func (l *lease) release() {
	l.file.Truncate(0)
	l.file.Close()
}

// Holder returns who changes the deployment just now, nil for nobody.
func (d *Deployment) Holder() (*Holder, error) {
	f, err := os.Open(d.path("lease"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		h := readHolder(f)
		return &h, nil
	}
	return nil, err
}
