package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
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

	mu     sync.Mutex // guards wanted
	wanted map[StorePath]bool
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

// Run bakes until ctx ends, and returns nil.
func (b *Baker) Run(ctx context.Context) error {
	b.setup()
	// Half of the time for a small item goes to waiting for the disk, during
	// which another can be compressed.
	const waiting = 4
	src := takingTurns{b.Source, make(chan struct{}, b.Workers)}
	var workers sync.WaitGroup
	for range waiting * b.Workers {
		workers.Go(func() {
			for {
				select {
				case info := <-b.queue:
					b.bake(ctx, src, info)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	workers.Wait()
	return nil
}

// A takingTurns Source writes only some archives at a time, and thereby limits who
// compresses them.
type takingTurns struct {
	Source
	turns chan struct{} // holds a token for each archive being written
}

func (s takingTurns) WriteNAR(ctx context.Context, w io.Writer, info *Info) error {
	select {
	case s.turns <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-s.turns }()
	return s.Source.WriteNAR(ctx, w, info)
}

func (b *Baker) bake(ctx context.Context, src Source, info *Info) {
	// What a crash takes away is baked again when somebody asks. File systems keep the
	// order of names, so that no narinfo survives its archive.
	err := b.Cache.add(ctx, src, info, placeFile)
	b.mu.Lock()
	delete(b.wanted, info.StorePath)
	b.mu.Unlock()
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotFound) {
		b.Logger.ErrorContext(ctx, "bake", "item", string(info.StorePath), "error", err)
	}
}

// Export adds items of src and everything they refer to, what is referred to
// first, so that whatever is in the cache can be used. workers of them are added at a
// time; 0 means one for each processor. done, if not nil, is told of each item; its
// calls do not overlap.
func (c *Cache) Export(ctx context.Context, src Source, roots []StorePath, workers int, done func(*Info)) error {
	closure, err := Closure(ctx, src, roots...)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	if err := c.exportAll(ctx, src, closure, workers, done); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func (c *Cache) exportAll(ctx context.Context, src Source, closure []*Info, workers int, done func(*Info)) error {
	finished := make(map[StorePath]chan struct{}, len(closure))
	for _, info := range closure {
		finished[info.StorePath] = make(chan struct{})
	}
	var mu sync.Mutex // held while done is called
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	// Items come after those they refer to, so that the oldest worker never waits.
	for _, info := range closure {
		group.Go(func() error {
			for _, ref := range info.References {
				if ref == info.StorePath {
					continue
				}
				select {
				case <-finished[ref]:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			if err := c.Add(ctx, src, info); err != nil {
				return err
			}
			close(finished[info.StorePath])
			if done != nil {
				mu.Lock()
				defer mu.Unlock()
				done(info)
			}
			return nil
		})
	}
	return group.Wait()
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
