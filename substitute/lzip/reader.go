package lzip

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// A Reader reads what a file of lzip was made of. The checksum and the sizes in it are checked before
// Read returns io.EOF. What follows the last member must be another member: a file with anything
// else behind it is refused.
type Reader struct {
	in      countingReader
	limit   int
	members int
	err     error // sticky

	stream *lzma.Reader // nil between members
	start  int64        // where the member began
	sum    uint32       // of what was read of it
	size   uint64
}

// NewReader returns a Reader of r. Its dictionary has at most limit bytes: a file with matches that are
// further apart is refused with [ErrLimit] or [ErrFormat], but one that only says that it
// could have some is not. For a file that is known to hold n bytes a limit of n is enough.
//
// It reads r in blocks, and perhaps more of it than the file, unless r is an [io.ByteReader].
func NewReader(r io.Reader, limit int) *Reader {
	in, ok := r.(io.ByteReader)
	if !ok {
		in = bufio.NewReaderSize(r, 32<<10)
	}
	return &Reader{in: countingReader{in: in}, limit: max(limit, minDictionary)}
}

// Read implements [io.Reader].
func (z *Reader) Read(p []byte) (n int, err error) {
	for n == 0 && len(p) > 0 && z.err == nil {
		n, z.err = z.read(p)
	}
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, z.err
}

// read reads of one member, and no further than to its end.
func (z *Reader) read(p []byte) (int, error) {
	if z.stream == nil {
		return 0, z.open()
	}
	n, err := z.stream.Read(p)
	z.sum = crc32.Update(z.sum, crc32.IEEETable, p[:n])
	z.size += uint64(n)
	switch {
	case err == io.EOF:
		z.stream = nil
		return n, z.checkTrailer()
	case err != nil:
		return n, z.damaged(err)
	}
	return n, nil
}

// damaged is the error for a file in which err was found.
func (z *Reader) damaged(err error) error {
	switch z.in.err {
	case nil:
		return fmt.Errorf("%w: %v", ErrFormat, err)
	case io.EOF:
		return io.ErrUnexpectedEOF
	}
	return z.in.err
}

// open begins a member; io.EOF says that there is none.
func (z *Reader) open() error {
	z.start, z.sum, z.size = z.in.n, 0, 0
	var header [headerSize]byte
	err := z.in.readFull(header[:])
	switch {
	case err != nil && z.in.err == io.EOF && z.in.n == z.start && z.members > 0:
		return io.EOF
	case err != nil:
		return err
	case string(header[:len(magic)]) != magic:
		return ErrFormat
	}
	dictionary := dictionarySize(header[len(magic)])
	if dictionary < minDictionary || dictionary > maxDictionary {
		return fmt.Errorf("%w: dictionary of %d bytes", ErrFormat, dictionary)
	}
	z.members++
	before := bytes.NewReader(lzmaHeader(min(dictionary, z.limit)))
	if z.stream, err = (lzma.ReaderConfig{}).NewReader(&headedReader{before, &z.in}); err != nil {
		return z.damaged(err)
	}
	return nil
}

func (z *Reader) checkTrailer() error {
	var trailer [trailerSize]byte
	if err := z.in.readFull(trailer[:]); err != nil {
		return err
	}
	switch {
	case binary.LittleEndian.Uint32(trailer[:]) != z.sum:
		return fmt.Errorf("%w: wrong checksum", ErrFormat)
	case binary.LittleEndian.Uint64(trailer[4:]) != z.size:
		return fmt.Errorf("%w: wrong size of data", ErrFormat)
	case binary.LittleEndian.Uint64(trailer[12:]) != uint64(z.in.n-z.start):
		return fmt.Errorf("%w: wrong size of member", ErrFormat)
	}
	return nil
}

// A headedReader reads from the first reader, then from the second.
type headedReader struct {
	head *bytes.Reader
	rest *countingReader
}

func (h *headedReader) ReadByte() (byte, error) {
	if h.head.Len() > 0 {
		return h.head.ReadByte()
	}
	return h.rest.ReadByte()
}

func (h *headedReader) Read(p []byte) (int, error) {
	if h.head.Len() > 0 {
		return h.head.Read(p)
	}
	return 0, errors.New("lzip: stream not read by bytes")
}

// A countingReader knows how far it is, and why it could not go further.
type countingReader struct {
	in  io.ByteReader
	n   int64
	err error
}

func (c *countingReader) ReadByte() (byte, error) {
	b, err := c.in.ReadByte()
	if err != nil {
		c.err = err
		return 0, err
	}
	c.n++
	return b, nil
}

// readFull fills p, or says why not: at the end of the file, that it is unexpected.
func (c *countingReader) readFull(p []byte) error {
	for i := range p {
		b, err := c.ReadByte()
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		p[i] = b
	}
	return nil
}
