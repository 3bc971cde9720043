package inferior

import "sync"

// shares deal the items 0, 1, … out to workers. Neighbours need much the same
// inputs, so each worker gets a run of them: the first worker all, and a
// worker that has none the second half of the longest. A session does not know what
// another one has loaded, so dealing items out in turn would gain nothing.
type shares struct {
	// joined reports whether an item should stay with the one before it.
	joined func(item int) bool

	mu   sync.Mutex // guards runs
	runs []run      // by worker
}

// A run is what a worker has still to do: the items from next to end.
type run struct{ next, end int }

func (r run) len() int { return r.end - r.next }

// leastTaken is the shortest run worth taking a half of: with less left its owner
// is done before a thief has loaded what the items need.
const leastTaken = 32

func newShares(total, workers int, joined func(item int) bool) *shares {
	s := &shares{joined: joined, runs: make([]run, workers)}
	s.runs[0] = run{0, total}
	return s
}

// next returns the next item of a worker's own run. ok is false if there is none.
func (s *shares) next(worker int) (item int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.runs[worker]
	if r.len() == 0 {
		return 0, false
	}
	r.next++
	return r.next - 1, true
}

// back returns items, the last that were dealt to a worker, to its run.
func (s *shares) back(worker, items int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.runs[worker]
	r.next -= items
}

// worthwhile reports whether there is something to do for a worker, or
// to take for one that has nothing left.
func (s *shares) worthwhile(worker int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs[worker].len() > 0 || s.runs[s.longest()].len() >= leastTaken
}

// take makes sure that a worker has a run, if need be half of the longest.
// It returns false if there is none long enough.
func (s *shares) take(worker int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs[worker].len() > 0 {
		return true
	}
	from := &s.runs[s.longest()]
	if from.len() < leastTaken {
		return false
	}
	middle := s.boundary(*from)
	s.runs[worker] = run{middle, from.end}
	from.end = middle
	return true
}

func (s *shares) longest() int {
	longest := 0
	for i, r := range s.runs {
		if r.len() > s.runs[longest].len() {
			longest = i
		}
	}
	return longest
}

// boundary returns the place nearest to the middle of r, and in the middle
// half of it, where no items are torn apart; the middle if there is none.
func (s *shares) boundary(r run) int {
	middle := r.next + r.len()/2
	for d := range r.len() / 4 {
		for _, item := range []int{middle - d, middle + d} {
			if !s.joined(item) {
				return item
			}
		}
	}
	return middle
}
