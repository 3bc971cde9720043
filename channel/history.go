package channel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// A history walks the commits of a repository, remembering what is needed again.
type history struct {
	repo  *Repository
	nodes map[objectID]node
}

// A node is what is remembered of a commit.
type node struct {
	tree    objectID
	parents []objectID
}

type idSet map[objectID]bool

func newHistory(r *Repository) *history {
	return &history{repo: r, nodes: map[objectID]node{}}
}

func (h *history) of(id objectID) ([]objectID, error) {
	if n, ok := h.nodes[id]; ok {
		return n.parents, nil
	}
	c, err := h.repo.commit(id)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("read commit %v: %w: it is missing", id, errCorrupt)
	}
	if err != nil {
		return nil, err
	}
	h.nodes[id] = node{c.tree, c.parents}
	return c.parents, nil
}

// walk adds to seen the commits reachable from start without passing through
// stop or what was seen, and returns them, parents before children.
// rooted reports whether one of them has no parents.
func (h *history) walk(ctx context.Context, start []objectID, seen idSet, stop ...idSet) (order []objectID, rooted bool, err error) {
	stopped := func(id objectID) bool {
		for _, s := range stop {
			if s[id] {
				return true
			}
		}
		return seen[id]
	}
	type frame struct {
		id      objectID
		parents []objectID // still to be visited
	}
	var stack []frame
	enter := func(id objectID) error {
		parents, err := h.of(id)
		if err != nil {
			return err
		}
		seen[id] = true
		rooted = rooted || len(parents) == 0
		stack = append(stack, frame{id, parents})
		return ctx.Err()
	}
	for _, s := range start {
		if !stopped(s) {
			err = enter(s)
		}
		for len(stack) > 0 && err == nil {
			top := &stack[len(stack)-1]
			if len(top.parents) == 0 {
				order = append(order, top.id)
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

// difference returns the commits in the closure of target that are not in that of
// intro or of one of the trusted, parents before children. What lies before the
// introduction is only walked when some path passes the introduction by.
func (h *history) difference(ctx context.Context, target, intro objectID, trusted []objectID) ([]objectID, error) {
	known, introduction := idSet{}, idSet{intro: true}
	_, rooted, err := h.walk(ctx, trusted, known, introduction)
	if err != nil {
		return nil, err
	}
	order, passedBy, err := h.walk(ctx, []objectID{target}, idSet{}, known, introduction)
	if err != nil || !rooted && !passedBy {
		return order, err
	}
	before := idSet{}
	if _, _, err := h.walk(ctx, []objectID{intro}, before); err != nil {
		return nil, err
	}
	order, _, err = h.walk(ctx, []objectID{target}, idSet{}, known, before)
	return order, err
}

// descends reports whether one of ancestors is target or comes before it.
func (h *history) descends(ctx context.Context, target objectID, ancestors []objectID) (bool, error) {
	wanted := idSet{}
	for _, a := range ancestors {
		wanted[a] = true
	}
	for queue, seen := []objectID{target}, (idSet{target: true}); len(queue) > 0; queue = queue[1:] {
		if wanted[queue[0]] {
			return true, ctx.Err()
		}
		parents, err := h.of(queue[0])
		if err != nil {
			return false, err
		}
		for _, p := range parents {
			if !seen[p] {
				seen[p] = true
				queue = append(queue, p)
			}
		}
	}
	return false, ctx.Err()
}
