// Package lzip reads and writes files in the format of lzip, in the shape of compress/gzip:
//
//	r := lzip.NewReader(file, 128<<20)
//	_, err := io.Copy(os.Stdout, r)
//
// A file is a sequence of members; each is a header of six bytes, a stream of LZMA that ends
// with a marker, and a trailer with a checksum and the two sizes. Reading and writing take memory for a
// dictionary and little more, whatever the size of the file.
//
// The format is described in the node "File format" of the manual of lzip. Guix makes and
// reads it in (guix lzlib) of guile-lzlib.
package lzip

import (
	"encoding/binary"
	"errors"

	"github.com/ulikunitz/xz/lzma"
)

const (
	magic       = "LZIP\x01"
	headerSize  = len(magic) + 1
	trailerSize = 20

	minDictionary = 1 << 12
	maxDictionary = 1 << 29
)

// ErrFormat says that something is no file of lzip, or a damaged one.
var ErrFormat = errors.New("lzip: not in the format of lzip")

// ErrLimit says that a file would take more memory to read than it may.
var ErrLimit = errors.New("lzip: dictionary too large")

// levels are the header's bytes for the dictionaries of the levels 0 to 9 of the command: from
// 64 KiB to 32 MiB.
var levels = [...]byte{0x10, 0x14, 0x95, 0x15, 0x96, 0x16, 0x17, 0x18, 0x99, 0x19}

// dictionarySize is the number of bytes that the last byte of a header stands for: a power of two
// less some sixteenths of it.
func dictionarySize(code byte) int {
	size := 1 << (code & 0x1f)
	return size - size/16*int(code>>5)
}

// properties are those of every LZMA stream in a file of lzip.
var properties = lzma.Properties{LC: 3, LP: 0, PB: 2}

// lzmaHeader is what package lzma wants before a stream whose size nobody knows.
func lzmaHeader(dictionary int) []byte {
	b := append(make([]byte, 0, lzma.HeaderLen), properties.Code())
	b = binary.LittleEndian.AppendUint32(b, uint32(dictionary))
	return binary.LittleEndian.AppendUint64(b, 1<<64-1)
}
