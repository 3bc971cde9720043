package nar

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
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
func Restore(r io.Reader, path string) error { return RestoreWith(r, path, nil) }

// RestoreOptions say what else [RestoreWith] should do and refuse.
type RestoreOptions struct {
	// MaxSize bounds the bytes of all regular files together, MaxFiles the
	// number of files of all kinds, and MaxDepth that of directories within
	// each other. 0 means no limit but those of this package.
	MaxSize, MaxFiles int64
	MaxDepth          int
	// FoldCase refuses names in one directory that differ in case only, which
	// would be one file on some systems.
	FoldCase bool
	// Link, if not nil, is told of each finished regular file of at least
	// LinkSize bytes, with the hash of its own archive: it may replace the file
	// with a hard link to an equal one, as the store does to save space.
	Link     func(path string, sum [sha256.Size]byte) error
	LinkSize int64
}

// ErrLimit is wrapped by errors of [RestoreWith] that are about a limit in its options.
var ErrLimit = errors.New("archive exceeds a limit")

// RestoreWith is [Restore] with options; nil means none.
func RestoreWith(r io.Reader, path string, options *RestoreOptions) error {
	parent, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("restore nar: %w", err)
	}
	defer parent.Close()
	t := restorer{nr: NewReader(r), path: path, base: filepath.Base(path), buf: buffers.Get().(*[copyBuffer]byte)}
	defer buffers.Put(t.buf)
	if options != nil {
		t.options = *options
	}
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

// Remove deletes the tree at path, directories without write permission
// included. It never follows a link out of it. A missing one is no error.
func Remove(path string) error {
	parent, err := os.OpenRoot(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove tree: %w", err)
	}
	defer parent.Close()
	if err := remove(parent, filepath.Base(path)); err != nil {
		return fmt.Errorf("remove tree: %w", err)
	}
	return nil
}

const copyBuffer = 128 << 10

var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// modified is the time that all files in a store have.
var modified = time.Unix(1, 0)

type restorer struct {
	nr      *Reader
	options RestoreOptions
	path    string // of the root
	base    string
	made    bool // base, by us
	buf     *[copyBuffer]byte
	dirs    []openDir
	size    int64 // of the regular files so far
	files   int64
}

// An openDir is a directory being filled.
type openDir struct {
	path string // in the archive
	name string // in the directory above
	root *os.Root
	seen map[string]bool // names without case, if that matters
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
		if err := t.check(name, hdr); err != nil {
			return fmt.Errorf("%q: %w", hdr.Path, err)
		}
		if err := t.create(t.top(parent), name, hdr); err != nil {
			return fmt.Errorf("%q: %w", hdr.Path, err)
		}
	}
}

// check applies the limits to a file about to be made.
func (t *restorer) check(name string, hdr *Header) error {
	o := &t.options
	t.files++
	switch {
	case o.MaxFiles > 0 && t.files > o.MaxFiles:
		return fmt.Errorf("%w: more than %d files", ErrLimit, o.MaxFiles)
	case o.MaxSize > 0 && hdr.Size > o.MaxSize-t.size:
		return fmt.Errorf("%w: more than %d bytes", ErrLimit, o.MaxSize)
	case o.MaxDepth > 0 && len(t.dirs) > o.MaxDepth:
		return fmt.Errorf("%w: more than %d directories deep", ErrLimit, o.MaxDepth)
	}
	t.size += hdr.Size
	if o.FoldCase && len(t.dirs) > 0 {
		last := &t.dirs[len(t.dirs)-1]
		folded := fold(name)
		if last.seen[folded] {
			return fmt.Errorf("%w: another name differs in case only", ErrLimit)
		}
		if last.seen == nil {
			last.seen = make(map[string]bool)
		}
		last.seen[folded] = true
	}
	return nil
}

// fold makes names that differ in case only equal, in whatever script; long s is an s, for instance. Bytes that are no
// characters stay what they are.
func fold(name string) string {
	folded := make([]byte, 0, len(name))
	for len(name) > 0 {
		c, n := utf8.DecodeRuneInString(name)
		if c == utf8.RuneError && n == 1 {
			folded = append(folded, name[0])
		} else {
			folded = utf8.AppendRune(folded, least(c))
		}
		name = name[n:]
	}
	return string(folded)
}

// least is the first of the characters that differ from c in case only.
func least(c rune) rune {
	first := c
	for other := unicode.SimpleFold(c); other != c; other = unicode.SimpleFold(other) {
		first = min(first, other)
	}
	return first
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
		t.dirs = append(t.dirs, openDir{path: hdr.Path, name: name, root: root})
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
	var to io.Writer = f
	link := t.options.Link != nil && hdr.Size >= t.options.LinkSize
	var own fileHash
	if link {
		own = newFileHash(hdr)
		to = io.MultiWriter(f, own)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{t.nr}, t.buf[:])
	if err == nil {
		err = f.Chmod(hdr.Mode.Perm())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := in.Chtimes(name, modified, modified); err != nil || !link {
		return err
	}
	return t.options.Link(filepath.Join(t.path, filepath.FromSlash(hdr.Path)), own.sum())
}

// A fileHash is the hash of the archive of a single regular file.
type fileHash struct {
	hash.Hash
	size int64
}

// newFileHash returns the hash of what precedes the contents.
func newFileHash(hdr *Header) fileHash {
	h := fileHash{sha256.New(), hdr.Size}
	b := []byte(wordMagic + wordOpen + wordType + wordRegular)
	if hdr.Mode&0o100 != 0 {
		b = append(b, wordExecutable+wordEmpty...)
	}
	b = append(b, wordContents...)
	h.Write(binary.LittleEndian.AppendUint64(b, uint64(hdr.Size)))
	return h
}

// sum adds what follows the contents.
func (h fileHash) sum() (sum [sha256.Size]byte) {
	h.Write(zeros[:padding(h.size)])
	h.Write([]byte(wordClose))
	h.Sum(sum[:0])
	return sum
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
