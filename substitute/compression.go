package substitute

import (
	"fmt"
	"io"
	"strings"
	"sync"

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

// encoders holds encoders for reuse, since they are expensive to make.
var encoders = map[string]*sync.Map{"gzip": {}, "lzip": {}, "zstd": {}} // level → *sync.Pool

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
func (c Compression) known() bool { return c.Method == "none" || encoders[c.Method] != nil }

// through calls write with a writer whose input arrives at w compressed. The end
// of the compressed data is written only if write succeeds, so that a failure
// cannot look like a whole archive.
func (c Compression) through(w io.Writer, write func(io.Writer) error) error {
	if c.Method == "none" {
		return write(w)
	}
	pool, _ := encoders[c.Method].LoadOrStore(c.level(), &sync.Pool{})
	enc, ok := pool.(*sync.Pool).Get().(encoder)
	if !ok {
		var err error
		if enc, err = c.newEncoder(); err != nil {
			return fmt.Errorf("compress archive: %v", err)
		}
	}
	enc.Reset(w)
	defer func() {
		enc.Reset(nil) // do not keep w alive
		pool.(*sync.Pool).Put(enc)
	}()
	if err := write(enc); err != nil {
		return err
	}
	return enc.Close()
}

// newEncoder makes an encoder that works within the calls of Write: it has no
// goroutines that would outlive a request.
func (c Compression) newEncoder() (encoder, error) {
	switch c.Method {
	case "gzip":
		return gzip.NewWriterLevel(nil, c.level())
	case "lzip":
		return lzip.NewWriter(nil, c.level()), nil
	}
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(c.level())))
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
