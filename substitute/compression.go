package substitute

import (
	"bufio"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/genenetwork/guixci/substitute/lzip"
)

// A Compression is a way to send archives.
type Compression struct {
	// Method is "gzip", "lzip", "zstd" or "none", as in the narinfo field.
	Method string
	// Level is that of the command of this name, or the nearest one there is;
	// zero means 3.
	Level int
}

const defaultLevel = 3

// DefaultCompressions has zstd for those who know it, which is smaller and faster,
// and gzip, which every client can read.
var DefaultCompressions = []Compression{{Method: "zstd"}, {Method: "gzip"}}

// encoders are kept for reuse, since they are expensive to make.
var encoders sync.Map // encoderKind → *sync.Pool

// An encoderKind is what encoders that can stand in for each other have in common.
type encoderKind struct {
	method string
	level  int
	wide   bool // has several processors
}

// zstdBusy is how many processors have been given to zstd encoders. An archive gets several only if nobody else
// wants them: split among them it takes a third more of their time, and comes out 7 % larger.
var zstdBusy atomic.Int64

// An extent is how much of an archive a zstd encoder of some level has at hand.
type extent struct {
	// narrow is how far an encoder with one processor looks back. It has twice as much memory.
	narrow int
	// wide is how far one with several processors does. It has some thirty times as much memory, since it
	// gives each of them a piece of four times this. Of less than the 2 MiB of the zstd command, the ratio
	// suffers by 1 to 2 %.
	wide int
	// wideFrom is the size from which an archive is worth several processors: that of some pieces.
	wideFrom int64
}

// extentOf is a matter of speed as well: from level 3 on, an encoder with 8 MiB is a tenth faster than with 2. Those
// below are for archives that are made on demand, many at a time.
func extentOf(level int) extent {
	if level < defaultLevel {
		return extent{narrow: 2 << 20, wide: 512 << 10, wideFrom: 4 << 20}
	}
	return extent{narrow: 8 << 20, wide: 2 << 20, wideFrom: 16 << 20}
}

// An encoder compresses one archive. Close ends it without closing what it
// writes to.
type encoder interface {
	io.WriteCloser
	Reset(w io.Writer)
}

func (c Compression) level() int {
	last := 22
	if c.Method == "gzip" || c.Method == "lzip" {
		last = 9
	}
	if c.Level == 0 {
		return defaultLevel
	}
	return max(1, min(c.Level, last))
}

// quickly is c for somebody who waits: a level less, as guix publish also does,
// of what nobody keeps.
func (c Compression) quickly() Compression {
	if c.Method != "gzip" && c.level() > 2 {
		c.Level = 2
	}
	return c
}

// known reports whether c's method is one that can be served.
func (c Compression) known() bool {
	return c.Method == "none" || c.Method == "gzip" || c.Method == "lzip" || c.Method == "zstd"
}

// A sizedEncoder can say at the beginning how much there is, so that who decompresses a small archive does not need
// the memory for a large one. It fails if that is not what comes.
type sizedEncoder interface {
	ResetContentSize(w io.Writer, size int64)
}

// through calls write with a writer whose input, size bytes, arrives at w
// compressed. The end of the compressed data is written only if write succeeds, so that a
// failure cannot look like a whole archive.
func (c Compression) through(w io.Writer, size int64, write func(io.Writer) error) error {
	if c.Method == "none" {
		return write(w)
	}
	kind, done := c.kind(size)
	defer done()
	pool, _ := encoders.LoadOrStore(kind, &sync.Pool{})
	enc, ok := pool.(*sync.Pool).Get().(encoder)
	if !ok {
		var err error
		if enc, err = kind.newEncoder(); err != nil {
			return fmt.Errorf("compress archive: %v", err)
		}
	}
	if sized, ok := enc.(sizedEncoder); ok {
		sized.ResetContentSize(w, size)
	} else {
		enc.Reset(w)
	}
	defer func() {
		enc.Reset(nil) // do not keep w alive, nor goroutines
		pool.(*sync.Pool).Put(enc)
	}()
	if err := write(enc); err != nil {
		return err
	}
	return enc.Close()
}

// kind chooses the encoder for an archive; done is to be called when it is not used any more.
func (c Compression) kind(size int64) (kind encoderKind, done func()) {
	kind = encoderKind{method: c.Method, level: c.level()}
	if c.Method != "zstd" {
		return kind, func() {}
	}
	there, takes := int64(runtime.GOMAXPROCS(0)), int64(wideProcessors())
	if takes > 1 && size >= extentOf(c.level()).wideFrom {
		if zstdBusy.Add(takes) <= there {
			kind.wide = true
			return kind, func() { zstdBusy.Add(-takes) }
		}
		zstdBusy.Add(-takes)
	}
	zstdBusy.Add(1)
	return kind, func() { zstdBusy.Add(-1) }
}

// wideProcessors is how many processors a wide encoder gets.
func wideProcessors() int { return min(runtime.GOMAXPROCS(0), 4) }

// newEncoder makes an encoder. Unless it is wide it works within the calls of Write; the
// goroutines of a wide one end with Close or Reset.
func (k encoderKind) newEncoder() (encoder, error) {
	switch k.method {
	case "gzip":
		return newGzipEncoder(k.level)
	case "lzip":
		return lzip.NewWriter(nil, k.level), nil
	}
	// Archives are checked by their own hash.
	options := []zstd.EOption{zstd.WithEncoderCRC(false), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(k.level))}
	if k.wide {
		options = append(options, zstd.WithWindowSize(extentOf(k.level).wide), zstd.WithConcurrentBlocks(true),
			zstd.WithEncoderConcurrency(wideProcessors()))
	} else {
		options = append(options, zstd.WithWindowSize(extentOf(k.level).narrow), zstd.WithEncoderConcurrency(1))
	}
	return zstd.NewWriter(nil, options...)
}

// A gzipEncoder passes compressed data on in large pieces. A gzip.Writer does so in pieces of 246 bytes, each
// of which would be a system call.
type gzipEncoder struct {
	*gzip.Writer
	out *bufio.Writer
}

func newGzipEncoder(level int) (*gzipEncoder, error) {
	w, err := gzip.NewWriterLevel(nil, level)
	return &gzipEncoder{w, bufio.NewWriterSize(nil, 64<<10)}, err
}

func (e *gzipEncoder) Reset(w io.Writer) {
	e.out.Reset(w)
	e.Writer.Reset(e.out)
}

func (e *gzipEncoder) Close() error {
	if err := e.Writer.Close(); err != nil {
		return err
	}
	return e.out.Flush()
}

// compressedNames are the endings of names whose items are not worth
// compressing again; the list is that of guix publish.
var compressedNames = []string{".gz", ".bz2", ".xz", ".lz", ".lzma", ".tgz", ".tbz2", ".tzst", ".zip", ".zst"}

func isCompressed(name string) bool {
	for _, ending := range compressedNames {
		if strings.HasSuffix(name, ending) {
			return true
		}
	}
	return false
}
