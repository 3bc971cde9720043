package nar_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/substitute/nar"
)

// made makes an archive of headers; files have zeros in them.
func made(t *testing.T, headers ...nar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	for _, hdr := range headers {
		if err := w.WriteHeader(&hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, hdr.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRestoreLimits(t *testing.T) {
	dir := nar.Header{Mode: nar.ModeDirectory}
	file := func(path string, size int64) nar.Header {
		return nar.Header{Path: path, Mode: nar.ModeRegular, Size: size}
	}
	sub := func(path string) nar.Header { return nar.Header{Path: path, Mode: nar.ModeDirectory} }
	for _, test := range []struct {
		name    string
		options nar.RestoreOptions
		archive []byte
		ok      bool
	}{
		{"size", nar.RestoreOptions{MaxSize: 100}, made(t, dir, file("a", 60), file("b", 40)), true},
		{"too large", nar.RestoreOptions{MaxSize: 99}, made(t, dir, file("a", 60), file("b", 40)), false},
		{"files", nar.RestoreOptions{MaxFiles: 3}, made(t, dir, file("a", 1), file("b", 1)), true},
		{"too many", nar.RestoreOptions{MaxFiles: 2}, made(t, dir, file("a", 1), file("b", 1)), false},
		{"depth", nar.RestoreOptions{MaxDepth: 2}, made(t, dir, sub("a"), file("a/b", 1)), true},
		{"too deep", nar.RestoreOptions{MaxDepth: 1}, made(t, dir, sub("a"), file("a/b", 1)), false},
		{"case", nar.RestoreOptions{}, made(t, dir, file("A", 1), file("a", 1)), true},
		{"case collides", nar.RestoreOptions{FoldCase: true}, made(t, dir, file("A", 1), file("a", 1)), false},
		{"case of other scripts", nar.RestoreOptions{FoldCase: true}, made(t, dir, file("Σ", 1), file("ς", 1)), false},
		{"long s", nar.RestoreOptions{FoldCase: true}, made(t, dir, file("s", 1), file("ſ", 1)), false},
		{"kelvin", nar.RestoreOptions{FoldCase: true}, made(t, dir, file("K", 1), file("\u212a", 1)), false},
		{"not characters", nar.RestoreOptions{FoldCase: true}, made(t, dir, file("\xfe", 1), file("\xff", 1)), true},
		{"case elsewhere", nar.RestoreOptions{FoldCase: true}, made(t, dir, sub("A"), file("A/x", 1), file("x", 1)), true},
	} {
		path := filepath.Join(t.TempDir(), "tree")
		err := nar.RestoreWith(bytes.NewReader(test.archive), path, &test.options)
		if test.ok != (err == nil) || !test.ok && !errors.Is(err, nar.ErrLimit) {
			t.Errorf("%s: %v", test.name, err)
		}
		if _, err := os.Lstat(path); !test.ok && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: left behind: %v", test.name, err)
		}
	}
}

// A size beyond the archive fills no disk: what is announced has to come.
func TestRestoreHugeSize(t *testing.T) {
	archive := made(t, nar.Header{Mode: nar.ModeRegular, Size: 8})
	i := bytes.Index(archive, []byte("contents")) + 8
	for _, size := range []string{"\xff\xff\xff\xff\xff\xff\xff\x7f", "\xff\xff\xff\xff\xff\xff\xff\xff", "\x00\x00\x00\x00\x00\x01\x00\x00"} {
		bad := bytes.Clone(archive)
		copy(bad[i:], size)
		path := filepath.Join(t.TempDir(), "tree")
		if err := nar.Restore(bytes.NewReader(bad), path); err == nil {
			t.Errorf("size %x: no error", size)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("size %x: left behind", size)
		}
	}
}

// Link is told of large files only, when they are finished, with the hash of their own archive.
func TestRestoreLink(t *testing.T) {
	archive := made(t, nar.Header{Mode: nar.ModeDirectory}, nar.Header{Path: "large", Mode: nar.ModeExecutable, Size: 100}, nar.Header{Path: "small", Mode: nar.ModeRegular, Size: 99})
	path := filepath.Join(t.TempDir(), "tree")
	var told []string
	err := nar.RestoreWith(bytes.NewReader(archive), path, &nar.RestoreOptions{LinkSize: 100, Link: func(file string, sum [sha256.Size]byte) error {
		info, err := os.Lstat(file)
		if err != nil || info.Mode() != 0o555 || info.ModTime().Unix() != 1 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
		h := sha256.New()
		if err := nar.Dump(h, file); err != nil || !bytes.Equal(h.Sum(nil), sum[:]) {
			t.Errorf("%s: hash %x, %v", file, sum, err)
		}
		told = append(told, strings.TrimPrefix(file, path))
		return nil
	}})
	if err != nil || fmt.Sprint(told) != "[/large]" {
		t.Errorf("told of %q, %v", told, err)
	}
	err = nar.RestoreWith(bytes.NewReader(archive), path+"2", &nar.RestoreOptions{LinkSize: 100, Link: func(string, [sha256.Size]byte) error { return io.ErrClosedPipe }})
	if _, left := os.Lstat(path + "2"); !errors.Is(err, io.ErrClosedPipe) || left == nil {
		t.Errorf("a link that fails: %v, left %v", err, left)
	}
}
