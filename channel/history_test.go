package channel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
)

// What is kept of a commit is small, and does not grow with what it authorizes.
func TestHistoryIsSmall(t *testing.T) {
	const commits = 200_000
	id := func(i int) (id objectID) {
		binary.BigEndian.PutUint64(id[12:], uint64(i)) // all begin alike
		return id
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	h := newHistory(nil)
	var seen commitSet
	for i := range commits {
		at := h.at(id(i))
		h.nodes[at].entry = h.intern(authorizationEntry{there: true, isFile: true, blob: id(i % 7)})
		h.nodes[at].begin = int32(len(h.edges))
		h.edges = append(h.edges, at)
		h.nodes[at].after = int32(len(h.edges))
		seen.add(at)
	}
	if used := (heap() - before) / commits; used > 80 {
		t.Errorf("%d bytes for each commit", used)
	}
	for i := range commits {
		if at := h.at(id(i)); at != int32(i) || h.nodes[at].id != id(i) || !seen.has(at) {
			t.Fatalf("commit %d is at %d", i, at)
		}
	}
	if h.at(id(commits)) != commits || seen.has(commits) || len(h.entries) != 7 {
		t.Errorf("%d nodes, %d entries", len(h.nodes), len(h.entries))
	}
	n := 0
	for range seen.all() {
		n++
	}
	if n != commits {
		t.Errorf("%d commits in the set", n)
	}
}

// packedRepository makes one with a pack in which most objects are deltas.
func packedRepository(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	git := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
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

// Packs are read as go-git reads them.
func TestPacks(t *testing.T) {
	dir := packedRepository(t)
	names, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.idx"))
	if len(names) != 1 {
		t.Fatalf("packs %v", names)
	}
	file, err := os.Open(names[0])
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
			names, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.idx"))
			text, err := os.ReadFile(names[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Chmod(names[0], 0o600), os.WriteFile(names[0], damage(text), 0o600)); err != nil {
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
