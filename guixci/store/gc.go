package store

import (
	"context"
	"fmt"
	"math"
)

// What a garbage collection does, from store-api.hh.
const (
	gcReturnLive     = 0
	gcReturnDead     = 1
	gcDeleteDead     = 2
	gcDeleteSpecific = 3
)

// Collected says what a garbage collection removed.
type Collected struct {
	Paths []StorePath
	Freed int64 // bytes
}

// CollectGarbage removes store items that no root needs, until at least
// minFreed bytes are freed or nothing is left to remove; 0 removes all of them.
func (c *Client) CollectGarbage(ctx context.Context, minFreed int64) (Collected, error) {
	limit := uint64(math.MaxUint64)
	if minFreed > 0 {
		limit = uint64(minFreed)
	}
	got, err := c.collect(ctx, gcDeleteDead, nil, limit)
	if err != nil {
		return got, fmt.Errorf("collect garbage: %w", err)
	}
	return got, nil
}

// Delete removes the given store items.
// If a root or another item still needs one of them nothing more is removed
// and the error is a [*DaemonError] that names it.
func (c *Client) Delete(ctx context.Context, paths ...StorePath) (Collected, error) {
	if len(paths) == 0 {
		return Collected{}, nil
	}
	got, err := c.collect(ctx, gcDeleteSpecific, paths, math.MaxUint64)
	if err != nil {
		return got, fmt.Errorf("delete %d store items: %w", len(paths), err)
	}
	return got, nil
}

// DeadPaths returns the store items that no root needs.
func (c *Client) DeadPaths(ctx context.Context) ([]StorePath, error) {
	got, err := c.collect(ctx, gcReturnDead, nil, math.MaxUint64)
	if err != nil {
		return nil, fmt.Errorf("find dead paths: %w", err)
	}
	return got.Paths, nil
}

// LivePaths returns the store items that some root needs.
func (c *Client) LivePaths(ctx context.Context) ([]StorePath, error) {
	got, err := c.collect(ctx, gcReturnLive, nil, math.MaxUint64)
	if err != nil {
		return nil, fmt.Errorf("find live paths: %w", err)
	}
	return got.Paths, nil
}

func (c *Client) collect(ctx context.Context, action uint64, paths []StorePath, minFreed uint64) (got Collected, err error) {
	if err := check(paths...); err != nil {
		return got, err
	}
	err = c.do(ctx, exchange{
		op: opCollectGarbage,
		send: func(w *writer) {
			w.uint(action)
			w.paths(paths)
			w.bool(false) // never ignore what is alive
			w.uint(minFreed)
			for range 3 {
				w.uint(0) // obsolete
			}
		},
		receive: func(r *reader) {
			got.Paths = r.paths()
			got.Freed = int64(r.uint())
			r.uint() // obsolete
		},
	})
	return got, err
}

// FindRoots returns the garbage collector's roots: for each the name of the
// link, or of what else holds it, such as a process, and the item it keeps.
func (c *Client) FindRoots(ctx context.Context) (map[string]StorePath, error) {
	roots := map[string]StorePath{}
	err := c.query(ctx, opFindRoots, nil, func(r *reader) {
		list(r, func() struct{} {
			link := r.string()
			roots[link] = StorePath(r.string())
			return struct{}{}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("find roots: %w", err)
	}
	return roots, nil
}

// VerifyStore checks that every valid path exists and, with contents, that it
// still has the hash it was registered with, which reads the whole store.
// With repair it fetches what is broken as substitutes (for root only).
// It reports whether all is well; what is not goes to the Logger.
func (c *Client) VerifyStore(ctx context.Context, contents, repair bool) (ok bool, err error) {
	err = c.query(ctx, opVerifyStore,
		func(w *writer) { w.bool(contents); w.bool(repair) },
		func(r *reader) { ok = !r.bool() })
	if err != nil {
		return false, fmt.Errorf("verify store: %w", err)
	}
	return ok, nil
}
