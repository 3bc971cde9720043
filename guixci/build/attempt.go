package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/substitute"
)

// An attempt builds one derivation once, in a goroutine of its own.
type attempt struct {
	s      *Scheduler
	number int    // counted from 1
	fetch  bool   // it is to be fetched instead
	result Result // Derivation, Outputs, Started and Log are given
	limits Limits
}

// make builds and says what came of it, after the log is complete and the outputs are rooted.
func (a *attempt) make(ctx context.Context) Result {
	r := a.result
	defer func() { r.Stopped = time.Now() }()
	if err := a.s.checkDisk(); err != nil {
		r.Cause, r.Message, r.Stopped = DiskFull, err.Error(), time.Now()
		return r
	}
	log, err := createLog(r.Log, a.number, a.s.live.get(r.Derivation))
	if err != nil {
		r.Cause, r.Message, r.Stopped = surroundings(err), err.Error(), time.Now()
		return r
	}
	a.build(ctx, log, &r)
	if err := log.Close(); err != nil {
		a.s.logger().Warn("keep build log", "file", r.Log, "error", err)
	}
	r.Stopped = time.Now()
	return r
}

func (a *attempt) build(ctx context.Context, log *logFile, r *Result) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := newGuard(log, a.limits, cancel)
	err := a.perform(ctx, g)
	g.stop()
	if err == nil {
		err = a.root(ctx, r)
	}
	if err == nil {
		r.Cause, r.Fetched = Succeeded, a.fetch
		return
	}
	a.blame(ctx, err, g, r)
	if a.fetch && r.Cause != Cancelled && r.Cause != DaemonLost && r.Cause != DiskFull {
		r.Cause = NotFetched
	}
}

// perform builds or fetches.
func (a *attempt) perform(ctx context.Context, log io.Writer) error {
	if !a.fetch {
		return a.s.Builder.Build(ctx, a.result.Derivation, a.limits, log)
	}
	return a.s.Substitutes.Fetch(ctx, slices.Sorted(maps.Values(a.result.Outputs)), log)
}

// root makes the outputs safe before anything lets go of them.
func (a *attempt) root(ctx context.Context, r *Result) error {
	if a.s.Root == nil {
		return nil
	}
	done := *r
	done.Cause = Succeeded
	if err := a.s.Root(ctx, done); err != nil {
		return fmt.Errorf("root outputs: %w", err)
	}
	return nil
}

// blame finds out why a build did not succeed: the limits and cancellations are our
// own doing and known; the rest is what the daemon says, and signs in the log.
func (a *attempt) blame(ctx context.Context, err error, g *guard, r *Result) {
	r.Message = err.Error()
	var limit *limitError
	var failed *store.BuildError
	switch cause := context.Cause(ctx); {
	case errors.As(cause, &limit):
		r.Cause, r.Message = limit.cause, limit.Error()
	case cause != nil:
		r.Cause, r.Message = Cancelled, ""
		return
	case errors.As(err, &failed) && len(failed.Failures) > 0:
		a.blameBuild(failed, g, r)
	default:
		r.Cause = surroundings(err)
	}
	r.Telling = g.telling.lines()
}

// blameBuild reads the daemon's account. It may name a dependency, should
// that have been collected meanwhile and have failed when it was built again.
func (a *attempt) blameBuild(failed *store.BuildError, g *guard, r *Result) {
	f := failed.Failures[0]
	for _, other := range failed.Failures {
		if other.Derivation == r.Derivation && other.Cause != store.Dependency {
			f = other
		}
	}
	r.Message = f.Message
	r.Cause = causes[f.Cause]
	if f.Derivation != r.Derivation && f.Derivation != "" {
		r.Cause, r.Culprit = DependencyFailed, f.Derivation
		return
	}
	if r.Cause == Failed && (strings.Contains(f.Message, "signal 9") || g.telling.outOfMemory()) {
		r.Cause = OutOfMemory
	}
}

// causes are ours for the daemon's.
var causes = map[store.Cause]Cause{
	store.Failed:      Failed,
	store.Rejected:    Failed,
	store.Cached:      Failed,
	store.Dependency:  DependencyFailed,
	store.TimedOut:    TimedOut,
	store.Silent:      Silent,
	store.LogTooLong:  LogTooLong,
	store.DiskFull:    DiskFull,
	store.Refused:     NotStarted,
	store.Offloading:  NotStarted,
	store.WrongSystem: WrongSystem,
}

// surroundings tells from an error what is wrong with the machinery.
func surroundings(err error) Cause {
	var lost *unreachable
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return DiskFull
	case errors.Is(err, store.ErrClosed), errors.As(err, &lost):
		return DaemonLost
	}
	var said *store.DaemonError
	if errors.As(err, &said) && strings.Contains(said.Message, "No space left on device") {
		return DiskFull
	}
	return NotStarted
}

// checkDisk refuses to start a build where it is bound to end badly.
func (s *Scheduler) checkDisk() error {
	if s.MinFree <= 0 {
		return nil
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(substitute.StoreDir, &fs); err != nil {
		return fmt.Errorf("look for free space in %s: %w", substitute.StoreDir, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < s.MinFree {
		return fmt.Errorf("%d bytes are free in %s and %d are wanted: free some with guix gc", free, substitute.StoreDir, s.MinFree)
	}
	return nil
}
