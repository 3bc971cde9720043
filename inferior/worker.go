package inferior

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A worker lowers packages in one session after another.
type worker struct {
	*evaluation
	number  int
	found   chan<- Job
	session *listing // nil if there is none
	sent    []int    // items whose replies are awaited, in order
	done    int      // replies of this session
	big     bool     // the session is to be replaced
	stale   bool     // the session said so; the next one is cautious
}

// workAll runs the workers until all is done; the first one has a session already.
// Their sessions last until the end of all, and with them what keeps
// derivations from being collected.
func (e *evaluation) workAll(ctx context.Context, first *listing, found chan<- Job) error {
	workers := make([]*worker, e.Sessions)
	group, within := errgroup.WithContext(ctx)
	for i := range workers {
		w := &worker{evaluation: e, number: i, found: found}
		if i == 0 {
			w.session = first
		}
		workers[i] = w
		group.Go(func() error { return w.run(within) })
	}
	err := group.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	for _, w := range workers {
		w.close()
	}
	return err
}

// run works until there is nothing left to do or take. Each session does at least one
// package or has lost the one that broke it, so this ends.
func (w *worker) run(ctx context.Context) error {
	for w.work.worthwhile(w.number) {
		if w.session == nil {
			s, err := w.open(ctx, w.stale)
			if err != nil {
				return err
			}
			w.session, w.done, w.big, w.stale = s, 0, false, false
		}
		for w.session != nil {
			if !w.work.take(w.number) {
				return nil
			}
			if err := w.lower(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *worker) close() {
	if w.session != nil {
		w.session.Close()
		w.session = nil
	}
}

// errStale is why a session was ended that counted on something in the store
// that is not there any more.
var errStale = errors.New("the store was collected")

// leastDone is how many packages a session lowers before its memory matters:
// else a budget below what it takes to list packages would cost a listing for each.
const leastDone = 32

// calls are the expressions that lower the worker's run, until the session is too big.
func (w *worker) calls(yield func(sexp.Value) bool) {
	for !w.stale && !w.tooBig() {
		i, ok := w.work.next(w.number)
		if !ok {
			return
		}
		w.sent = append(w.sent, i)
		p, system := i%len(w.entries), w.Systems[i/len(w.entries)]
		if !yield(sexp.L(sexp.Symbol("guixci/lower"), sexp.Int(w.session.numbers[p]), sexp.String(system))) {
			return
		}
	}
}

// tooBig notices when the session should be replaced. Asking the
// kernel costs little, but not nothing.
func (w *worker) tooBig() bool {
	if w.done >= leastDone && w.done%8 == 0 && !w.big {
		w.big = w.session.resident() > w.SessionMemory
	}
	return w.big
}

// lower lowers the worker's run, as far as its session goes. The session is nil
// after it if it broke or is too big.
func (w *worker) lower(ctx context.Context) error {
	late := fmt.Errorf("not lowered within %v", w.PackageTimeout)
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	clock := time.AfterFunc(w.PackageTimeout, func() { cancel(late) })
	defer clock.Stop()
	for v, err := range w.session.EvalAll(within, w.calls) {
		clock.Stop() // the consumer may take its time
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, ErrClosed) {
			return w.broke(ctx, err, late)
		}
		if _, w.stale = sexp.Rest(v, "stale"); w.stale {
			cancel(errStale) // what was sent ahead need not be waited for
			break
		}
		jobs, err := w.jobs(w.sent[0], v, err, late)
		if err == nil {
			err = w.send(ctx, jobs)
		}
		if err != nil {
			cancel(err) // what was sent ahead need not be waited for
			return err
		}
		w.sent = w.sent[1:]
		w.done++
		clock.Reset(w.PackageTimeout)
	}
	if w.big || w.stale {
		w.Logger.Debug("inferior replaced", "resident", w.session.resident(), "packages", w.done, "stale", w.stale)
		w.work.back(w.number, len(w.sent))
		w.sent = nil
		w.close()
	}
	return nil
}

// broke deals with a session that broke at the first of the items sent. Who
// took long is to blame; who used memory, or was there when the session ended, only if
// nobody used it before: else the item is tried again in a fresh session.
func (w *worker) broke(ctx context.Context, failure, late error) error {
	w.close()
	blamed := w.sent[0]
	w.work.back(w.number, len(w.sent))
	w.sent = nil
	if w.done > 0 && !errors.Is(failure, late) {
		w.Logger.Warn("inferior lost, package tried again", "job", w.blank(blamed).Name, "err", failure)
		return nil
	}
	w.work.next(w.number) // skips the one to blame
	jobs, err := w.jobs(blamed, nil, failure, late)
	if err != nil {
		return err
	}
	return w.send(ctx, jobs)
}

func (w *worker) send(ctx context.Context, jobs []Job) error {
	for _, job := range jobs {
		select {
		case w.found <- job:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
