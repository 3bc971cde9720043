package build

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/genenetwork/guixci/guixci/store"
)

// A Daemon is the [Store], [Builder] and [Fetcher] that guix-daemon is. The zero value does for
// the machine's usual daemon. Exported fields must not change after the first call.
type Daemon struct {
	// Pool makes the connections. Nil means one for the usual daemon.
	Pool *store.Pool
	// Options for every build; limits come from the scheduler, and the
	// number of jobs is always 1, since the scheduler has slots.
	Options store.BuildOptions

	once sync.Once
	pool *store.Pool

	mu     sync.Mutex // guards the following
	holder *store.Client
	held   map[StorePath]bool
}

func (d *Daemon) connections() *store.Pool {
	d.once.Do(func() {
		d.pool = d.Pool
		if d.pool == nil {
			d.pool = &store.Pool{}
		}
	})
	return d.pool
}

// ValidPaths asks the daemon which of paths are valid.
func (d *Daemon) ValidPaths(ctx context.Context, paths []StorePath) ([]StorePath, error) {
	valid, err := d.connections().ValidPaths(ctx, paths)
	return valid, reached(err)
}

// Build has the daemon build one derivation.
func (d *Daemon) Build(ctx context.Context, drv StorePath, limits Limits, log io.Writer) error {
	if err := d.Hold(ctx, nil); err != nil { // the daemon may have been restarted
		return err
	}
	options := d.Options
	options.MaxJobs, options.KeepGoing = 1, false
	options.Timeout, options.MaxSilentTime = limits.Timeout, limits.MaxSilent
	return reached(d.connections().Build(ctx, []StorePath{drv}, options, func(e store.Event) {
		if e.Text != "" && e.PID != 0 && e.Kind != store.BuildFailed && e.Kind != store.HookFailed {
			io.WriteString(log, e.Text) // after an error the guard has ended ctx
		}
	}))
}

// Substitutable asks the daemon which of paths can be fetched; Options say from where.
func (d *Daemon) Substitutable(ctx context.Context, paths []StorePath) ([]StorePath, error) {
	some, err := d.connections().SubstitutablePaths(ctx, paths, d.Options)
	return some, reached(err)
}

// Fetch has the daemon fetch substitutes.
func (d *Daemon) Fetch(ctx context.Context, paths []StorePath, log io.Writer) error {
	for _, p := range paths {
		err := d.connections().EnsurePath(ctx, p, d.Options, func(e store.Event) {
			if e.Text != "" {
				io.WriteString(log, e.Text)
			}
		})
		if err != nil {
			return reached(err)
		}
	}
	return nil
}

// An unreachable is the error of a daemon that could not even be asked.
type unreachable struct{ error }

func (e *unreachable) Unwrap() error { return e.error }

// reached tells what the daemon answers, and what is known of a connection that
// was there, from the failure to make one.
func reached(err error) error {
	var failed *store.BuildError
	var said *store.DaemonError
	if err == nil || errors.As(err, &failed) || errors.As(err, &said) || errors.Is(err, store.ErrClosed) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &unreachable{err}
}

// Hold keeps paths by temporary roots of a connection that stays open until
// [Daemon.Close]. Should the daemon have been restarted it takes hold of everything again.
func (d *Daemon) Hold(ctx context.Context, paths []StorePath) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.hold(ctx, paths)
	if errors.Is(err, store.ErrClosed) && ctx.Err() == nil {
		err = d.hold(ctx, paths)
	}
	return err
}

// hold makes roots of what has none. After an error there is no telling what
// is held, so the next call begins with a new connection.
func (d *Daemon) hold(ctx context.Context, paths []StorePath) error {
	fresh := d.fresh(paths)
	if d.holder != nil && !d.holder.Alive() {
		d.holder.Close()
		d.holder = nil
	}
	if d.holder == nil && len(d.held) > 0 {
		c, err := store.Dial(ctx, d.connections().Address)
		if err != nil {
			return reached(err)
		}
		d.holder = c
		fresh = slices.Collect(maps.Keys(d.held))
	}
	for _, p := range fresh {
		if err := d.holder.AddTempRoot(ctx, p); err != nil {
			d.holder.Close()
			d.holder = nil
			return err
		}
	}
	return nil
}

// fresh adds paths to those to be held and returns the ones that are new.
func (d *Daemon) fresh(paths []StorePath) (fresh []StorePath) {
	if d.held == nil {
		d.held = map[StorePath]bool{}
	}
	for _, p := range paths {
		if !d.held[p] {
			d.held[p] = true
			fresh = append(fresh, p)
		}
	}
	return fresh
}

// Close lets go of what is held. It leaves Pool open.
func (d *Daemon) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.holder == nil {
		return nil
	}
	err := d.holder.Close()
	d.holder = nil
	return err
}
