package channel

import (
	"encoding/binary"
	"runtime"
	"testing"
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
