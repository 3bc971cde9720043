package channel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// A history knows the commits of a repository that it has walked. Of each it keeps
// some sixty bytes whatever the size of the commit: a walk has to know where it has been.
type history struct {
	repo  *Repository
	index map[objectID]int32 // position in nodes
	nodes []node
	edges []int32 // the parents of all nodes, one node's after another's
}

// A node is what is kept of a commit.
type node struct {
	id, tree     objectID
	begin, after int32 // its parents are edges[begin:after]; both are unread before it is read
}

const unread = -1

// A commitSet has the positions of commits in a history. The zero value is empty.
type commitSet []bool

func (s commitSet) has(i int32) bool { return int(i) < len(s) && s[i] }

func (s *commitSet) add(i int32) {
	for int(i) >= len(*s) {
		*s = append(*s, false)
	}
	(*s)[i] = true
}

func newHistory(r *Repository) *history {
	return &history{repo: r, index: map[objectID]int32{}}
}

// at returns the position of a commit, which need not exist.
func (h *history) at(id objectID) int32 {
	i, ok := h.index[id]
	if !ok {
		i = int32(len(h.nodes))
		h.index[id] = i
		h.nodes = append(h.nodes, node{id: id, begin: unread, after: unread})
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
	if h.nodes[i].begin == unread {
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
	if h.nodes[i].begin == unread {
		parents := h.all(c.parents) // may move nodes
		n := &h.nodes[i]
		n.tree, n.begin = c.tree, int32(len(h.edges))
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
