package store

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
)

// ExportPath writes one item in the form that [Client.ImportPaths] reads,
// without the framing of a bundle: its archive, then what else the daemon
// knows about it. With sign it is signed with the machine's key, without which
// nobody will import it. If path is not valid the error wraps [substitute.ErrNotFound].
// When w fails its error is returned, after the rest has come.
func (c *Client) ExportPath(ctx context.Context, w io.Writer, path StorePath, sign bool) error {
	if err := check(path); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	err := c.do(ctx, exchange{
		op: opExportPath,
		send: func(w *writer) {
			w.string(string(path))
			w.bool(sign)
		},
		out:     w,
		receive: success,
	})
	if err != nil {
		return fmt.Errorf("export %s: %w", path, c.orNotFound(ctx, path, err))
	}
	return nil
}

// ExportPaths writes a bundle of signed items, as "guix archive --export" does.
// Items must come after those they refer to; see [Client.Closure].
func (c *Client) ExportPaths(ctx context.Context, w io.Writer, paths []StorePath) error {
	b := bufio.NewWriterSize(w, chunk)
	more := func(n uint64) { b.Write(binary.LittleEndian.AppendUint64(nil, n)) }
	for _, path := range paths {
		more(1)
		if err := c.ExportPath(ctx, b, path, true); err != nil {
			return err
		}
	}
	more(0)
	return b.Flush()
}

// ImportPaths adds the items of a bundle to the store and returns their paths.
// The daemon refuses what no key of its access-control list has signed.
func (c *Client) ImportPaths(ctx context.Context, bundle io.Reader) (paths []StorePath, err error) {
	err = c.do(ctx, exchange{
		op:      opImportPaths,
		in:      bundle,
		receive: func(r *reader) { paths = r.paths() },
	})
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	return paths, nil
}

// Closure returns paths and everything they refer to, directly or not, each
// item after those it refers to.
func (c *Client) Closure(ctx context.Context, paths ...StorePath) ([]StorePath, error) {
	var order []StorePath
	seen := map[StorePath]bool{}
	var visit func(StorePath) error
	visit = func(p StorePath) error {
		if seen[p] {
			return nil
		}
		seen[p] = true
		refs, err := c.References(ctx, p)
		if err != nil {
			return err
		}
		for _, r := range refs {
			if err := visit(r); err != nil {
				return err
			}
		}
		order = append(order, p)
		return nil
	}
	for _, p := range paths {
		if err := visit(p); err != nil {
			return nil, err
		}
	}
	return order, nil
}
