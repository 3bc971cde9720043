package nar

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"
)

// An FS is the file tree of an archive, read where it is. It is an [fs.FS] with
// ReadDir, Stat and ReadLink; links are not followed. It may be used
// concurrently if its ReaderAt may.
//
// The root is a directory called "."; an archive of a single file or link has
// it under the name "root" in that directory.
type FS struct {
	r     io.ReaderAt
	files map[string]*fsEntry
}

// fsEntry is a file of an archive.
type fsEntry struct {
	name    string
	hdr     Header
	offset  int64 // of the contents
	entries []fs.DirEntry
}

// single is the name of the file of an archive without directories.
const single = "root"

// NewFS reads the index of the archive of size bytes that r is. All of it
// must be well formed.
func NewFS(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: r, files: map[string]*fsEntry{".": {name: ".", hdr: Header{Mode: ModeDirectory}}}}
	nr := NewReader(io.NewSectionReader(r, 0, size))
	for {
		hdr, err := nr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if hdr.Path == "" && hdr.Mode.IsDir() {
			continue
		}
		f.add(hdr, nr.off)
	}
	if nr.off != size {
		return nil, fmt.Errorf("read nar: %w: %d bytes follow the archive", ErrFormat, size-nr.off)
	}
	return f, nil
}

// add enters a file; its directory comes before it.
func (f *FS) add(hdr *Header, offset int64) {
	name := hdr.Path
	if name == "" {
		name = single
	}
	e := &fsEntry{name: name, hdr: *hdr, offset: offset}
	f.files[name] = e
	dir := f.files[path.Dir(name)]
	dir.entries = append(dir.entries, fs.FileInfoToDirEntry(e))
}

func (f *FS) find(op, name string) (*fsEntry, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	e := f.files[name]
	if e == nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return e, nil
}

// Open opens a file or directory. A symbolic link cannot be opened.
func (f *FS) Open(name string) (fs.File, error) {
	e, err := f.find("open", name)
	if err != nil {
		return nil, err
	}
	switch e.hdr.Mode.Type() {
	case fs.ModeDir:
		return &openEntries{entry: e}, nil
	case fs.ModeSymlink:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("%w: a symbolic link", fs.ErrInvalid)}
	}
	return &openFile{e, io.NewSectionReader(f.r, e.offset, e.hdr.Size)}, nil
}

// Stat describes a file, and a link itself.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	e, err := f.find("stat", name)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Lstat is Stat: links are not followed.
func (f *FS) Lstat(name string) (fs.FileInfo, error) { return f.Stat(name) }

// ReadLink returns the target of a symbolic link.
func (f *FS) ReadLink(name string) (string, error) {
	e, err := f.find("readlink", name)
	if err != nil {
		return "", err
	}
	if e.hdr.Mode.Type() != fs.ModeSymlink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return e.hdr.Target, nil
}

// ReadDir lists a directory.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := f.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if !e.hdr.Mode.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	return slices.Clone(e.entries), nil
}

func (e *fsEntry) Name() string       { return path.Base(e.name) }
func (e *fsEntry) Size() int64        { return e.hdr.Size }
func (e *fsEntry) Mode() fs.FileMode  { return e.hdr.Mode }
func (e *fsEntry) ModTime() time.Time { return modified }
func (e *fsEntry) IsDir() bool        { return e.hdr.Mode.IsDir() }
func (e *fsEntry) Sys() any           { return nil }

// openFile is an open regular file: it can also Seek and ReadAt.
type openFile struct {
	entry *fsEntry
	*io.SectionReader
}

func (o *openFile) Stat() (fs.FileInfo, error) { return o.entry, nil }
func (o *openFile) Close() error               { return nil }

// openEntries is an open directory.
type openEntries struct {
	entry *fsEntry
	next  int
}

func (o *openEntries) Stat() (fs.FileInfo, error) { return o.entry, nil }
func (o *openEntries) Close() error               { return nil }
func (o *openEntries) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: o.entry.name, Err: fs.ErrInvalid}
}

func (o *openEntries) ReadDir(n int) ([]fs.DirEntry, error) {
	left := o.entry.entries[o.next:]
	if n <= 0 {
		o.next += len(left)
		return slices.Clone(left), nil
	}
	if len(left) == 0 {
		return nil, io.EOF
	}
	left = left[:min(n, len(left))]
	o.next += len(left)
	return slices.Clone(left), nil
}
