package channel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// WriteTree writes the files of a commit into dir, which must exist and be empty. Files are as
// git checks them out: executable or not, symbolic links as such, a submodule as an empty directory.
// A tree with names that no git writes, such as "..", is refused.
func (r *Repository) WriteTree(ctx context.Context, c Commit, dir string) error {
	object, err := r.commitOf(c)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("write tree of commit %s: %w", c.Short(), err)
	}
	much := r.forReadingMuch()
	w := treeWriter{much, root}
	err = errors.Join(w.write(ctx, object.tree, "."), much.close(), root.Close())
	if err != nil {
		return fmt.Errorf("write tree of commit %s: %w", c.Short(), err)
	}
	return nil
}

// A treeWriter writes below a directory and nowhere else, whatever links there are in it.
type treeWriter struct {
	repo *Repository
	root *os.Root
}

func (w treeWriter) write(ctx context.Context, tree objectID, dir string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	entries, err := w.repo.tree(tree)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.name == "." || e.name == ".." || strings.EqualFold(e.name, ".git") || strings.Contains(e.name, "/") {
			return fmt.Errorf("%q is no file name", e.name)
		}
		name := path.Join(dir, e.name)
		if !e.isDir() {
			err = w.entry(e, name)
		} else if err = w.root.Mkdir(name, 0o755); err == nil {
			err = w.write(ctx, e.id, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entry writes what is not a directory.
func (w treeWriter) entry(e treeEntry, name string) error {
	if e.isSubmodule() {
		return w.root.Mkdir(name, 0o755)
	}
	text, err := w.repo.blob(e.id)
	if err != nil {
		return err
	}
	if e.mode == "120000" {
		return w.root.Symlink(string(text), name)
	}
	mode := fs.FileMode(0o644)
	if e.mode == "100755" {
		mode = 0o755
	}
	f, err := w.root.OpenFile(filepath.FromSlash(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
