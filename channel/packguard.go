package channel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// maxFetched limits the bytes of an object that is fetched. go-git holds it in memory for that, and
// a gigabyte of nothing is a kilobyte on the wire.
const maxFetched = 512 << 20

// A guardedStore is a repository that is fetched into.
type guardedStore struct {
	*filesystem.Storage
	// drain has what cannot be stored read to its end: go-git waits for the git-upload-pack that
	// serves a local repository, which waits for its reader.
	drain bool
}

// PackfileWriter is what a pack is written to when it arrives.
func (s guardedStore) PackfileWriter() (io.WriteCloser, error) {
	to, err := s.Storage.PackfileWriter()
	if err != nil {
		return nil, err
	}
	return newPackGuard(to, s.drain), nil
}

// A packGuard lets a pack pass until there is an object in it that is too large.
type packGuard struct {
	to    io.WriteCloser
	look  *io.PipeWriter
	done  chan struct{} // closed when nobody looks any more
	drain bool
	err   error // of the first Write that failed
}

func newPackGuard(to io.WriteCloser, drain bool) *packGuard {
	out, look := io.Pipe()
	g := &packGuard{to: to, look: look, done: make(chan struct{}), drain: drain}
	go func() {
		defer close(g.done)
		var large *tooLargeError
		if err := lookAtPack(out); errors.As(err, &large) {
			out.CloseWithError(large)
			return
		}
		io.Copy(io.Discard, out) // what is wrong with it otherwise, go-git says
	}()
	return g
}

// Write passes bytes on once they have been looked at.
func (g *packGuard) Write(b []byte) (int, error) {
	if g.err == nil {
		_, g.err = g.look.Write(b)
	}
	if g.err == nil {
		_, g.err = g.to.Write(b)
	}
	if g.err != nil && !g.drain {
		return 0, g.err
	}
	return len(b), nil
}

// Close waits until the pack is in place. It returns the error of Write, if there was one.
func (g *packGuard) Close() error {
	g.look.Close()
	<-g.done
	err := g.to.Close()
	if g.err != nil { // the other follows from it
		return g.err
	}
	return err
}

func lookAtPack(in io.Reader) error {
	s := packfile.NewScanner(in)
	_, count, err := s.Header()
	for ; count > 0 && err == nil; count-- {
		err = lookAtObject(s)
	}
	return err
}

func lookAtObject(s *packfile.Scanner) error {
	h, err := s.NextObjectHeader()
	if err != nil {
		return err
	}
	if h.Length < 0 || h.Length > maxFetched {
		return tooLargeObject(uint64(h.Length))
	}
	isDelta := h.Type == plumbing.OFSDeltaObject || h.Type == plumbing.REFDeltaObject
	begin := &beginning{}
	if _, _, err = s.NextObject(begin); err != nil || !isDelta {
		return err
	}
	delta := bytes.NewReader(begin.bytes[:begin.size]) // the sizes of what it is based on, and of what comes out
	_, err = binary.ReadUvarint(delta)
	size, err2 := binary.ReadUvarint(delta)
	if err == nil && err2 == nil && size > maxFetched {
		return tooLargeObject(size)
	}
	return nil
}

func tooLargeObject(size uint64) error {
	return &tooLargeError{fmt.Sprintf("an object of %d bytes, more than the %d that are fetched", size, maxFetched)}
}

// A beginning keeps the first bytes that are written to it.
type beginning struct {
	bytes [2 * binary.MaxVarintLen64]byte
	size  int
}

func (b *beginning) Write(p []byte) (int, error) {
	b.size += copy(b.bytes[b.size:], p)
	return len(p), nil
}
