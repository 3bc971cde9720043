package nar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// ErrWriteTooLong is returned for contents beyond the size in their header.
var ErrWriteTooLong = errors.New("write nar: contents longer than their size")

// A Writer writes an archive, one file after the other: WriteHeader, then for a
// regular file its contents, and at last Close.
//
// A Writer writes once for each header and passes contents on as they come.
// It is not safe for concurrent use.
type Writer struct {
	w    io.Writer
	err  error // sticky
	at   trail
	any  bool  // a header has been written
	open bool  // the last node is a regular file: its ")" is to come
	left int64 // of its contents
	pad  int
	buf  []byte // what is to be written before the next contents
}

// NewWriter returns a Writer of an archive to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// WriteHeader begins a file. The first must be the root, with Path ""; a
// directory comes before what is in it, and the names in a directory in the
// order of their bytes. The contents of the previous file must have been written.
func (w *Writer) WriteHeader(hdr *Header) error {
	if w.err != nil {
		return w.err
	}
	if err := w.begin(hdr); err != nil {
		return w.fail(fmt.Errorf("write nar: %q: %w", hdr.Path, err))
	}
	return w.flush()
}

func (w *Writer) begin(hdr *Header) error {
	if err := w.endFile(); err != nil {
		return err
	}
	if err := w.place(hdr.Path); err != nil {
		return err
	}
	w.any = true
	w.word(wordOpen, wordType)
	switch hdr.Mode.Type() {
	case 0:
		return w.regular(hdr)
	case fs.ModeDir:
		w.word(wordDirectory)
		w.at.enter()
		return nil
	case fs.ModeSymlink:
		if err := checkTarget(hdr.Target); err != nil {
			return err
		}
		w.word(wordSymlink, wordTarget)
		w.buf = appendString(w.buf, hdr.Target)
		w.word(wordClose)
		w.endNode()
		return nil
	}
	return fmt.Errorf("%v is no regular file, directory or symbolic link", hdr.Mode)
}

func (w *Writer) regular(hdr *Header) error {
	if hdr.Size < 0 {
		return fmt.Errorf("file of %d bytes", hdr.Size)
	}
	w.word(wordRegular)
	if hdr.Mode&0o100 != 0 {
		w.word(wordExecutable, wordEmpty)
	}
	w.word(wordContents)
	w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(hdr.Size))
	w.open, w.left, w.pad = true, hdr.Size, padding(hdr.Size)
	return nil
}

// place closes the directories that path is not in, and begins its entry.
func (w *Writer) place(path string) error {
	if !w.any {
		if path != "" {
			return errors.New("the first file is not the root")
		}
		w.word(wordMagic)
		return nil
	}
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	for {
		if len(w.at.dirs) == 0 {
			return errors.New("not in a directory of the archive")
		}
		if string(w.at.path[:w.at.dirs[len(w.at.dirs)-1]]) == dir {
			break
		}
		w.endDir()
	}
	if err := w.at.add(name); err != nil {
		return err
	}
	w.word(wordEntry, wordOpen, wordName)
	w.buf = appendString(w.buf, name)
	w.word(wordNode)
	return nil
}

// endFile ends the current regular file, if there is one.
func (w *Writer) endFile() error {
	if !w.open {
		return nil
	}
	if w.left > 0 {
		return fmt.Errorf("%d bytes of the contents of %q are missing", w.left, w.at.path)
	}
	w.open = false
	w.buf = append(w.buf, zeros[:w.pad]...)
	w.word(wordClose)
	w.endNode()
	return nil
}

// endNode closes the entry around the node just closed.
func (w *Writer) endNode() {
	if len(w.at.dirs) > 0 {
		w.word(wordClose)
	}
}

func (w *Writer) endDir() {
	w.word(wordClose)
	w.at.leave()
	w.endNode()
}

// Write writes to the contents of the current regular file. It returns
// [ErrWriteTooLong] for more than its header said, having written what was
// expected.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	tooLong := int64(len(p)) > w.left
	if tooLong {
		p = p[:w.left]
	}
	n := 0
	if len(p) > 0 {
		var err error
		n, err = w.w.Write(p)
		w.left -= int64(n)
		if err != nil {
			return n, w.fail(fmt.Errorf("write nar: %w", err))
		}
	}
	if tooLong {
		return n, w.fail(ErrWriteTooLong)
	}
	return n, nil
}

// Close writes the end of the archive. It does not close the writer beneath.
func (w *Writer) Close() error {
	if w.err == errClosed {
		return nil
	}
	if w.err != nil {
		return w.err
	}
	if !w.any {
		return w.fail(errors.New("write nar: no file written"))
	}
	if err := w.endFile(); err != nil {
		return w.fail(fmt.Errorf("write nar: %w", err))
	}
	for len(w.at.dirs) > 0 {
		w.endDir()
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.err = errClosed
	return nil
}

var errClosed = errors.New("write nar: archive is closed")

func (w *Writer) word(words ...string) {
	for _, s := range words {
		w.buf = append(w.buf, s...)
	}
}

func (w *Writer) flush() error {
	_, err := w.w.Write(w.buf)
	w.buf = w.buf[:0]
	if err != nil {
		return w.fail(fmt.Errorf("write nar: %w", err))
	}
	return nil
}

func (w *Writer) fail(err error) error {
	w.err = err
	return err
}

var zeros [8]byte

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	b = append(b, s...)
	return append(b, zeros[:padding(int64(len(s)))]...)
}
