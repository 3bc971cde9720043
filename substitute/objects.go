package substitute

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// Objects is where the files of a static cache are put: a [Directory], or a service from which they
// can be fetched by HTTP. Its methods may be called concurrently, also from within the function that
// another call was given. Package substitutetest has a suite that each implementation should pass.
type Objects interface {
	// Put makes an object of what write writes. name is a path like "nar/zstd/HASH-NAME", without
	// escapes. The object appears whole, when write has returned nil, in place of one of that name; or
	// not at all, if there is an error. When Put returns nil the object outlasts a crash.
	Put(ctx context.Context, name, contentType string, write func(io.Writer) error) error
	// Get returns a small object. If there is none, the error is one for which
	// errors.Is(err, [ErrNotFound]).
	Get(ctx context.Context, name string) ([]byte, error)
	// Has reports whether there is an object of that name.
	Has(ctx context.Context, name string) (bool, error)
}

// A Directory is Objects in files below it, which it makes. They are world-readable.
type Directory string

// Put implements [Objects].
func (d Directory) Put(ctx context.Context, name, _ string, write func(io.Writer) error) error {
	stop, err := adding(ctx, string(d))
	if err != nil {
		return err
	}
	defer stop()
	path := filepath.Join(string(d), filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return writeFile(path, 0o644, os.Rename, write)
}

// Get implements [Objects].
func (d Directory) Get(_ context.Context, name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(string(d), filepath.FromSlash(name)))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EISDIR) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	return data, err
}

// Has implements [Objects].
func (d Directory) Has(_ context.Context, name string) (bool, error) {
	info, err := os.Stat(filepath.Join(string(d), filepath.FromSlash(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Mode().IsRegular(), err
}

// An Exporter puts items where any Guix can fetch them without a server of ours, in the layout of a
// [Cache]. Fields must not change after the first call.
type Exporter struct {
	To  Objects     // required
	Key *PrivateKey // signs; nil leaves the narinfos unsigned
	// Compression is how archives are kept; nil means [DefaultCompressions].
	Compression []Compression
	// Workers is how many items are added at a time; 0 means one for each processor.
	Workers int
	// Done, if not nil, is told of each item that Export has put, or found; calls do not overlap.
	Done func(*Info)
}

// Add puts an item of src, the narinfo last, unless it is there already, with its archives; one that another key
// has signed, or none, is signed anew. An archive that is not what info says is an error, and not kept.
func (e *Exporter) Add(ctx context.Context, src Source, info *Info) error {
	for attempt := 1; ; attempt++ {
		err := e.add(ctx, src, info)
		if errors.Is(err, errEvicted) && attempt < evictions {
			continue
		}
		if err != nil {
			return fmt.Errorf("export %s: %w", info.StorePath, err)
		}
		return nil
	}
}

func (e *Exporter) add(ctx context.Context, src Source, info *Info) error {
	text, err := e.To.Get(ctx, info.StorePath.Hash()+".narinfo")
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	there, err := ParseNarInfo(text) // of nothing, it fails
	if err != nil || !there.equivalent(info) {
		return e.put(ctx, src, info)
	}
	switch err := e.complete(ctx, info.StorePath, there.kept()); {
	case errors.Is(err, errEvicted):
		return e.put(ctx, src, info)
	case err != nil:
		return err
	case !there.signedBy(e.Key):
		return e.putNarInfo(ctx, info, there.URLs)
	}
	return nil
}

// complete returns errEvicted if an archive is missing.
func (e *Exporter) complete(ctx context.Context, p StorePath, methods []Compression) error {
	for _, m := range methods {
		has, err := e.To.Has(ctx, archiveName(p, m.Method))
		if err != nil {
			return err
		}
		if !has {
			return errEvicted
		}
	}
	return nil
}

// put is add for an item that is not there.
func (e *Exporter) put(ctx context.Context, src Source, info *Info) error {
	methods := methodsFor(info.StorePath, e.Compression)
	for _, m := range methods {
		if !m.known() {
			return fmt.Errorf("unknown compression %q", m.Method)
		}
	}
	sizes, err := e.putArchives(ctx, src, info, methods)
	if err != nil {
		return err
	}
	if err := e.putNarInfo(ctx, info, bakedURLs(info, methods, sizes)); err != nil {
		return err
	}
	return e.complete(ctx, info.StorePath, methods)
}

func (e *Exporter) putNarInfo(ctx context.Context, info *Info, urls []NarURL) error {
	host, _ := os.Hostname() // nobody checks it
	n, err := NewNarInfo(info, e.Key, host, urls)
	if err != nil {
		return err
	}
	return e.To.Put(ctx, info.StorePath.Hash()+".narinfo", narinfoType, text(n.Bytes()))
}

// methodsFor are the compressions for an item.
func methodsFor(p StorePath, wanted []Compression) []Compression {
	if isCompressed(string(p)) {
		return []Compression{{Method: "none"}}
	}
	if len(wanted) == 0 {
		return DefaultCompressions
	}
	return wanted
}

// archiveName is the name of an archive among the objects.
func archiveName(p StorePath, method string) string {
	if method == "none" {
		return "nar/" + p.Base()
	}
	return "nar/" + method + "/" + p.Base()
}

// putArchives writes an archive under all methods while it is read once, and
// returns the sizes of the objects. They get their names only if it was the right one.
func (e *Exporter) putArchives(ctx context.Context, src Source, info *Info, methods []Compression) ([]int64, error) {
	sizes := make([]int64, len(methods))
	check := &checker{w: io.Discard, info: info, sum: sha256.New()}
	// with writes the first i objects around what inner writes to the others.
	var with func(i int, writers []io.Writer) error
	with = func(i int, writers []io.Writer) error {
		if i == len(methods) {
			check.w = io.MultiWriter(writers...)
			if err := src.WriteNAR(ctx, check, info); err != nil {
				return err
			}
			return check.verify()
		}
		return e.To.Put(ctx, archiveName(info.StorePath, methods[i].Method), "application/octet-stream", func(f io.Writer) error {
			counted := &countingWriter{w: f}
			err := methods[i].through(counted, info.NarSize, func(w io.Writer) error { return with(i+1, append(writers, w)) })
			sizes[i] = counted.n
			return err
		})
	}
	return sizes, with(0, nil)
}

// Export adds items of src and everything they refer to, what is referred to
// first, so that whatever is there can be used.
func (e *Exporter) Export(ctx context.Context, src Source, roots ...StorePath) error {
	_, err := e.To.Get(ctx, cacheInfoName)
	if errors.Is(err, ErrNotFound) {
		err = e.To.Put(ctx, cacheInfoName, textType, text([]byte(cacheInfo)))
	}
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	closure, err := Closure(ctx, src, roots...)
	if err == nil {
		err = e.addAll(ctx, src, closure)
	}
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// cacheInfoName is the object that makes the others a cache.
const cacheInfoName = "nix-cache-info"

// addAll adds the items of a closure, several at a time.
func (e *Exporter) addAll(ctx context.Context, src Source, closure []*Info) error {
	workers := e.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	finished := make(map[StorePath]<-chan struct{}, len(closure))
	var mu sync.Mutex // held while Done is called
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	// Items come after those they refer to, so that the oldest worker never waits. Only in a circle, which no
	// honest source has, some do not.
	for _, info := range closure {
		var before []<-chan struct{}
		for _, ref := range info.References {
			if c := finished[ref]; c != nil {
				before = append(before, c)
			}
		}
		added := make(chan struct{})
		finished[info.StorePath] = added
		group.Go(func() error {
			if err := awaitAll(ctx, before); err != nil {
				return err
			}
			if err := e.Add(ctx, src, info); err != nil {
				return err
			}
			close(added)
			if e.Done != nil {
				mu.Lock()
				defer mu.Unlock()
				e.Done(info)
			}
			return nil
		})
	}
	return group.Wait()
}

// awaitAll returns when all channels are closed.
func awaitAll(ctx context.Context, channels []<-chan struct{}) error {
	for _, c := range channels {
		select {
		case <-c:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
