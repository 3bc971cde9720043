package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
)

// Info describes the valid item with the given hash part. Together with
// [Pool.WriteNAR] it makes a Pool a [substitute.Source].
func (p *Pool) Info(ctx context.Context, hashPart string) (*substitute.Info, error) {
	return ask(ctx, p, func(c *Client) (*substitute.Info, error) {
		path, err := c.PathFromHashPart(ctx, hashPart)
		if err != nil {
			return nil, err
		}
		info, err := c.PathInfo(ctx, path)
		if err != nil {
			return nil, err
		}
		return &info.Info, nil
	})
}

// WriteNAR writes the archive of an item that Info described, from the store
// of this machine or, if that is not here to be read, through the daemon.
func (p *Pool) WriteNAR(ctx context.Context, w io.Writer, info *substitute.Info) error {
	if err := check(info.StorePath); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	counted := &countingWriter{ctx: ctx, w: w}
	err := nar.Dump(counted, string(info.StorePath))
	if counted.n == 0 && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		err = p.exportNAR(ctx, w, info)
	}
	if err == nil && counted.n != 0 && counted.n != info.NarSize {
		err = fmt.Errorf("it has %d bytes, not %d", counted.n, info.NarSize)
	}
	if err != nil {
		return fmt.Errorf("write archive of %s: %w", info.StorePath, err)
	}
	return nil
}

// exportNAR takes the archive out of the bundle that the daemon makes of an item.
func (p *Pool) exportNAR(ctx context.Context, w io.Writer, info *substitute.Info) error {
	return p.Do(ctx, func(c *Client) error {
		valid, err := c.Valid(ctx, info.StorePath)
		if err != nil {
			return err
		}
		if !valid {
			return fmt.Errorf("%w: %s is not valid", substitute.ErrNotFound, info.StorePath)
		}
		first := &prefixWriter{w: w, left: info.NarSize}
		return c.ExportPath(ctx, first, info.StorePath, false)
	})
}

// A countingWriter counts, and stops when its context ends.
type countingWriter struct {
	ctx context.Context
	w   io.Writer
	n   int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// A prefixWriter passes on the first bytes only.
type prefixWriter struct {
	w    io.Writer
	left int64
}

func (p *prefixWriter) Write(b []byte) (int, error) {
	some := b[:min(int64(len(b)), p.left)]
	n, err := p.w.Write(some)
	p.left -= int64(n)
	if err != nil {
		return n, err
	}
	return len(b), nil
}

var _ substitute.Source = (*Pool)(nil)
