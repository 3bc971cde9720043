// Package nar reads and writes "normalized archives", the form in which Guix
// hashes, signs and transports store items.
//
// An archive holds one file tree: a regular file, a symbolic link, or a
// directory of such. It has no owners, no times and one permission, whether a
// regular file is executable, so that equal trees have equal archives. There is
// exactly one archive for a tree; this package refuses every other spelling:
// unsorted or repeated names, padding that is not zero, missing words.
//
// [Reader] and [Writer] have the shape of those in archive/tar:
//
//	r := nar.NewReader(bufio.NewReader(f))
//	for {
//		hdr, err := r.Next()
//		if err == io.EOF {
//			break // the archive is whole
//		}
//		…
//		io.Copy(dst, r) // the contents, for a regular file
//	}
//
// [Dump] writes the archive of a tree on disk, [Restore] makes the tree of an
// archive.
//
// The format is that of "write-file" and "restore-file" in (guix serialization),
// and of nix/libutil/archive.cc in Guix; the manual's node "Invoking guix archive"
// says what it is used for.
package nar

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Limits of what a [Reader] and a [Writer] accept: those of the file systems a
// store lives on. They bound the memory that an archive can make a Reader use,
// and thereby the depth of a tree, at 2048. Sizes and numbers of files are not
// limited here, since a Reader does not keep them; who restores an archive of
// unknown origin limits its length with [io.LimitReader].
const (
	MaxName   = 255  // bytes in the name of a directory entry
	MaxPath   = 4095 // bytes in Header.Path
	MaxTarget = 4095 // bytes in the target of a symbolic link
)

// ErrFormat is wrapped by the errors of a [Reader] that blame the archive, as
// opposed to the reader beneath. An archive that just ends gives
// [io.ErrUnexpectedEOF].
var ErrFormat = errors.New("malformed archive")

// The modes of a Header.
const (
	ModeRegular    fs.FileMode = 0o444
	ModeExecutable fs.FileMode = 0o555
	ModeDirectory              = fs.ModeDir | 0o555
	ModeSymlink                = fs.ModeSymlink | 0o777
)

// A Header describes one file of an archive.
type Header struct {
	// Path is where the file is: names separated by slashes, without a leading
	// one, in the order of the archive; "" for the root.
	Path string
	// Mode is one of [ModeRegular], [ModeExecutable], [ModeDirectory] and
	// [ModeSymlink] when read. A Writer looks at the type and, for a regular
	// file, at the owner's permission to execute.
	Mode fs.FileMode
	// Size is the length in bytes of a regular file, zero for the others.
	Size int64
	// Target is what a symbolic link points to, "" for the others.
	Target string
}

// CheckName says why name cannot be that of a directory entry in an archive, or nil.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("empty name")
	case name == "." || name == "..":
		return fmt.Errorf("name %q is reserved", name)
	case len(name) > MaxName:
		return fmt.Errorf("name of %d bytes, more than %d", len(name), MaxName)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("name %q has a slash or NUL in it", name)
	}
	return nil
}

func checkTarget(target string) error {
	switch {
	case target == "":
		return errors.New("symbolic link without a target")
	case len(target) > MaxTarget:
		return fmt.Errorf("target of %d bytes, more than %d", len(target), MaxTarget)
	case strings.Contains(target, "\x00"):
		return fmt.Errorf("target %q has a NUL in it", target)
	}
	return nil
}

// A trail is the path of the node an archive has come to, with one element for
// each open directory. Reader and Writer use it to know the previous name in
// the innermost one, which the next must follow.
type trail struct {
	path []byte // Header.Path of the last node
	dirs []int  // for each open directory, the length of its own path
}

// enter opens the last node, a directory.
func (t *trail) enter() { t.dirs = append(t.dirs, len(t.path)) }

// leave closes the innermost directory, which becomes the last node.
func (t *trail) leave() {
	last := len(t.dirs) - 1
	t.path = t.path[:t.dirs[last]]
	t.dirs = t.dirs[:last]
}

// add makes name in the innermost directory the last node.
func (t *trail) add(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	dir := t.dirs[len(t.dirs)-1]
	start := dir
	if dir > 0 {
		start++ // the slash
	}
	if len(t.path) > start && string(t.path[start:]) >= name {
		return fmt.Errorf("name %q after %q: not sorted", name, t.path[start:])
	}
	if start+len(name) > MaxPath {
		return fmt.Errorf("path longer than %d bytes", MaxPath)
	}
	t.path = t.path[:dir]
	if dir > 0 {
		t.path = append(t.path, '/')
	}
	t.path = append(t.path, name...)
	return nil
}

// The words of an archive as they are written: length, bytes, padding.
var (
	wordMagic      = word("nix-archive-1")
	wordOpen       = word("(")
	wordClose      = word(")")
	wordType       = word("type")
	wordRegular    = word("regular")
	wordSymlink    = word("symlink")
	wordDirectory  = word("directory")
	wordExecutable = word("executable")
	wordEmpty      = word("")
	wordContents   = word("contents")
	wordTarget     = word("target")
	wordEntry      = word("entry")
	wordName       = word("name")
	wordNode       = word("node")
)

func word(s string) string { return string(appendString(nil, s)) }

// padding is the number of zero bytes that follow n bytes.
func padding(n int64) int { return int(-n & 7) }
