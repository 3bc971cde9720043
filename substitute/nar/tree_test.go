package nar

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func restored(t *testing.T, archive []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "item")
	if err := Restore(bufio.NewReader(bytes.NewReader(archive)), path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { makeWritable(t, path) })
	return path
}

// makeWritable lets the test's directory be removed by an ordinary user.
func makeWritable(t *testing.T, path string) {
	err := filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = os.Chmod(p, 0o700)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func dumped(t *testing.T, path string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Dump(&out, path); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestRestoreThenDump(t *testing.T) {
	real, err := os.ReadFile("testdata/pkg-11.nar")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{"made by guix publish": real}
	for _, a := range archives {
		all[a.name] = []byte(a.bytes)
	}
	for name, archive := range all {
		t.Run(name, func(t *testing.T) {
			path := restored(t, archive)
			checkCanonical(t, path)
			if !bytes.Equal(dumped(t, path), archive) {
				t.Error("the archive of the restored tree differs")
			}
		})
	}
}

// checkCanonical checks what guix-daemon does not check again.
func checkCanonical(t *testing.T, path string) {
	t.Helper()
	err := filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		if info.ModTime().Unix() != 1 {
			t.Errorf("%s: modified %v", p, info.ModTime())
		}
		perm := info.Mode().Perm()
		if info.Mode()&fs.ModeSymlink == 0 && perm != 0o444 && perm != 0o555 {
			t.Errorf("%s: mode %v", p, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRealArchive(t *testing.T) {
	archive, err := os.ReadFile("testdata/pkg-11.nar")
	if err != nil {
		t.Fatal(err)
	}
	files, err := readAll(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[fs.FileMode]int{}
	for _, f := range files {
		kinds[f.Mode]++
	}
	if kinds[ModeDirectory] == 0 || kinds[ModeRegular] == 0 {
		t.Errorf("kinds of files %v", kinds)
	}
	var out bytes.Buffer
	if err := writeAll(&out, files); err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(out.Bytes()) != sha256.Sum256(archive) {
		t.Error("written archive differs from the one read")
	}
}

func TestRestoreKeepsWhatExists(t *testing.T) {
	path := filepath.Join(t.TempDir(), "item")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Restore(strings.NewReader(archives[0].bytes), path)
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want one of existence", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "precious" {
		t.Errorf("existing file is now %q", got)
	}
}

// The hostile archives are those an attacker would use to leave the target; the
// directory around it must look the same afterwards.
func TestRestoreHostile(t *testing.T) {
	hostile := map[string]string{
		"dangling link then a file through it": raw("nix-archive-1", "(", "type", "directory",
			"entry", "(", "name", "a", "node", "(", "type", "symlink", "target", "../outside", ")", ")",
			"entry", "(", "name", "a", "node", "(", "type", "regular", "contents", "x", ")", ")", ")"),
		"link used as a directory": raw("nix-archive-1", "(", "type", "directory",
			"entry", "(", "name", "a", "node", "(", "type", "symlink", "target", "..", ")",
			"entry", "(", "name", "outside", "node", "(", "type", "regular", "contents", "x", ")", ")"),
		"truncated inside a deep tree": archives[5].bytes[:len(archives[5].bytes)-100],
	}
	for name, m := range malformed {
		hostile[name] = m
	}
	for name, archive := range hostile {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := Restore(strings.NewReader(archive), filepath.Join(dir, "item")); err == nil {
				t.Error("restored")
			}
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// Whatever is to be restored, all that appears is the tree of an archive that is well formed.
func FuzzRestore(f *testing.F) {
	for _, a := range archives {
		f.Add([]byte(a.bytes))
	}
	for _, m := range malformed {
		f.Add([]byte(m))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "item")
		in := bytes.NewReader(data)
		err := RestoreWith(in, path, &RestoreOptions{MaxSize: 1 << 20})
		if err == nil {
			if read := data[:len(data)-in.Len()]; !bytes.Equal(dumped(t, path), read) {
				t.Errorf("restored another tree than that of %q", read)
			}
			if err := Remove(path); err != nil {
				t.Error(err)
			}
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%q, %v: left behind: %v", data, err, left)
		}
	})
}

func TestRestorePassesErrorsOn(t *testing.T) {
	r, w := io.Pipe()
	w.CloseWithError(errBrittle)
	err := Restore(r, filepath.Join(t.TempDir(), "item"))
	if !errors.Is(err, errBrittle) {
		t.Errorf("error %v", err)
	}
}

func TestDumpRefusesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Dump(io.Discard, dir)
	if err == nil || !strings.Contains(err.Error(), "pipe") {
		t.Errorf("error %v, want one that names the pipe", err)
	}
}

func TestDumpMissing(t *testing.T) {
	err := Dump(io.Discard, filepath.Join(t.TempDir(), "missing"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// A thousand entries: more than one read of the directory, and of the buffer.
func TestLargeDirectory(t *testing.T) {
	files := []file{directory("")}
	for i := range 1000 {
		files = append(files, regular(strings.Repeat("x", i/10+1)+string(rune('0'+i%10)), strings.Repeat("y", i)))
	}
	var archive bytes.Buffer
	slices.SortFunc(files[1:], func(a, b file) int { return strings.Compare(a.Path, b.Path) })
	if err := writeAll(&archive, files); err != nil {
		t.Fatal(err)
	}
	path := restored(t, archive.Bytes())
	if !bytes.Equal(dumped(t, path), archive.Bytes()) {
		t.Error("the archive of the restored tree differs")
	}
}

func BenchmarkDump(b *testing.B) {
	path, size := benchTree(b)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if err := Dump(io.Discard, path); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRestore(b *testing.B) {
	path, size := benchTree(b)
	var archive bytes.Buffer
	if err := Dump(&archive, path); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	b.ReportAllocs()
	target := filepath.Join(b.TempDir(), "item")
	for b.Loop() {
		if err := Restore(bytes.NewReader(archive.Bytes()), target); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.Chmod(target, 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(target); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// benchTree is a directory of 200 files of 20 KB, and the size of its archive.
func benchTree(b *testing.B) (string, int64) {
	dir := b.TempDir()
	data := bytes.Repeat([]byte("0123456789"), 2000)
	for i := range 200 {
		name := filepath.Join(dir, string(rune('a'+i/26))+string(rune('a'+i%26)))
		if err := os.WriteFile(name, data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	var size bytes.Buffer
	if err := Dump(&size, dir); err != nil {
		b.Fatal(err)
	}
	return dir, int64(size.Len())
}
