package nar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// A Reader reads an archive, one file after the other. It reads no byte beyond
// the archive, so that more can follow it, and does many small reads: give it
// something buffered.
//
// A Reader is not safe for concurrent use.
type Reader struct {
	r     io.Reader
	state readState
	err   error // sticky
	off   int64 // bytes read so far
	at    trail
	left  int64 // of the contents of the current regular file
	pad   int   // zero bytes after them

	scratch [32]byte
}

type readState int

const (
	atStart  readState = iota // nothing read yet
	inFile                    // a regular file's contents, of which left bytes remain
	nodeDone                  // a node has been read to its end
	inDir                     // between entries of the innermost directory
)

// NewReader returns a Reader of the archive that r is at the beginning of.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next goes on to the next file and describes it; contents not yet read are
// skipped. A directory comes before what is in it. Next returns [io.EOF] when the
// archive has been read to its end: only then is it known to be well formed.
//
// All errors are final. They wrap [ErrFormat], [io.ErrUnexpectedEOF], or what the
// reader beneath returned.
func (r *Reader) Next() (*Header, error) {
	if r.err != nil {
		return nil, r.err
	}
	hdr, err := r.next()
	if err != nil {
		return nil, r.fail(err)
	}
	return hdr, nil
}

func (r *Reader) next() (*Header, error) {
	switch r.state {
	case atStart:
		if err := r.expect(wordMagic); err != nil {
			return nil, err
		}
		return r.node()
	case inFile:
		if err := r.endFile(); err != nil {
			return nil, err
		}
	}
	for {
		if r.state == nodeDone {
			if len(r.at.dirs) == 0 {
				return nil, io.EOF
			}
			if err := r.expect(wordClose); err != nil { // of the entry
				return nil, err
			}
			r.state = inDir
		}
		more, err := r.choose(wordEntry, wordClose)
		if err != nil {
			return nil, err
		}
		if more {
			return r.entry()
		}
		r.at.leave()
		r.state = nodeDone
	}
}

// entry reads a directory entry up to and including the header of its node.
func (r *Reader) entry() (*Header, error) {
	if err := r.expect(wordOpen, wordName); err != nil {
		return nil, err
	}
	name, err := r.string(MaxName)
	if err != nil {
		return nil, err
	}
	if err := r.at.add(name); err != nil {
		return nil, r.malformed("%v", err)
	}
	if err := r.expect(wordNode); err != nil {
		return nil, err
	}
	return r.node()
}

// node reads a node up to what follows its header.
func (r *Reader) node() (*Header, error) {
	if err := r.expect(wordOpen, wordType); err != nil {
		return nil, err
	}
	hdr := &Header{Path: string(r.at.path)}
	head, err := r.take(16)
	if err != nil {
		return nil, err
	}
	switch string(head) {
	case wordRegular:
		return hdr, r.regular(hdr)
	case wordSymlink:
		return hdr, r.symlink(hdr)
	case wordDirectory[:16]:
		hdr.Mode = ModeDirectory
		r.at.enter()
		r.state = inDir
		return hdr, r.expect(wordDirectory[16:])
	}
	return nil, r.malformed("unknown file type %q", head)
}

func (r *Reader) regular(hdr *Header) error {
	hdr.Mode = ModeRegular
	plain, err := r.choose(wordContents, wordExecutable[:16])
	if err != nil {
		return err
	}
	if !plain {
		hdr.Mode = ModeExecutable
		if err := r.expect(wordExecutable[16:], wordEmpty, wordContents); err != nil {
			return err
		}
	}
	size, err := r.uint64()
	if err != nil {
		return err
	}
	if size > math.MaxInt64-8 {
		return r.malformed("file of %d bytes", size)
	}
	hdr.Size = int64(size)
	r.left, r.pad = hdr.Size, padding(hdr.Size)
	r.state = inFile
	return nil
}

func (r *Reader) symlink(hdr *Header) error {
	hdr.Mode = ModeSymlink
	if err := r.expect(wordTarget); err != nil {
		return err
	}
	target, err := r.string(MaxTarget)
	if err != nil {
		return err
	}
	if err := checkTarget(target); err != nil {
		return r.malformed("%v", err)
	}
	hdr.Target = target
	r.state = nodeDone
	return r.expect(wordClose)
}

// Read reads from the contents of the current regular file and returns [io.EOF]
// at their end, and at once for other files.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil && r.err != io.EOF {
		return 0, r.err
	}
	if r.state != inFile || r.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.r.Read(p)
	r.left -= int64(n)
	r.off += int64(n)
	if err == io.EOF && r.left == 0 {
		err = nil
	}
	if err != nil {
		err = r.fail(unexpected(err))
	}
	return n, err
}

// endFile skips the rest of the current file's contents, and what closes it.
func (r *Reader) endFile() error {
	n, err := io.CopyN(io.Discard, r.r, r.left)
	r.off += n
	r.left -= n
	if err != nil {
		return unexpected(err)
	}
	if err := r.zeros(r.pad); err != nil {
		return err
	}
	r.state = nodeDone
	return r.expect(wordClose)
}

// take reads n bytes, at most len(r.scratch), which are valid until the next read.
func (r *Reader) take(n int) ([]byte, error) {
	buf := r.scratch[:n]
	got, err := io.ReadFull(r.r, buf)
	r.off += int64(got)
	if err != nil {
		return nil, unexpected(err)
	}
	return buf, nil
}

// expect reads words, or parts of words, that must come now.
func (r *Reader) expect(words ...string) error {
	for _, w := range words {
		got, err := r.take(len(w))
		if err != nil {
			return err
		}
		if string(got) != w {
			return r.malformed("got %q where %q should be", got, w)
		}
	}
	return nil
}

// choose reads 16 bytes and tells whether they are first, or second.
func (r *Reader) choose(first, second string) (bool, error) {
	got, err := r.take(16)
	if err != nil {
		return false, err
	}
	switch string(got) {
	case first:
		return true, nil
	case second:
		return false, nil
	}
	return false, r.malformed("got %q where %q or %q should be", got, first, second)
}

func (r *Reader) uint64() (uint64, error) {
	b, err := r.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (r *Reader) string(limit int) (string, error) {
	n, err := r.uint64()
	if err != nil {
		return "", err
	}
	if n > uint64(limit) {
		return "", r.malformed("string of %d bytes, more than %d", n, limit)
	}
	buf := make([]byte, n)
	got, err := io.ReadFull(r.r, buf)
	r.off += int64(got)
	if err != nil {
		return "", unexpected(err)
	}
	return string(buf), r.zeros(padding(int64(n)))
}

func (r *Reader) zeros(n int) error {
	pad, err := r.take(n)
	if err != nil {
		return err
	}
	for _, b := range pad {
		if b != 0 {
			return r.malformed("padding %x is not zero", pad)
		}
	}
	return nil
}

func (r *Reader) malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// fail makes err final, and says where it happened.
func (r *Reader) fail(err error) error {
	if err != io.EOF {
		err = fmt.Errorf("read nar: %q, byte %d: %w", r.at.path, r.off, err)
	}
	r.err = err
	return err
}

// unexpected is err, seen where an archive cannot end.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
