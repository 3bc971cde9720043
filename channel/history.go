package channel

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"iter"
)

// A history knows the commits of a repository that it has walked: a walk has to know where it
// has been. Of each it keeps some fifty bytes, whatever the size of the commit. What else is
// kept is bounded, by the number of different .guix-authorizations if by nothing else.
type history struct {
	repo  *Repository
	nodes []node
	edges []int32 // the parents of all nodes, one node's after another's
	// table finds nodes by their ids: each slot has a position in nodes, or none. What follows the
	// slot an id belongs in is where it is if that was taken.
	table []int32
	seed  maphash.Seed // so that nobody can choose ids that share a slot
	// entries are what trees have by the name .guix-authorizations: few are different.
	entries []authorizationEntry
	known   map[authorizationEntry]int32 // positions in entries
}

// A node is what is kept of a commit.
type node struct {
	id           objectID
	begin, after int32 // its parents are edges[begin:after]; both are none before it is read
	entry        int32 // position in entries; none before somebody asked
}

const none = -1

// A commitSet has the positions of commits in a history. The zero value is empty.
type commitSet []uint64

func (s commitSet) has(i int32) bool { return int(i>>6) < len(s) && s[i>>6]>>(i&63)&1 == 1 }

func (s *commitSet) add(i int32) {
	for int(i>>6) >= len(*s) {
		*s = append(*s, 0)
	}
	(*s)[i>>6] |= 1 << (i & 63)
}

// all yields the positions.
func (s commitSet) all() iter.Seq[int32] {
	return func(yield func(int32) bool) {
		for i := range int32(len(s) * 64) {
			if s.has(i) && !yield(i) {
				return
			}
		}
	}
}

func newHistory(r *Repository) *history {
	return &history{repo: r, seed: maphash.MakeSeed(), known: map[authorizationEntry]int32{}}
}

// at returns the position of a commit, which need not exist.
func (h *history) at(id objectID) int32 {
	if 2*len(h.nodes) >= len(h.table) {
		h.grow()
	}
	slot := h.slot(id)
	if h.table[slot] == none {
		h.table[slot] = int32(len(h.nodes))
		h.nodes = append(h.nodes, node{id: id, begin: none, after: none, entry: none})
	}
	return h.table[slot]
}

// slot returns the slot that has an id, or the empty one where it belongs.
func (h *history) slot(id objectID) int {
	mask := len(h.table) - 1
	i := int(maphash.Bytes(h.seed, id[:])) & mask
	for h.table[i] != none && h.nodes[h.table[i]].id != id {
		i = (i + 1) & mask
	}
	return i
}

// grow makes the table, whose size is a power of two, twice as large.
func (h *history) grow() {
	h.table = make([]int32, max(64, 2*len(h.table)))
	for i := range h.table {
		h.table[i] = none
	}
	for i := range h.nodes {
		h.table[h.slot(h.nodes[i].id)] = int32(i)
	}
}

// intern returns the position of an entry.
func (h *history) intern(e authorizationEntry) int32 {
	i, ok := h.known[e]
	if !ok {
		i = int32(len(h.entries))
		h.entries, h.known[e] = append(h.entries, e), i
	}
	return i
}

func (h *history) all(ids []objectID) (at []int32) {
	for _, id := range ids {
		at = append(at, h.at(id))
	}
	return at
}

// parents returns those of a commit, which is read when it was not yet.
func (h *history) parents(i int32) ([]int32, error) {
	if h.nodes[i].begin == none {
		if _, err := h.read(i); err != nil {
			return nil, err
		}
	}
	n := &h.nodes[i]
	return h.edges[n.begin:n.after], nil
}

// read reads a commit, which has to be there.
func (h *history) read(i int32) (*commitObject, error) {
	id := h.nodes[i].id
	c, err := h.repo.commit(id)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("read commit %v: %w: it is missing", id, errCorrupt)
	}
	if err != nil {
		return nil, err
	}
	if h.nodes[i].begin == none {
		parents := h.all(c.parents) // may move nodes
		n := &h.nodes[i]
		n.begin = int32(len(h.edges))
		h.edges = append(h.edges, parents...)
		n.after = int32(len(h.edges))
	}
	return c, nil
}

// walk adds to seen the commits reachable from start without passing through
// stop or what was seen, and returns them, parents before children.
// rooted reports whether one of them has no parents.
func (h *history) walk(ctx context.Context, start []objectID, seen *commitSet, stop ...commitSet) (order []int32, rooted bool, err error) {
	stopped := func(i int32) bool { return seen.has(i) || in(i, stop) }
	type frame struct {
		at      int32
		parents []int32 // still to be visited
	}
	var stack []frame
	enter := func(i int32) error {
		parents, err := h.parents(i)
		if err != nil {
			return err
		}
		seen.add(i)
		rooted = rooted || len(parents) == 0
		stack = append(stack, frame{i, parents})
		return ctx.Err()
	}
	for _, s := range h.all(start) {
		if !stopped(s) {
			err = enter(s)
		}
		for len(stack) > 0 && err == nil {
			top := &stack[len(stack)-1]
			if len(top.parents) == 0 {
				order = append(order, top.at)
				stack = stack[:len(stack)-1]
				continue
			}
			next := top.parents[0]
			top.parents = top.parents[1:]
			if !stopped(next) {
				err = enter(next)
			}
		}
		if err != nil {
			return nil, false, err
		}
	}
	return order, rooted, nil
}

func in(i int32, sets []commitSet) bool {
	for _, s := range sets {
		if s.has(i) {
			return true
		}
	}
	return false
}

// A difference is the commits in the closure of target that are not in that of
// intro or of one of the trusted.
type difference struct {
	*history
	target, intro objectID
	trusted       []objectID

	known  commitSet // the trusted and what comes before them, down to the introduction
	rooted bool      // of which one has no parents
}

// begin finds what is known already.
func (d *difference) begin(ctx context.Context) (err error) {
	_, d.rooted, err = d.walk(ctx, d.trusted, &d.known, d.introduction())
	return err
}

func (d *difference) introduction() (s commitSet) {
	s.add(d.at(d.intro))
	return s
}

// commits returns the difference, parents before children. What lies before the
// introduction is only walked when some path passes the introduction by.
func (d *difference) commits(ctx context.Context) ([]int32, error) {
	target := []objectID{d.target}
	order, passedBy, err := d.walk(ctx, target, new(commitSet), d.known, d.introduction())
	if err != nil || !d.rooted && !passedBy {
		return order, err
	}
	var before commitSet
	if _, _, err := d.walk(ctx, []objectID{d.intro}, &before); err != nil {
		return nil, err
	}
	order, _, err = d.walk(ctx, target, new(commitSet), d.known, before)
	return order, err
}

// descends reports whether one of ancestors is target or comes before it.
func (h *history) descends(ctx context.Context, target objectID, ancestors []objectID) (bool, error) {
	var wanted, seen commitSet
	for _, a := range h.all(ancestors) {
		wanted.add(a)
	}
	queue := []int32{h.at(target)}
	seen.add(queue[0])
	for ; len(queue) > 0; queue = queue[1:] {
		if wanted.has(queue[0]) {
			return true, ctx.Err()
		}
		parents, err := h.parents(queue[0])
		if err != nil {
			return false, err
		}
		for _, p := range parents {
			if !seen.has(p) {
				seen.add(p)
				queue = append(queue, p)
			}
		}
	}
	return false, ctx.Err()
}
