package nar

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Restore makes the tree of the archive r at path, which must not exist, while
// its parent directory must. It reads exactly the archive, in small pieces: give
// it something buffered.
//
// The files get the permissions they have in a store, 0444 or 0555, and the
// modification time 1. Nothing is ever written outside path, whatever the
// archive says: names are checked by the [Reader], and each file is created in
// the directory just made for it, through an [os.Root]. When Restore fails it
// removes what it made. Whoever does not trust r limits its length.
func Restore(r io.Reader, path string) error {
	parent, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("restore nar: %w", err)
	}
	defer parent.Close()
	t := restorer{nr: NewReader(r), base: filepath.Base(path), buf: make([]byte, copyBuffer)}
	if _, err := parent.Lstat(t.base); err == nil {
		return fmt.Errorf("restore nar: %q: %w", path, fs.ErrExist)
	}
	err = t.run(parent)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("restore nar: %w", err)
	if t.made {
		err = errors.Join(err, remove(parent, t.base))
	}
	return err
}

// modified is the time that all files in a store have.
var modified = time.Unix(1, 0)

type restorer struct {
	nr   *Reader
	base string
	made bool // base, by us
	buf  []byte
	dirs []openDir
}

// An openDir is a directory being filled.
type openDir struct {
	path string // in the archive
	name string // in the directory above
	root *os.Root
}

func (t *restorer) run(parent *os.Root) error {
	defer func() {
		for _, d := range t.dirs {
			d.root.Close()
		}
	}()
	for {
		hdr, err := t.nr.Next()
		if err == io.EOF {
			return t.finish(parent, "", true)
		}
		if err != nil {
			return err
		}
		dir, name := "", t.base
		if hdr.Path != "" {
			dir, name = split(hdr.Path)
		}
		if err := t.finish(parent, dir, hdr.Path == ""); err != nil {
			return err
		}
		if err := t.create(t.top(parent), name, hdr); err != nil {
			return fmt.Errorf("%q: %w", hdr.Path, err)
		}
	}
}

func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// top is the directory that new files go to.
func (t *restorer) top(parent *os.Root) *os.Root {
	if len(t.dirs) == 0 {
		return parent
	}
	return t.dirs[len(t.dirs)-1].root
}

func (t *restorer) create(in *os.Root, name string, hdr *Header) error {
	switch hdr.Mode.Type() {
	case fs.ModeDir:
		if err := in.Mkdir(name, 0o700); err != nil {
			return err
		}
		t.made = true
		root, err := in.OpenRoot(name)
		if err != nil {
			return err
		}
		t.dirs = append(t.dirs, openDir{hdr.Path, name, root})
		return nil
	case fs.ModeSymlink:
		if err := in.Symlink(hdr.Target, name); err != nil {
			return err
		}
		t.made = true
		return touchLink(in, name)
	}
	return t.file(in, name, hdr)
}

func (t *restorer) file(in *os.Root, name string, hdr *Header) error {
	f, err := in.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	t.made = true
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{t.nr}, t.buf)
	if err == nil {
		err = f.Chmod(hdr.Mode.Perm())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return in.Chtimes(name, modified, modified)
}

// finish gives the open directories that dir is not in their final mode and
// time, innermost first; all of them if all is set.
func (t *restorer) finish(parent *os.Root, dir string, all bool) error {
	for len(t.dirs) > 0 {
		last := t.dirs[len(t.dirs)-1]
		if !all && last.path == dir {
			return nil
		}
		t.dirs = t.dirs[:len(t.dirs)-1]
		err := seal(last.root)
		if err = errors.Join(err, last.root.Close()); err != nil {
			return err
		}
		if err := t.top(parent).Chtimes(last.name, modified, modified); err != nil {
			return err
		}
	}
	return nil
}

func seal(dir *os.Root) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(ModeDirectory.Perm()), f.Close())
}

// remove deletes the tree called name in dir, directories without write
// permission included.
func remove(dir *os.Root, name string) error {
	if info, err := dir.Lstat(name); err != nil || !info.IsDir() {
		return dir.RemoveAll(name)
	}
	sub, err := dir.OpenRoot(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	err = fs.WalkDir(sub.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = sub.Chmod(path, 0o700)
		}
		return err
	})
	return errors.Join(err, dir.RemoveAll(name))
}
