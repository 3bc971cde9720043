package inferior

import (
	"sync"
	"testing"
)

// Whatever the workers do, each item is dealt out once.
func TestShares(t *testing.T) {
	const total, workers = 10_000, 5
	s := newShares(total, workers, func(item int) bool { return item%7 != 0 })
	counts := make([]int, total)
	var mu sync.Mutex // guards counts
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			returned := false
			for s.take(w) {
				i, ok := s.next(w)
				if !ok {
					t.Error("nothing in a run that was taken")
					return
				}
				if returned = !returned && i%100 == 99; returned {
					s.back(w, 1)
					continue
				}
				mu.Lock()
				counts[i]++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	for i, n := range counts {
		if n != 1 {
			t.Fatalf("item %d was dealt out %d times", i, n)
		}
	}
}

// Runs are cut near the middle, where a file begins.
func TestSharesBoundary(t *testing.T) {
	for _, c := range []struct{ start, want int }{{520, 520}, {470, 470}, {900, 500}} {
		s := newShares(1000, 2, func(item int) bool { return item != c.start })
		if !s.take(1) || s.runs[0] != (run{0, c.want}) || s.runs[1] != (run{c.want, 1000}) {
			t.Errorf("a file at %d: %v", c.start, s.runs)
		}
	}
	short := newShares(leastTaken-1, 2, func(int) bool { return false })
	if short.worthwhile(1) || short.take(1) || !short.worthwhile(0) {
		t.Errorf("a short run was shared: %v", short.runs)
	}
}
