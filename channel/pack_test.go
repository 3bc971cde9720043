package channel

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
)

func runGit(t *testing.T, dir, stdin string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// packedRepository makes one with a pack in which most objects are deltas.
func packedRepository(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), `[a-z]*?\*`) // looks like a pattern
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	git := func(stdin string, args ...string) {
		t.Helper()
		runGit(t, dir, stdin, args...)
	}
	git("", "init", "-q", "--bare")
	var b strings.Builder
	for i := range 60 {
		line := strings.Repeat(fmt.Sprintf("the line of commit %d\n", i), 1+i%40*40) // some are large
		fmt.Fprintf(&b, "commit refs/heads/master\ncommitter a <b> %d +0000\ndata 1\nx\nM 644 inline f%d\ndata %d\n%s\n", i, i%9, len(line), line)
	}
	git(b.String(), "fast-import", "--quiet")
	git("", "repack", "-adfq")
	return dir
}

// onlyPack returns the index, or the pack, of a repository with one.
func onlyPack(t *testing.T, dir, ext string) string {
	t.Helper()
	names, err := fs.Glob(os.DirFS(dir), "objects/pack/*."+ext)
	if err != nil || len(names) != 1 {
		t.Fatalf("packs %q, %v", names, err)
	}
	return filepath.Join(dir, names[0])
}

// Packs are read as go-git reads them.
func TestPacks(t *testing.T) {
	dir := packedRepository(t)
	file, err := os.Open(onlyPack(t, dir, "idx"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	theirs := idxfile.NewMemoryIndex()
	if err := idxfile.NewDecoder(file).Decode(theirs); err != nil {
		t.Fatal(err)
	}
	r := openMirror("u", dir)
	much := r.forReadingMuch()
	defer much.close()
	much.find(objectID{})
	ours := much.packs.all[0].index
	entries, err := theirs.Entries()
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for e, err := entries.Next(); err == nil; e, err = entries.Next() {
		count++
		at, err := ours.FindOffset(e.Hash)
		name, nameErr := ours.FindHash(int64(e.Offset))
		if err != nil || nameErr != nil || at != int64(e.Offset) || name != e.Hash {
			t.Errorf("%v is at %d, not %d, %v; there is %v, %v", e.Hash, at, e.Offset, err, name, nameErr)
		}
		o, err := much.find(objectID(e.Hash))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := much.object(objectID(e.Hash), o.Type()); err != nil {
			t.Error(err)
		}
		if _, err := ours.FindHash(int64(e.Offset) + 1); !errors.Is(err, plumbing.ErrObjectNotFound) {
			t.Errorf("beside an object: %v", err)
		}
		absent := e.Hash
		absent[19] ^= 1
		if has, err := ours.Contains(absent); has || err != nil {
			t.Errorf("%v: %v, %v", absent, has, err)
		}
	}
	if n, _ := ours.Count(); int(n) != count || count < 150 {
		t.Errorf("%d objects, %d", n, count)
	}
}

// Of very many packs the largest are kept open. What is in the others is read all the same.
func TestManyPacks(t *testing.T) {
	dir := packedRepository(t)
	for i := range maxPacks {
		text := fmt.Sprintf("commit refs/heads/b%d\ncommitter a <b> %d +0000\ndata 1\nx\n", i, i)
		runGit(t, dir, text, "-c", "fastimport.unpackLimit=0", "fast-import", "--quiet")
	}
	r := openMirror("u", dir).forReadingMuch()
	defer r.close()
	for i := range maxPacks {
		if _, err := r.head(fmt.Sprintf("refs/heads/b%d", i)); err != nil {
			t.Error(err)
		}
	}
	largest := uint32(0)
	for _, p := range r.packs.all {
		largest = max(largest, p.index.count())
	}
	if len(r.packs.all) != maxPacks || largest < 150 {
		t.Errorf("%d packs are open, the largest has %d objects", len(r.packs.all), largest)
	}
}

// An index that is damaged, or of another version, is left to go-git, which says what is wrong.
func TestOddPackIndex(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"cut":       func(b []byte) []byte { return b[:len(b)-1] },
		"empty":     func([]byte) []byte { return nil },
		"version 1": func(b []byte) []byte { return append([]byte("\xfftOc\x00\x00\x00\x01"), b[8:]...) },
		"fanout":    func(b []byte) []byte { b[8+4*100] = 0xff; return b },
		"huge":      func(b []byte) []byte { b[8+4*255] = 0xff; return b },
	} {
		t.Run(name, func(t *testing.T) {
			dir := packedRepository(t)
			index := onlyPack(t, dir, "idx")
			text, err := os.ReadFile(index)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Chmod(index, 0o600), os.WriteFile(index, damage(text), 0o600)); err != nil {
				t.Fatal(err)
			}
			if p := openPacks(dir, nil); len(p.all) != 0 {
				t.Error("it was opened")
			}
			if name != "cut" {
				return
			}
			r := openMirror("u", dir).forReadingMuch()
			defer r.close()
			if _, err := r.object(objectID{1}, plumbing.CommitObject); !errors.Is(err, errCorrupt) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A buffer that can be closed.
type closableBuffer struct{ bytes.Buffer }

func (*closableBuffer) Close() error { return nil }

// packOf makes a pack of one blob and, if it is not nil, a delta of that.
func packOf(blobSize uint64, delta []byte) []byte {
	object := func(kind byte, size uint64, base []byte, content []byte) []byte {
		head := []byte{kind<<4 | byte(size&15)}
		for size >>= 4; size > 0; size >>= 7 {
			head[len(head)-1] |= 0x80
			head = append(head, byte(size&0x7f))
		}
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		z.Write(content)
		z.Close()
		return slices.Concat(head, base, b.Bytes())
	}
	blob := object(3, blobSize, nil, []byte("x"))
	raw := slices.Concat([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01"), blob)
	if delta != nil {
		raw[11] = 2
		raw = append(raw, object(6, uint64(len(delta)), []byte{byte(len(blob))}, delta)...)
	}
	sum := sha1.Sum(raw)
	return append(raw, sum[:]...)
}

// Objects that would fill the memory end a fetch before they are unpacked.
func TestPackGuard(t *testing.T) {
	delta := func(size uint64) []byte { return append(binary.AppendUvarint([]byte{1}, size), 1, 'y') }
	good, err := os.ReadFile(onlyPack(t, packedRepository(t), "pack"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		pack  []byte
		large bool
	}{
		{"honest", good, false},
		{"small", packOf(1, delta(1)), false},
		{"rubbish", []byte("PACK, they said"), false},
		{"large", packOf(1<<40, nil), true},
		{"larger than go-git counts", packOf(1<<63, nil), false}, // it says so itself
		{"a delta that grows", packOf(1, delta(maxFetched+1)), true},
	} {
		for _, drain := range []bool{false, true} {
			to := &closableBuffer{}
			g := newPackGuard(to, drain)
			all := io.MultiReader(bytes.NewReader(test.pack), bytes.NewReader(make([]byte, 1<<16)))
			_, err := io.CopyBuffer(struct{ io.Writer }{g}, struct{ io.Reader }{all}, make([]byte, 100))
			if drain && err != nil {
				t.Errorf("%s: not read to the end: %v", test.name, err)
			}
			var large *tooLargeError
			if err = errors.Join(err, g.Close()); errors.As(err, &large) != test.large || err != nil && !test.large {
				t.Errorf("%s: error %v", test.name, err)
			}
			if !test.large && !bytes.HasPrefix(to.Bytes(), test.pack) {
				t.Errorf("%s: it became something else", test.name)
			}
		}
	}
}
