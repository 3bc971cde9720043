package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/genenetwork/guixci/substitute/nar"
)

// AddText makes a store item called name, a file with the given content, and
// returns its path. It must name in references every path the text refers to.
// This is how a derivation gets into the store, under a name that ends in ".drv".
func (c *Client) AddText(ctx context.Context, name string, text []byte, references []StorePath) (path StorePath, err error) {
	if err := errors.Join(checkName(name), check(references...)); err != nil {
		return "", fmt.Errorf("add text: %w", err)
	}
	err = c.do(ctx, exchange{
		op: opAddTextToStore,
		send: func(w *writer) {
			w.string(name)
			w.bytes(text)
			w.paths(references)
		},
		receive: func(r *reader) { path = StorePath(r.string()) },
	})
	if err != nil {
		return "", fmt.Errorf("add text %q: %w", name, err)
	}
	return path, nil
}

// AddTree makes a store item called name, a copy of the file, directory or
// symbolic link, and returns its path. It has no references.
// If the tree cannot be read the connection is lost, since half of it has been sent.
func (c *Client) AddTree(ctx context.Context, name, file string) (StorePath, error) {
	if err := checkName(name); err != nil {
		return "", fmt.Errorf("add %q: %w", file, err)
	}
	path, err := c.addTree(ctx, name, file)
	if err != nil {
		return "", fmt.Errorf("add %q as %q: %w", file, name, err)
	}
	return path, nil
}

func (c *Client) addTree(ctx context.Context, name, file string) (path StorePath, err error) {
	release, err := c.begin(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	c.w.uint(uint64(opAddToStore))
	c.w.string(name)
	c.w.bool(true) // obsolete
	c.w.bool(true) // the archive of a tree, not the bytes of a file
	c.w.string("sha256")
	if err := nar.Dump(c.w.w, file); err != nil {
		return "", c.fail(err)
	}
	err = c.answer(exchange{receive: func(r *reader) { path = StorePath(r.string()) }})
	return path, err
}

// AddTempRoot keeps path, which need not exist yet, from being collected as
// garbage until the client is closed.
func (c *Client) AddTempRoot(ctx context.Context, path StorePath) error {
	if err := check(path); err != nil {
		return fmt.Errorf("add temporary root: %w", err)
	}
	err := c.query(ctx, opAddTempRoot, func(w *writer) { w.string(string(path)) }, success)
	if err != nil {
		return fmt.Errorf("add temporary root %s: %w", path, err)
	}
	return nil
}

// AddIndirectRoot makes link, the absolute name of a symbolic link to a store
// item somewhere on this machine, a root of the garbage collector: whatever it
// points to is kept as long as the link exists. Node "Invoking guix gc" of the manual.
func (c *Client) AddIndirectRoot(ctx context.Context, link string) error {
	if !filepath.IsAbs(link) {
		return fmt.Errorf("add indirect root %q: not an absolute file name", link)
	}
	err := c.query(ctx, opAddIndirectRoot, func(w *writer) { w.string(link) }, success)
	if err != nil {
		return fmt.Errorf("add indirect root %q: %w", link, err)
	}
	return nil
}

// success reads the 1 that tells of no more than that there was no error.
func success(r *reader) { r.uint() }
