package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// A Freezer is a [Runner] that can hold all processes of a unit still for a moment. With
// it nothing is lost that they print while their log is put aside.
type Freezer interface {
	// Freeze returns once no process of the unit runs; on error all do. They go on with Thaw, which is no error for
	// a unit that is not frozen.
	Freeze(ctx context.Context, u Unit) error
	Thaw(u Unit) error
}

// rotateLog puts the log aside as log.1 once it has reached a size, and what is there as
// log.1 as log.2, and so on; count of them are kept. The listener has the log open
// for appending: it is emptied, not exchanged.
func (in *Instance) rotateLog(ctx context.Context, size int64, count int) error {
	info, err := os.Stat(in.logFile())
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() < size {
		return nil
	}
	if err == nil {
		err = in.putLogAside(ctx, count)
	}
	if err != nil {
		return fmt.Errorf("put log aside: %w", err)
	}
	return nil
}

func (in *Instance) putLogAside(ctx context.Context, count int) error {
	log, err := os.OpenFile(in.logFile(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	aside, err := os.CreateTemp(in.d.generationPath(in.Generation.Number), ".log.")
	if err != nil {
		return err
	}
	_, err = io.Copy(aside, log) // most of it, while the container runs on
	if err == nil {
		err = in.still(ctx, func() error { return in.moveRest(log, aside, count) })
	}
	if err = errors.Join(err, aside.Close()); err != nil {
		os.Remove(aside.Name())
	}
	return err
}

// moveRest copies what has been printed in the meantime, and empties the log. When it
// is killed before the end, lines are there twice and none is lost.
func (in *Instance) moveRest(log, aside *os.File, count int) error {
	if _, err := io.Copy(aside, log); err != nil {
		return err
	}
	if err := aside.Sync(); err != nil {
		return err
	}
	for i := count; i > 1; i-- {
		err := os.Rename(in.asideName(i-1), in.asideName(i))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(aside.Name(), in.asideName(1)); err != nil {
		return err
	}
	return log.Truncate(0)
}

func (in *Instance) asideName(i int) string { return fmt.Sprintf("%s.%d", in.logFile(), i) }

// still calls the function while no process of the container runs, if its runner can do
// that; otherwise what it prints at the wrong moment may be lost.
func (in *Instance) still(ctx context.Context, f func() error) error {
	freezer, err := in.freezer()
	if err != nil {
		return err
	}
	if freezer == nil {
		return f()
	}
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	if err := freezer.Freeze(ctx, in.unit()); err != nil {
		return err
	}
	return errors.Join(f(), freezer.Thaw(in.unit()))
}

// thaw lets a container go on that somebody who was killed has left frozen.
func (in *Instance) thaw() error {
	freezer, err := in.freezer()
	if err != nil || freezer == nil {
		return err
	}
	return freezer.Thaw(in.unit())
}

// freezer returns nil if the runner is none.
func (in *Instance) freezer() (Freezer, error) {
	runner, err := in.d.runner(in.Generation)
	if err != nil {
		return nil, err
	}
	freezer, _ := runner.(Freezer)
	return freezer, nil
}

// freezeTimeout limits how long the kernel may take to stop all processes.
const freezeTimeout = 5 * time.Second
