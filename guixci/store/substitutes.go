package store

import (
	"context"
	"fmt"
)

// A Substitute is what a substitute server says of an item it has.
type Substitute struct {
	Path         StorePath
	Deriver      StorePath // empty if unknown
	References   []StorePath
	DownloadSize int64 // bytes to fetch, compressed; 0 if unknown
	NarSize      int64 // bytes of the archive
}

// SubstitutablePaths returns those of paths that can be fetched.
// Of options only the substitute URLs matter.
func (c *Client) SubstitutablePaths(ctx context.Context, paths []StorePath, options BuildOptions) ([]StorePath, error) {
	options.UseSubstitutes = true
	if err := c.configure(ctx, &options); err != nil {
		return nil, fmt.Errorf("query substitutes: %w", err)
	}
	some, err := c.subset(ctx, opQuerySubstitutablePaths, paths)
	if err != nil {
		return nil, fmt.Errorf("query substitutes of %d paths: %w", len(paths), err)
	}
	return some, nil
}

// Substitutes describes those of paths that can be fetched, in no particular
// order. Of options only the substitute URLs matter.
func (c *Client) Substitutes(ctx context.Context, paths []StorePath, options BuildOptions) (all []Substitute, err error) {
	if err := check(paths...); err != nil {
		return nil, fmt.Errorf("query substitutes: %w", err)
	}
	options.UseSubstitutes = true
	if err := c.configure(ctx, &options); err != nil {
		return nil, fmt.Errorf("query substitutes: %w", err)
	}
	err = c.query(ctx, opQuerySubstitutableInfos,
		func(w *writer) { w.paths(paths) },
		func(r *reader) { all = list(r, func() Substitute { return readSubstitute(r) }) })
	if err != nil {
		return nil, fmt.Errorf("query substitutes of %d paths: %w", len(paths), err)
	}
	return all, nil
}

func readSubstitute(r *reader) Substitute {
	return Substitute{
		Path:         StorePath(r.string()),
		Deriver:      StorePath(r.string()),
		References:   r.paths(),
		DownloadSize: int64(r.uint()),
		NarSize:      int64(r.uint()),
	}
}

// SubstituteURLs returns where the daemon fetches substitutes from unless told
// otherwise. A daemon older than protocol 0x164 does not tell: nil.
func (c *Client) SubstituteURLs(ctx context.Context) (urls []string, err error) {
	if c.version < 0x164 {
		return nil, nil
	}
	err = c.query(ctx, opSubstituteURLs, nil, func(r *reader) { urls = list(r, r.string) })
	if err != nil {
		return nil, fmt.Errorf("query substitute URLs: %w", err)
	}
	return urls, nil
}

// configure tells the daemon the options, in a turn of its own.
func (c *Client) configure(ctx context.Context, o *BuildOptions) error {
	release, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer release()
	return c.setOptions(o)
}
