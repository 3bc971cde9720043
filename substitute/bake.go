package substitute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// A Baker fills a [Cache] in the background with what is asked of a [Handler]. Until an item is
// baked, it is served from the Source: there is never a time without it.
type Baker struct {
	Cache  *Cache // required
	Source Source // required
	// Workers is how many items are baked at a time; 0 means one for each processor.
	Workers int
	// Logger hears of what cannot be baked; nil discards.
	Logger *slog.Logger

	init  sync.Once
	queue chan *Info

	mu     sync.Mutex // guards what follows
	wanted map[StorePath]bool
	idle   chan struct{} // closed when nothing is wanted any more; nil when nothing is
}

// queueLength bounds what is remembered to be baked. What does not fit
// is asked for again, some time.
const queueLength = 20_000

func (b *Baker) setup() {
	b.init.Do(func() {
		b.queue = make(chan *Info, queueLength)
		b.wanted = make(map[StorePath]bool)
		if b.Logger == nil {
			b.Logger = slog.New(slog.DiscardHandler)
		}
		if b.Workers <= 0 {
			b.Workers = runtime.GOMAXPROCS(0)
		}
	})
}

// Want asks for an item to be baked soon. It does not wait.
func (b *Baker) Want(info *Info) {
	b.setup()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wanted[info.StorePath] {
		return
	}
	select {
	case b.queue <- info:
		b.wanted[info.StorePath] = true
		if b.idle == nil {
			b.idle = make(chan struct{})
		}
	default:
	}
}

// Pending is how many items are to be baked.
func (b *Baker) Pending() int {
	b.setup()
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.wanted)
}

// Wait returns when nothing is to be baked, and Run has nothing to do; or when ctx ends, with its
// error.
func (b *Baker) Wait(ctx context.Context) error {
	b.setup()
	b.mu.Lock()
	idle := b.idle
	b.mu.Unlock()
	if idle == nil {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for baking: %w", context.Cause(ctx))
	}
}

// placedAtOnce is how many items wait for the disk together.
const placedAtOnce = 64

// Run bakes until ctx ends, and returns nil. What a crash takes away is baked again when somebody asks; the files that
// it leaves go when the next process begins to bake, unless another is at it.
func (b *Baker) Run(ctx context.Context) error {
	b.setup()
	if stop, err := b.Cache.adding(ctx); err == nil {
		defer stop()
	} else if ctx.Err() == nil {
		b.Logger.ErrorContext(ctx, "prepare cache", "error", err)
	}
	var placing errgroup.Group
	placing.SetLimit(placedAtOnce)
	var workers sync.WaitGroup
	for range b.Workers {
		workers.Go(func() { b.work(ctx, &placing) })
	}
	workers.Wait()
	return placing.Wait()
}

// work compresses what is wanted.
func (b *Baker) work(ctx context.Context, placing *errgroup.Group) {
	for ctx.Err() == nil {
		select {
		case info := <-b.queue:
			// What only the cache has any more can be baked anew of what it has, when the key is new or a form missing.
			e, err := b.Cache.entry(ctx, First(b.Source, b.Cache), info)
			if e == nil {
				b.done(ctx, info, err)
				continue
			}
			placing.Go(func() error {
				b.Cache.place(e)
				b.done(ctx, info, e.failed())
				return nil
			})
		case <-ctx.Done():
		}
	}
}

// done ends the baking of an item.
func (b *Baker) done(ctx context.Context, info *Info, err error) {
	b.mu.Lock()
	delete(b.wanted, info.StorePath)
	if len(b.wanted) == 0 && b.idle != nil {
		close(b.idle)
		b.idle = nil
	}
	b.mu.Unlock()
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotFound) {
		b.Logger.ErrorContext(ctx, "bake", "item", string(info.StorePath), "error", err)
	}
}

// Closure returns what src says of items and of everything they refer to, each
// one after those it refers to.
func Closure(ctx context.Context, src Source, roots ...StorePath) ([]*Info, error) {
	var closure []*Info
	seen := make(map[StorePath]bool)
	var visit func(StorePath) error
	visit = func(p StorePath) error {
		if seen[p] {
			return nil
		}
		seen[p] = true
		info, err := src.Info(ctx, p.Hash())
		if err == nil && info.StorePath != p {
			err = fmt.Errorf("%w: %s", ErrNotFound, p)
		}
		if err != nil {
			return err
		}
		for _, ref := range info.References {
			if err := visit(ref); err != nil {
				return err
			}
		}
		closure = append(closure, info)
		return nil
	}
	for _, p := range roots {
		if err := visit(p); err != nil {
			return nil, err
		}
	}
	return closure, nil
}
