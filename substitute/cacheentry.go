package substitute

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// A cacheEntry is an item on its way into a Cache. Its archives are written and known to be
// right, but nobody finds them yet. To give them their names, one has to wait for the
// disk; those who do so at the same time wait little longer than one would.
type cacheEntry struct {
	info  *Info
	files []*newFile // archives
	text  *newFile   // narinfo
	err   error      // why it is not in the cache
}

// A newFile has another name until it is placed.
type newFile struct {
	file  *os.File
	path  string
	size  int64 // of what was written
	begun int64 // bytes of it that are on their way to the disk
}

// beginEvery is after how many bytes a file begins to be written to the disk, so that at its end there is
// little left to wait for.
const beginEvery = 8 << 20

func createFile(path string) (*newFile, error) {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(0o644); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return &newFile{file: f, path: path}, nil
}

func (f *newFile) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	f.size += int64(n)
	if f.size-f.begun >= beginEvery {
		startWriting(f.file)
		f.begun = f.size
	}
	return n, err
}

// sync waits for the contents to be on the disk.
func (f *newFile) sync() error {
	return errors.Join(f.file.Sync(), f.file.Close())
}

// place gives the file its name. After a crash it may be missing, but is whole if it is there.
func (f *newFile) place() error { return os.Rename(f.file.Name(), f.path) }

// discard removes the file, unless it has been placed.
func (f *newFile) discard() {
	f.file.Close()
	os.Remove(f.file.Name())
}

// entry writes the archives of an item. Without an error, nil means that the cache has it.
func (c *Cache) entry(ctx context.Context, src Source, info *Info) (*cacheEntry, error) {
	if c.has(info) {
		return nil, nil
	}
	e := &cacheEntry{info: info}
	methods := c.methods(info.StorePath)
	e.err = c.prepare(methods)
	if e.err == nil {
		e.err = e.writeArchives(ctx, c, src, methods)
	}
	if e.err == nil {
		e.err = e.writeText(c, methods)
	}
	if e.err != nil {
		e.discard()
		return nil, e.failed()
	}
	return e, nil
}

// failed is why the entry is not in the cache.
func (e *cacheEntry) failed() error {
	if e.err == nil {
		return nil
	}
	return fmt.Errorf("cache %s: %w", e.info.StorePath, e.err)
}

// writeArchives writes an archive under all methods while it is read once.
func (e *cacheEntry) writeArchives(ctx context.Context, c *Cache, src Source, methods []Compression) error {
	check := &checker{info: e.info, sum: sha256.New()}
	// with compresses for the methods from the i-th on, around what compresses for the others.
	var with func(i int, writers []io.Writer) error
	with = func(i int, writers []io.Writer) error {
		if i == len(methods) {
			if check.w = writers[0]; len(writers) > 1 {
				check.w = io.MultiWriter(writers...)
			}
			if err := src.WriteNAR(ctx, check, e.info); err != nil {
				return err
			}
			return check.verify()
		}
		f, err := createFile(c.archive(e.info.StorePath, methods[i].Method))
		if err != nil {
			return err
		}
		e.files = append(e.files, f)
		return methods[i].through(f, e.info.NarSize, func(w io.Writer) error { return with(i+1, append(writers, w)) })
	}
	return with(0, nil)
}

// writeText writes the narinfo.
func (e *cacheEntry) writeText(c *Cache, methods []Compression) error {
	sizes := make([]int64, len(methods))
	for i, f := range e.files {
		sizes[i] = f.size
	}
	host, _ := os.Hostname() // nobody checks it
	n, err := NewNarInfo(e.info, c.Key, host, bakedURLs(e.info, methods, sizes))
	if err != nil {
		return err
	}
	if e.text, err = createFile(c.narInfo(e.info.StorePath.Hash())); err != nil {
		return err
	}
	if _, err = e.text.Write(n.text); err != nil {
		return err
	}
	// Who waits for the disk finds most of it done.
	for _, f := range append(e.files, e.text) {
		startWriting(f.file)
	}
	return nil
}

func (e *cacheEntry) discard() {
	for _, f := range e.files {
		f.discard()
	}
	if e.text != nil {
		e.text.discard()
	}
}

// place makes the entry appear, or leaves in it why it does not: archives first, and the
// narinfo when all of them are there. File systems keep the order of names, so
// that no narinfo survives its archive.
func (c *Cache) place(e *cacheEntry) {
	files := append(e.files, e.text)
	for _, f := range files {
		e.err = errors.Join(e.err, f.sync())
	}
	for i := 0; i < len(files) && e.err == nil; i++ {
		e.err = files[i].place()
	}
	switch {
	case e.err != nil:
		e.discard()
	case !c.complete(e.info.StorePath, c.methods(e.info.StorePath)):
		e.err = errors.Join(errEvicted, os.Remove(e.text.path))
	}
}

// errEvicted says that another process, evicting what we were replacing, took the new archives for the
// old ones.
var errEvicted = errors.New("evicted at the same moment")

// has reports whether there is nothing to add.
func (c *Cache) has(info *Info) bool {
	there, err := c.load(info.StorePath.Hash())
	return err == nil && there.equivalent(info) && there.signedBy(c.Key) && c.complete(info.StorePath, there.kept())
}

// complete reports whether an item's archives are all there.
func (c *Cache) complete(p StorePath, methods []Compression) bool {
	for _, m := range methods {
		if _, err := os.Stat(c.archive(p, m.Method)); err != nil {
			return false
		}
	}
	return true
}

// syncDirs waits for the names of archives to be on the disk.
func (e *cacheEntry) syncDirs() error {
	var errs []error
	for _, f := range e.files {
		errs = append(errs, syncDir(filepath.Dir(f.path)))
	}
	return errors.Join(errs...)
}
