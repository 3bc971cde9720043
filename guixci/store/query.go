package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/genenetwork/guixci/substitute"
)

// query makes an exchange whose argument and result are plain.
func (c *Client) query(ctx context.Context, op operation, send func(*writer), receive func(*reader)) error {
	return c.do(ctx, exchange{op: op, send: send, receive: receive})
}

// queryPaths asks for the paths that are in some relation to one path.
func (c *Client) queryPaths(ctx context.Context, op operation, relation string, path StorePath) (paths []StorePath, err error) {
	if err := check(path); err != nil {
		return nil, fmt.Errorf("query %s: %w", relation, err)
	}
	err = c.query(ctx, op,
		func(w *writer) { w.string(string(path)) },
		func(r *reader) { paths = r.paths() })
	if err != nil {
		return nil, fmt.Errorf("query %s of %s: %w", relation, path, c.orNotFound(ctx, path, err))
	}
	return paths, nil
}

// orNotFound makes err an ErrNotFound if that is why the daemon refused:
// it tells so in words only, hence the question.
func (c *Client) orNotFound(ctx context.Context, path StorePath, err error) error {
	var said *DaemonError
	if !errors.As(err, &said) {
		return err
	}
	if valid, verr := c.Valid(ctx, path); verr != nil || valid {
		return err
	}
	return fmt.Errorf("%w: %s is not valid", substitute.ErrNotFound, path)
}

// A PathInfo is what the daemon knows about a valid store item.
type PathInfo struct {
	substitute.Info
	Registered time.Time // when it became valid, to the second
}

// PathInfo describes a valid store item.
// If path is not valid it returns an error wrapping [substitute.ErrNotFound].
func (c *Client) PathInfo(ctx context.Context, path StorePath) (*PathInfo, error) {
	if err := check(path); err != nil {
		return nil, fmt.Errorf("query path info: %w", err)
	}
	info := &PathInfo{Info: substitute.Info{StorePath: path}}
	err := c.query(ctx, opQueryPathInfo,
		func(w *writer) { w.string(string(path)) },
		info.read)
	if err != nil {
		return nil, fmt.Errorf("query path info of %s: %w", path, c.orNotFound(ctx, path, err))
	}
	return info, nil
}

func (i *PathInfo) read(r *reader) {
	i.Deriver = StorePath(r.string())
	hash := r.string()
	i.References = r.paths()
	i.Registered = time.Unix(int64(r.uint()), 0)
	i.NarSize = int64(r.uint())
	if r.err != nil {
		return
	}
	var err error
	if i.NarHash, err = substitute.ParseHash("sha256:" + hash); err != nil {
		r.fail("%v", err)
	}
}

// Valid reports whether path is a valid store item: complete and registered,
// not left over from something interrupted.
func (c *Client) Valid(ctx context.Context, path StorePath) (bool, error) {
	if err := check(path); err != nil {
		return false, fmt.Errorf("query validity: %w", err)
	}
	var valid bool
	err := c.query(ctx, opIsValidPath,
		func(w *writer) { w.string(string(path)) },
		func(r *reader) { valid = r.bool() })
	if err != nil {
		return false, fmt.Errorf("query validity of %s: %w", path, err)
	}
	return valid, nil
}

// validAtOnce bounds one query for validity, so that its answer cannot take
// longer than a cancelled caller is ready to wait.
const validAtOnce = 8192

// ValidPaths returns those of paths that are valid, in no particular order.
func (c *Client) ValidPaths(ctx context.Context, paths []StorePath) ([]StorePath, error) {
	valid, err := c.subset(ctx, opQueryValidPaths, paths)
	if err != nil {
		return nil, fmt.Errorf("query validity of %d paths: %w", len(paths), err)
	}
	return valid, nil
}

// subset asks op which of paths have a property, some thousands at a time.
func (c *Client) subset(ctx context.Context, op operation, paths []StorePath) ([]StorePath, error) {
	if err := check(paths...); err != nil {
		return nil, err
	}
	var all []StorePath
	for len(paths) > 0 {
		some := paths[:min(len(paths), validAtOnce)]
		paths = paths[len(some):]
		err := c.query(ctx, op,
			func(w *writer) { w.paths(some) },
			func(r *reader) { all = append(all, r.paths()...) })
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// AllValidPaths returns every valid path of the store.
func (c *Client) AllValidPaths(ctx context.Context) (paths []StorePath, err error) {
	err = c.query(ctx, opQueryAllValidPaths, nil, func(r *reader) { paths = r.paths() })
	if err != nil {
		return nil, fmt.Errorf("query valid paths: %w", err)
	}
	return paths, nil
}

// PathFromHashPart returns the valid path whose hash part, the 32 characters
// before the name, is given. If there is none it returns an error wrapping
// [substitute.ErrNotFound].
func (c *Client) PathFromHashPart(ctx context.Context, hashPart string) (StorePath, error) {
	if len(hashPart) != len(noHash) || check(StorePath(substitute.StoreDir+"/"+hashPart+"-name")) != nil {
		return "", fmt.Errorf("query path of hash part %q: %w: this is no hash part", hashPart, substitute.ErrNotFound)
	}
	var path StorePath
	err := c.query(ctx, opQueryPathFromHashPart,
		func(w *writer) { w.string(hashPart) },
		func(r *reader) { path = StorePath(r.string()) })
	if err == nil && path == "" {
		err = substitute.ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("query path of hash part %q: %w", hashPart, err)
	}
	return path, nil
}

// References returns the paths that the valid item at path refers to.
// Like the next three it returns an error wrapping [substitute.ErrNotFound]
// where the daemon requires path to be valid and it is not.
func (c *Client) References(ctx context.Context, path StorePath) ([]StorePath, error) {
	return c.queryPaths(ctx, opQueryReferences, "references", path)
}

// Referrers returns the valid paths that refer to path.
func (c *Client) Referrers(ctx context.Context, path StorePath) ([]StorePath, error) {
	return c.queryPaths(ctx, opQueryReferrers, "referrers", path)
}

// Derivers returns the valid derivations that have path among their outputs.
func (c *Client) Derivers(ctx context.Context, path StorePath) ([]StorePath, error) {
	return c.queryPaths(ctx, opQueryValidDerivers, "derivers", path)
}

// DerivationOutputs returns the output paths of the valid derivation at path.
func (c *Client) DerivationOutputs(ctx context.Context, path StorePath) ([]StorePath, error) {
	return c.queryPaths(ctx, opQueryDerivationOutputs, "outputs", path)
}
