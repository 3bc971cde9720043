package substitute

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// A Cache is a directory of archives, kept apart from the store: what is in it can be
// served when the store has collected it as garbage, or from another machine.
// It is a [Source]. Fields must not change after the first call.
//
// Its layout is that of a server's addresses, so that any web server, or our client with a
// "file://" URL, can use the directory as it is ("guix substitute" does not decode such
// URLs: it misses names with a plus or an equals sign):
//
//	nix-cache-info
//	HASH.narinfo            signed if Key is set
//	nar/zstd/HASH-NAME      compressed archive; also gzip and lzip
//	nar/HASH-NAME           the archive itself, for what is compressed already
//
// Files appear whole or not at all, and the narinfo last; several processes may
// add to one directory, and remove from it.
type Cache struct {
	Dir string      // required; made when missing
	Key *PrivateKey // signs what is added; nil leaves it unsigned
	// Compression is how archives are kept; nil means [DefaultCompressions].
	Compression []Compression

	first sync.Once  // for what is to be done before anything is added
	mu    sync.Mutex // guards known
	known map[string]cachedNarInfo
}

// A cachedNarInfo is what a file was read as.
type cachedNarInfo struct {
	*NarInfo
	read os.FileInfo
	used time.Time // when the file's times were last set to tell of its use
}

func (c *Cache) narInfo(hashPart string) string {
	return filepath.Join(c.Dir, hashPart+".narinfo")
}

// archive is the file of an archive, compressed by method.
func (c *Cache) archive(p StorePath, method string) string {
	return filepath.Join(c.methodDir(method), p.Base())
}

func (c *Cache) methodDir(method string) string {
	if method == "none" {
		return filepath.Join(c.Dir, "nar")
	}
	return filepath.Join(c.Dir, "nar", method)
}

// methods are the compressions for an item.
func (c *Cache) methods(p StorePath) []Compression {
	return methodsFor(p, c.Compression)
}

// Add takes the archive of an item from src. It returns when the item can be
// fetched from the cache, even after a crash of the machine. One that is there already
// is left alone, unless another key has signed it. An archive that is not what info says is an error, and not kept.
func (c *Cache) Add(ctx context.Context, src Source, info *Info) error {
	stop, err := c.adding(ctx)
	if err != nil {
		return fmt.Errorf("cache %s: %w", info.StorePath, err)
	}
	defer stop()
	for attempt := 1; ; attempt++ {
		e, err := c.entry(ctx, src, info)
		if e == nil || err != nil {
			return err
		}
		c.place(e)
		if errors.Is(e.err, errEvicted) && attempt < evictions {
			continue
		}
		if e.err == nil {
			e.err = errors.Join(e.syncDirs(), syncDir(c.Dir))
		}
		return e.failed()
	}
}

// evictions is how often in a row an item may be evicted at the moment when it is added.
const evictions = 5

// bakedURLs lists the files of an item. If nobody without zstd could read any, the
// plain archive is named as well, which a Handler makes of the others; on another
// server it does not exist, and a client that needs it gives up on the item, as it
// should. "guix substitute" would crash on an offer of which it can read nothing.
func bakedURLs(info *Info, methods []Compression, sizes []int64) (urls []NarURL) {
	base := escape(info.StorePath.Base())
	readable := false
	for i, m := range methods {
		u := NarURL{URL: "nar/" + m.Method + "/" + base, Compression: m.Method, FileSize: sizes[i]}
		if m.Method == "none" {
			u.URL = "nar/" + base
		}
		readable = readable || m.Method != "zstd"
		urls = append(urls, u)
	}
	if !readable {
		urls = append(urls, NarURL{URL: "nar/" + base, Compression: "none", FileSize: info.NarSize})
	}
	return urls
}

// kept are the methods of a cache's narinfo for which there should be files: all but the plain archive that
// bakedURLs names beside those of zstd.
func (n *NarInfo) kept() (methods []Compression) {
	for _, u := range n.URLs {
		if u.Compression != "none" {
			methods = append(methods, Compression{Method: u.Compression})
		}
	}
	onlyZstd := len(methods) > 0 && !slices.ContainsFunc(methods, func(m Compression) bool { return m.Method != "zstd" })
	if len(methods) < len(n.URLs) && !onlyZstd {
		methods = append(methods, Compression{Method: "none"})
	}
	return methods
}

// prepare makes the directory one that clients take for a cache.
func (c *Cache) prepare(methods []Compression) error {
	for _, m := range methods {
		if !m.known() {
			return fmt.Errorf("unknown compression %q", m.Method)
		}
		if err := os.MkdirAll(c.methodDir(m.Method), 0o755); err != nil {
			return err
		}
	}
	name := filepath.Join(c.Dir, "nix-cache-info")
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	return writeFile(name, 0o644, os.Rename, text([]byte(cacheInfo)))
}

// load returns the narinfo of an item, from memory if its file is the one read before. One of which no archive is
// there does not count; those of which they have gone since it was read, the cache has to be told by missed.
func (c *Cache) load(hashPart string) (*NarInfo, error) {
	if len(hashPart) != hashPartLen || !isBase32(hashPart) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, hashPart)
	}
	file, err := os.Stat(c.narInfo(hashPart))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, hashPart)
	}
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	c.mu.Lock()
	found, ok := c.known[hashPart]
	c.mu.Unlock()
	if ok && os.SameFile(found.read, file) && found.read.Size() == file.Size() && found.read.ModTime().Equal(file.ModTime()) {
		return found.NarInfo, nil
	}
	return c.read(hashPart, file)
}

// missed tells the cache that an archive is not there. If it is one that the item's narinfo offers, that is returned.
func (c *Cache) missed(p StorePath, method string) *NarInfo {
	n, err := c.load(p.Hash())
	if err != nil || n.StorePath != p || !slices.Contains(n.kept(), Compression{Method: method}) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, p.Hash())
	return n
}

// parse reads a narinfo, whether there is an archive or not.
func (c *Cache) parse(hashPart string) (*NarInfo, error) {
	name := c.narInfo(hashPart)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, hashPart)
	}
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	n, err := ParseNarInfo(data)
	if err == nil && n.StorePath.Hash() != hashPart {
		err = fmt.Errorf("%q is about %s", name, n.StorePath)
	}
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	return n, nil
}

func (c *Cache) read(hashPart string, file os.FileInfo) (*NarInfo, error) {
	n, err := c.parse(hashPart)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(n.kept(), func(m Compression) bool { return c.complete(n.StorePath, []Compression{m}) }) {
		return nil, fmt.Errorf("%w: no archive of %s is left", ErrNotFound, n.StorePath)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= memoryEntries {
		c.known = make(map[string]cachedNarInfo)
	}
	c.known[hashPart] = cachedNarInfo{NarInfo: n, read: file, used: accessTime(file)}
	return n, nil
}

// Info reads the narinfo of an item.
func (c *Cache) Info(ctx context.Context, hashPart string) (*Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	n, err := c.load(hashPart)
	if err != nil {
		return nil, err
	}
	return &n.Info, nil
}

// WriteNAR writes the archive as it was added.
func (c *Cache) WriteNAR(ctx context.Context, w io.Writer, info *Info) error {
	f, method, err := c.openAny(info)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := decompress(method, readerContext{ctx, f}, info.NarSize)
	if err != nil {
		return fmt.Errorf("read cache: %w", err)
	}
	defer plain.Close()
	if _, err := io.Copy(w, plain); err != nil {
		return fmt.Errorf("write archive of %s: %w", info.StorePath, err)
	}
	return nil
}

// openAny opens the archive of an item in the form that is read fastest.
func (c *Cache) openAny(info *Info) (f *os.File, method string, err error) {
	for _, method := range []string{"none", "zstd", "gzip", "lzip"} {
		f, err := c.open(info.StorePath, method)
		if !errors.Is(err, ErrNotFound) {
			return f, method, err
		}
	}
	return nil, "", fmt.Errorf("%w: %s", ErrNotFound, info.StorePath)
}

// open opens an archive that is kept compressed by method.
func (c *Cache) open(p StorePath, method string) (*os.File, error) {
	f, err := os.Open(c.archive(p, method))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s by %s", ErrNotFound, p, method)
	}
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	return f, nil
}

// useEvery is how exactly the last use of an item is known.
const useEvery = 10 * time.Minute

// use notes that an item is being used, for [Cache.Evict].
func (c *Cache) use(hashPart string, now time.Time) {
	c.mu.Lock()
	found, ok := c.known[hashPart]
	due := ok && (now.Sub(found.used) > useEvery || now.Before(found.used))
	if due {
		found.used = now
		c.known[hashPart] = found
	}
	c.mu.Unlock()
	if due {
		// What cannot be noted is evicted earlier than it might.
		os.Chtimes(c.narInfo(hashPart), now, time.Time{})
	}
}

// A checker passes an archive on while it hashes it. It stops at the size that
// the archive should have.
type checker struct {
	w    io.Writer
	info *Info
	sum  hash.Hash
	n    int64
}

func (c *checker) Write(p []byte) (int, error) {
	if c.n+int64(len(p)) > c.info.NarSize {
		return 0, fmt.Errorf("archive of %s is longer than the registered %d bytes", c.info.StorePath, c.info.NarSize)
	}
	c.n += int64(len(p))
	c.sum.Write(p)
	return c.w.Write(p)
}

func (c *checker) verify() error {
	if c.n != c.info.NarSize {
		return fmt.Errorf("archive of %s has %d bytes, not the registered %d", c.info.StorePath, c.n, c.info.NarSize)
	}
	if got := Hash(c.sum.Sum(nil)); got != c.info.NarHash {
		return fmt.Errorf("archive of %s has hash %v, not the registered %v", c.info.StorePath, got, c.info.NarHash)
	}
	return nil
}

// readerContext reads until ctx ends.
type readerContext struct {
	ctx context.Context
	r   io.Reader
}

func (r readerContext) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(b)
}
