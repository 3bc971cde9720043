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

	"github.com/klauspost/compress/zstd"
)

// A Cache is a directory of archives, kept apart from the store: what is in it can be
// served when the store has collected it as garbage, or from another machine.
// It is a [Source]. Fields must not change after the first call.
//
// Its layout is that of a server's addresses, so that any web server, or a client with a
// "file://" URL, can use the directory as it is:
//
//	nix-cache-info
//	HASH.narinfo            signed if Key is set
//	nar/zstd/HASH-NAME      compressed archive
//
// Files appear whole or not at all, and the narinfo last; several processes may
// add to one directory.
type Cache struct {
	Dir string      // required; made when missing
	Key *PrivateKey // signs what is added; nil leaves it unsigned
}

// cacheCompression is how archives are kept: the method every client that matters
// prefers, at the level where its speed is still that of the disk.
var cacheCompression = Compression{Method: "zstd", Level: defaultLevel}

func (c *Cache) narInfo(hashPart string) string {
	return filepath.Join(c.Dir, hashPart+".narinfo")
}

func (c *Cache) archive(p StorePath) string {
	return filepath.Join(c.Dir, "nar", cacheCompression.Method, p.Base())
}

// Add takes the archive of an item from src. It returns when the item can be
// fetched from the cache, even after a crash of the machine. One that is there already
// is left alone. An archive that is not what info says is an error, and not kept.
func (c *Cache) Add(ctx context.Context, src Source, info *Info) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cache %s: %w", info.StorePath, err)
		}
	}()
	if there, err := c.Info(ctx, info.StorePath.Hash()); err == nil && there.NarHash == info.NarHash {
		return nil
	}
	if err := c.prepare(); err != nil {
		return err
	}
	size, err := c.addArchive(ctx, src, info)
	if err != nil {
		return err
	}
	host, _ := os.Hostname() // nobody checks it
	n, err := NewNarInfo(info, c.Key, host, []NarURL{{
		URL:         "nar/" + cacheCompression.Method + "/" + escape(info.StorePath.Base()),
		Compression: cacheCompression.Method, FileSize: size,
	}})
	if err != nil {
		return err
	}
	return writeFile(c.narInfo(info.StorePath.Hash()), 0o644, os.Rename, text(n.Bytes()))
}

// prepare makes the directory one that clients take for a cache.
func (c *Cache) prepare() error {
	if err := os.MkdirAll(filepath.Join(c.Dir, "nar", cacheCompression.Method), 0o755); err != nil {
		return err
	}
	name := filepath.Join(c.Dir, "nix-cache-info")
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	return writeFile(name, 0o644, os.Rename, text([]byte(cacheInfo)))
}

// addArchive writes the compressed archive, and returns its size.
func (c *Cache) addArchive(ctx context.Context, src Source, info *Info) (size int64, err error) {
	err = writeFile(c.archive(info.StorePath), 0o644, os.Rename, func(w io.Writer) error {
		counted := &countingWriter{w: w}
		err := cacheCompression.through(counted, func(w io.Writer) error {
			hash := sha256.New()
			plain := &countingWriter{w: io.MultiWriter(w, hash)}
			if err := src.WriteNAR(ctx, plain, info); err != nil {
				return err
			}
			if got := Hash(hash.Sum(nil)); got != info.NarHash || plain.n != info.NarSize {
				return fmt.Errorf("archive has %d bytes and hash %v, not %d and %v", plain.n, got, info.NarSize, info.NarHash)
			}
			return nil
		})
		size = counted.n
		return err
	})
	return size, err
}

// Info reads the narinfo of an item.
func (c *Cache) Info(ctx context.Context, hashPart string) (*Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(hashPart) != hashPartLen || !isBase32(hashPart) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, hashPart)
	}
	data, err := os.ReadFile(c.narInfo(hashPart))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, hashPart)
	}
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	n, err := ParseNarInfo(data)
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	return &n.Info, nil
}

// WriteNAR writes the archive as it was added.
func (c *Cache) WriteNAR(ctx context.Context, w io.Writer, info *Info) error {
	f, err := os.Open(c.archive(info.StorePath))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNotFound, info.StorePath)
	}
	if err != nil {
		return fmt.Errorf("read cache: %w", err)
	}
	defer f.Close()
	plain, err := zstd.NewReader(readerContext{ctx, f}, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("read cache: %w", err)
	}
	defer plain.Close()
	if _, err := plain.WriteTo(w); err != nil {
		return fmt.Errorf("write archive of %s: %w", info.StorePath, err)
	}
	return nil
}

// readerContext reads until ctx ends.
type readerContext struct {
	ctx context.Context
	r   io.Reader
}

func (r readerContext) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}
