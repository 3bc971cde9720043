package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// ErrNotFound says that a Source lacks an item.
var ErrNotFound = errors.New("no such store item")

// Info is what a store knows about one of its items. It is shared and must not
// be changed.
type Info struct {
	StorePath  StorePath
	NarHash    Hash        // of the item's archive
	NarSize    int64       // length of the archive in bytes
	References []StorePath // sorted; may include the item itself
	Deriver    StorePath   // "" when unknown
}

// A Source has store items. Its methods may be called concurrently.
// When ctx ends they return an error soon, and the Source remains usable.
// Package substitutetest has a suite that each implementation should pass.
type Source interface {
	// Info describes the item with this hash part, [StorePath.Hash].
	// For an item it lacks, and for a string that is no hash part, it returns an
	// error for which errors.Is(err, [ErrNotFound]).
	Info(ctx context.Context, hashPart string) (*Info, error)

	// WriteNAR writes the archive of an item that Info described: NarSize
	// bytes that hash to NarHash. If the item is gone it returns an error for
	// which errors.Is(err, [ErrNotFound]), having written nothing; after any
	// other error w may have received a part. An error of w is wrapped.
	WriteNAR(ctx context.Context, w io.Writer, info *Info) error
}

// First returns a Source that has what any of sources has. They are asked in
// order; one that fails is passed over. An error other than [ErrNotFound] is
// returned when no source has the item and at least one could not say.
func First(sources ...Source) Source { return first(sources) }

type first []Source

func (f first) Info(ctx context.Context, hashPart string) (*Info, error) {
	var failed []error
	for _, s := range f {
		info, err := s.Info(ctx, hashPart)
		if err == nil {
			return info, nil
		}
		if !errors.Is(err, ErrNotFound) {
			failed = append(failed, err)
		}
	}
	return nil, f.none(hashPart, failed)
}

// WriteNAR takes the archive from the first source whose item is the same as
// info's. Once bytes have been written there is no going to the next.
func (f first) WriteNAR(ctx context.Context, w io.Writer, info *Info) error {
	var failed []error
	for _, s := range f {
		theirs, err := s.Info(ctx, info.StorePath.Hash())
		if err == nil && theirs.NarHash == info.NarHash && theirs.StorePath == info.StorePath {
			counted := &countingWriter{w: w}
			err = s.WriteNAR(ctx, counted, theirs)
			if err == nil || counted.n > 0 {
				return err
			}
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			failed = append(failed, err)
		}
	}
	return f.none(info.StorePath.Hash(), failed)
}

func (f first) none(hashPart string, failed []error) error {
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	return fmt.Errorf("%w: %q", ErrNotFound, hashPart)
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
