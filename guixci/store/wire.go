package store

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// What the other side may make us hold in memory at once.
// Memory grows with what has arrived, not with what was announced.
const (
	maxString = 64 << 20 // bytes of one string: a build log chunk, a derivation's text
	maxList   = 16 << 20 // elements of one list: all paths of a very large store
	chunk     = 64 << 10 // bytes taken before more memory is asked for
)

// A reader takes the protocol's primitives off the connection.
// The first error sticks: later calls give zero values, and err tells why.
type reader struct {
	r   *bufio.Reader
	err error
}

func newReader(r io.Reader) *reader { return &reader{r: bufio.NewReaderSize(r, chunk)} }

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// full fills b.
func (r *reader) full(b []byte) {
	if r.err != nil {
		return
	}
	if _, err := io.ReadFull(r.r, b); err != nil {
		r.err = err
	}
}

// uint reads an integer: eight bytes, the least significant first.
func (r *reader) uint() uint64 {
	var b [8]byte
	r.full(b[:])
	if r.err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (r *reader) bool() bool { return r.uint() != 0 }

// length reads the length of something of which at most limit is believable.
func (r *reader) length(what string, limit uint64) int {
	n := r.uint()
	if n > limit {
		r.fail("%s of length %d: more than %d is not believable", what, n, limit)
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

// bytes reads a string: its length, its bytes, zeros up to a multiple of eight.
func (r *reader) bytes() []byte {
	n := r.length("string", maxString)
	b := make([]byte, 0, min(n, chunk))
	for len(b) < n && r.err == nil {
		step := min(n-len(b), max(chunk, len(b)))
		b = append(b, make([]byte, step)...)
		r.full(b[len(b)-step:])
	}
	r.padding(n)
	if r.err != nil {
		return nil
	}
	return b
}

func (r *reader) string() string { return string(r.bytes()) }

// padding skips what follows n bytes.
func (r *reader) padding(n int) {
	var b [8]byte
	pad := b[:-n&7]
	r.full(pad)
	for _, c := range pad {
		if c != 0 {
			r.fail("padding of a string is not zero")
		}
	}
}

// list reads a count and then that many elements.
func list[T any](r *reader, element func() T) []T {
	n := r.length("list", maxList)
	all := make([]T, 0, min(n, 1024))
	for range n {
		e := element()
		if r.err != nil {
			return nil
		}
		all = append(all, e)
	}
	return all
}

func (r *reader) paths() []StorePath {
	return list(r, func() StorePath { return StorePath(r.string()) })
}

// copyTo moves the bytes of a string to w.
// When w fails the rest is read all the same, so that the protocol stays in
// step; w's error is returned, the reader's own is in r.err.
func (r *reader) copyTo(w io.Writer) error {
	n := r.uint()
	if n > 1<<40 {
		r.fail("data of length %d is not believable", n)
	}
	if r.err != nil {
		return nil
	}
	sink := &sink{w: w}
	if _, err := io.CopyN(sink, r.r, int64(n)); err != nil {
		r.err = noEOF(err)
		return sink.err
	}
	r.padding(int(n & 7))
	return sink.err
}

// A sink writes to w until that fails, and nowhere from then on.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(b []byte) (int, error) {
	if s.err == nil {
		_, s.err = s.w.Write(b)
	}
	return len(b), nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A writer puts the protocol's primitives on the connection.
// Errors stick in the bufio.Writer and come out of flush.
type writer struct {
	w *bufio.Writer
}

func newWriter(w io.Writer) *writer { return &writer{w: bufio.NewWriterSize(w, chunk)} }

func (w *writer) uint(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	w.w.Write(b[:])
}

func (w *writer) bool(b bool) {
	if b {
		w.uint(1)
	} else {
		w.uint(0)
	}
}

func (w *writer) string(s string) {
	w.uint(uint64(len(s)))
	w.w.WriteString(s)
	w.padding(len(s))
}

func (w *writer) bytes(b []byte) {
	w.uint(uint64(len(b)))
	w.w.Write(b)
	w.padding(len(b))
}

func (w *writer) padding(n int) {
	var zeros [8]byte
	w.w.Write(zeros[:-n&7])
}

func (w *writer) paths(paths []StorePath) {
	w.uint(uint64(len(paths)))
	for _, p := range paths {
		w.string(string(p))
	}
}

func (w *writer) flush() error { return w.w.Flush() }
