package build

import "container/heap"

// A node is a derivation that is, or was, to be built. All nodes belong to the
// goroutine of Run.
type node struct {
	item    *item
	limits  Limits
	fetch   bool    // is to be fetched, not built
	failure *Result // why it is not to be tried
	jobs    []Job   // that wait for it

	needs    []*node // derivations it needs that were missing when it was planned
	neededBy []*node
	waiting  int // how many of needs have not succeeded
	wants    int // how many jobs, and active nodes in neededBy without a result, want it

	priority int // the lowest number of those that want it
	rank     int // length of the longest chain that begins here and ends with a job
	above    int // while ranking: fresh nodes that need it and have no final rank yet
	fresh    bool
	number   int // order of arrival
	index    int // in the queue, -1 if not there

	attempts  int
	base      int    // how many of them were of no account: before it was to be built after all
	expanding bool   // the planner is finding out what it needs
	first     Result // Started and Log of the first attempt
	stop      func() // ends the attempt under way; nil if there is none
	stopping  bool   // it was cancelled, or is of no more use
	result    *Result
}

// active reports whether somebody still wants n.
func (n *node) active() bool { return n.wants > 0 && n.result == nil }

func (n *node) succeeded() bool { return n.result != nil && n.result.Cause == Succeeded }

// halt stops the attempt under way, if there is one.
func (n *node) halt() {
	if n.stop != nil {
		n.stopping = true
		n.stop()
	}
}

// revive takes back that n was cancelled: somebody wants it after all.
func (n *node) revive() {
	n.result, n.stopping, n.attempts, n.base, n.wants, n.waiting = nil, false, 0, 0, 0, 0
	for _, d := range n.needs {
		if !d.succeeded() {
			n.waiting++
		}
	}
}

// raise makes d at least as urgent as what needs it, and reports whether that was news.
func (d *node) raise(n *node) bool {
	news := false
	if rank := n.rank + 1; rank > d.rank {
		d.rank, news = rank, true
	}
	if n.priority < d.priority {
		d.priority, news = n.priority, true
	}
	return news
}

// A queue is a heap of the nodes that could be built now, the most urgent first.
type queue []*node

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	a, b := q[i], q[j]
	if a.priority != b.priority {
		return a.priority < b.priority
	}
	if a.rank != b.rank {
		return a.rank > b.rank
	}
	return a.number < b.number
}

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is for package heap.
func (q *queue) Push(x any) {
	n := x.(*node)
	n.index = len(*q)
	*q = append(*q, n)
}

// Pop is for package heap.
func (q *queue) Pop() any {
	last := len(*q) - 1
	n := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	n.index = -1
	return n
}

func (q *queue) add(n *node) {
	if n.index < 0 {
		heap.Push(q, n)
	}
}

func (q *queue) remove(n *node) {
	if n.index >= 0 {
		heap.Remove(q, n.index)
	}
}

func (q *queue) next() *node { return heap.Pop(q).(*node) }

// fix is called after n has become more urgent.
func (q *queue) fix(n *node) {
	if n.index >= 0 {
		heap.Fix(q, n.index)
	}
}
