package nar

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/genenetwork/guixci/internal/buffer"
)

// Dump writes the archive of the tree at path, which may be a file, a symbolic
// link or a directory; links are not followed. Anything else in it is an error,
// and so is a file whose size changes meanwhile.
func Dump(w io.Writer, path string) error {
	buf, release := buffer.Get()
	defer release()
	d := dumper{root: path, nw: NewWriter(w), buf: buf}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("dump tree: %w", err)
	}
	if err := d.node("", info); err != nil {
		return fmt.Errorf("dump tree: %w", err)
	}
	return d.nw.Close()
}

type dumper struct {
	root string
	nw   *Writer
	buf  []byte
}

// node writes the file called name in the archive.
func (d *dumper) node(name string, info fs.FileInfo) error {
	path := filepath.Join(d.root, filepath.FromSlash(name))
	switch info.Mode().Type() {
	case 0:
		return d.file(path, name, info)
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return d.nw.WriteHeader(&Header{Path: name, Mode: ModeSymlink, Target: target})
	case fs.ModeDir:
		return d.dir(path, name)
	}
	return fmt.Errorf("%q is a %v: no regular file, directory or symbolic link", path, info.Mode().Type())
}

func (d *dumper) dir(path, name string) error {
	if err := d.nw.WriteHeader(&Header{Path: name, Mode: ModeDirectory}); err != nil {
		return err
	}
	entries, err := os.ReadDir(path) // sorted as the archive is, by bytes
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if err := d.node(strings.TrimPrefix(name+"/"+e.Name(), "/"), info); err != nil {
			return err
		}
	}
	return nil
}

func (d *dumper) file(path, name string, info fs.FileInfo) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, opened) {
		return fmt.Errorf("%q was replaced while it was read", path)
	}
	hdr := &Header{Path: name, Mode: opened.Mode().Perm(), Size: opened.Size()}
	if err := d.nw.WriteHeader(hdr); err != nil {
		return err
	}
	// The Writer refuses more bytes than the header said, and the next
	// header, or Close, refuses fewer. Hiding f's WriteTo makes Copy use our buffer.
	if _, err := io.CopyBuffer(d.nw, struct{ io.Reader }{f}, d.buf); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	return nil
}
