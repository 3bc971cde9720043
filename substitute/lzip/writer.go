package lzip

import (
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// DefaultLevel is that of guix publish.
const DefaultLevel = 3

// A Writer makes a file of one member of what is written to it. It has to be closed, which does not
// close what it writes to.
type Writer struct {
	code byte // for the dictionary
	out  countingWriter
	err  error // sticky

	head   []byte       // the beginning, until it is known to be large
	stream *lzma.Writer // nil until then
	sum    uint32
	size   uint64
}

// NewWriter returns a Writer to w of one of the levels 0 to 9 of the lzip command; others count as the
// nearest. A level is a size of the dictionary; the time it takes is much the same for all, the memory some
// twelve times the dictionary: 25 MB at level 3, 400 MB at level 9. Files of up to 64 KiB take 1 MB.
func NewWriter(w io.Writer, level int) *Writer {
	return &Writer{code: levels[max(0, min(level, len(levels)-1))], out: countingWriter{w: w}}
}

// Reset makes z begin another file, in w.
func (z *Writer) Reset(w io.Writer) {
	*z = Writer{code: z.code, out: countingWriter{w: w}, head: z.head[:0]}
}

// smallFile is the size up to which a file gets the smallest dictionary: larger ones take more time to
// make than to use.
const smallFile = 64 << 10

// Write implements [io.Writer].
func (z *Writer) Write(p []byte) (int, error) {
	if z.stream == nil && z.err == nil && len(z.head)+len(p) <= smallFile {
		z.head = append(z.head, p...)
		return len(p), nil
	}
	z.start(z.code)
	return z.compress(p)
}

// compress writes to the stream.
func (z *Writer) compress(p []byte) (n int, err error) {
	if z.err != nil {
		return 0, z.err
	}
	n, z.err = z.stream.Write(p)
	z.sum = crc32.Update(z.sum, crc32.IEEETable, p[:n])
	z.size += uint64(n)
	return n, z.err
}

// start begins the stream, if there is none yet.
func (z *Writer) start(code byte) {
	if z.err != nil || z.stream != nil {
		return
	}
	if _, z.err = z.out.Write(append([]byte(magic), code)); z.err != nil {
		return
	}
	config := lzma.WriterConfig{Properties: &properties, DictCap: dictionarySize(code), EOSMarker: true}
	if z.stream, z.err = config.NewWriter(&tailWriter{w: &z.out, skip: lzma.HeaderLen}); z.err == nil {
		z.compress(z.head)
	}
}

// Close writes what is left. The file is whole only if it returns nil.
func (z *Writer) Close() error {
	if z.start(levels[0]); z.err != nil {
		return z.err
	}
	if z.err = z.stream.Close(); z.err != nil {
		return z.err
	}
	trailer := binary.LittleEndian.AppendUint32(nil, z.sum)
	trailer = binary.LittleEndian.AppendUint64(trailer, z.size)
	trailer = binary.LittleEndian.AppendUint64(trailer, uint64(z.out.n+trailerSize))
	_, z.err = z.out.Write(trailer)
	return z.err
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

// A tailWriter drops the first bytes: the header of package lzma's format.
type tailWriter struct {
	w    io.Writer
	skip int
}

func (t *tailWriter) Write(p []byte) (int, error) {
	k := min(t.skip, len(p))
	t.skip -= k
	if k == len(p) {
		return len(p), nil
	}
	n, err := t.w.Write(p[k:])
	return k + n, err
}
