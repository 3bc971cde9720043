package substitute

import (
	"compress/bzip2"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/genenetwork/guixci/substitute/lzip"
)

// maxWindow is the memory that a zstd or lzip archive may ask for; "zstd --long" needs 128 MiB, and
// "lzip -9" 32.
const maxWindow = 128 << 20

// decompressing says how fast one core gets archives out of a method, in bytes of
// archive per second, and what part of the archive's size is downloaded.
// Both only order the addresses of an item, so they need not be exact.
var decompressing = map[string]struct{ speed, ratio float64 }{
	"none":  {10e9, 1},
	"zstd":  {900e6, 0.40},
	"gzip":  {250e6, 0.42},
	"lzip":  {50e6, 0.35},
	"bzip2": {30e6, 0.38},
}

// readable reports whether a Client can read a compression.
func readable(method string) bool { return decompressing[method].speed > 0 }

// decompress returns what r has compressed by method, size bytes or else something wrong. Closing it does not
// close r.
func decompress(method string, r io.Reader, size int64) (io.ReadCloser, error) {
	switch method {
	case "none":
		return io.NopCloser(r), nil
	case "gzip":
		return gzip.NewReader(r)
	case "lzip":
		return io.NopCloser(lzip.NewReader(r, int(min(size, maxWindow)))), nil
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(r)), nil
	case "zstd":
		return newZstdReader(r)
	}
	return nil, fmt.Errorf("unknown compression %q", method)
}

// zstdDecoders are kept for reuse: each has as much memory as the encoder looked back.
var zstdDecoders sync.Pool // of *zstd.Decoder

// A zstdReader is a decoder until it is closed.
type zstdReader struct{ *zstd.Decoder }

func newZstdReader(r io.Reader) (*zstdReader, error) {
	d, ok := zstdDecoders.Get().(*zstd.Decoder)
	if !ok {
		var err error
		d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
	}
	if err := d.Reset(r); err != nil {
		return nil, err
	}
	return &zstdReader{d}, nil
}

// Close lets others use the decoder.
func (z *zstdReader) Close() error {
	if z.Decoder != nil && z.Reset(nil) == nil {
		zstdDecoders.Put(z.Decoder)
	}
	z.Decoder = nil
	return nil
}

// byCost sorts addresses by the time that they will probably take, given the
// bandwidth in bytes per second; those that we cannot read are left out.
func byCost(urls []NarURL, narSize int64, bandwidth float64) []NarURL {
	cost := func(u NarURL) float64 {
		d := decompressing[u.Compression]
		size := float64(u.FileSize)
		if u.FileSize < 0 {
			size = float64(narSize) * d.ratio
		}
		return size/bandwidth + float64(narSize)/d.speed
	}
	sorted := slices.DeleteFunc(slices.Clone(urls), func(u NarURL) bool { return !readable(u.Compression) })
	slices.SortStableFunc(sorted, func(a, b NarURL) int {
		switch x, y := cost(a), cost(b); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return sorted
}
