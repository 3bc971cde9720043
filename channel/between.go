package channel

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"time"
)

// A Note is what a commit says of itself.
type Note struct {
	Commit  Commit    `json:"commit"`
	Subject string    `json:"subject"` // the first line of its message
	Author  string    `json:"author"`  // name, without address
	Time    time.Time `json:"time"`    // of the committer
}

// Between returns the commits that to has and from has not, newest first, at most
// max of them, and how many there are. It looks no further back than from is old, so
// dates that are wrong by years may add some. A commit that is not in the mirror is an error for which
// errors.Is(err, fs.ErrNotExist).
func (r *Repository) Between(ctx context.Context, from, to Commit, max int) (notes []Note, total int, err error) {
	much := r.forReadingMuch()
	defer func() { err = errors.Join(err, much.close()) }()
	w := &newestFirst{repo: much, known: map[objectID]*dated{}}
	err = errors.Join(w.add(from, true), w.add(to, false))
	for err == nil && w.open > 0 {
		var d *dated
		if d, err = w.next(ctx); err != nil || d.old {
			continue
		}
		if total++; len(notes) < max {
			notes = append(notes, Note{Commit: d.id.commit(), Subject: d.subject(), Author: d.author, Time: d.when})
		}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("find commits from %s to %s: %w", from.Short(), to.Short(), err)
	}
	return notes, total, nil
}

// A dated commit is in the queue, or was.
type dated struct {
	id objectID
	*commitObject
	old  bool // the starting point has it
	done bool // out of the queue
}

// newestFirst visits commits by their dates. The queue is a heap.
type newestFirst struct {
	repo  *Repository
	queue []*dated
	known map[objectID]*dated
	open  int // commits in the queue that are not old
}

func (w *newestFirst) add(c Commit, old bool) error {
	id, err := c.id()
	if err != nil {
		return err
	}
	return w.visit(id, old)
}

// visit puts a commit into the queue, or spreads the word that it is old.
func (w *newestFirst) visit(id objectID, old bool) error {
	d := w.known[id]
	if d == nil {
		object, err := w.repo.commit(id)
		if err != nil {
			return err
		}
		d = &dated{id: id, commitObject: object, old: old}
		w.known[id] = d
		heap.Push(w, d)
		if !old {
			w.open++
		}
		return nil
	}
	if old && !d.old {
		d.old = true
		if !d.done {
			w.open--
		}
	}
	return nil
}

// next takes the newest commit out of the queue and puts its parents in.
func (w *newestFirst) next(ctx context.Context) (*dated, error) {
	d := heap.Pop(w).(*dated)
	d.done = true
	if !d.old {
		w.open--
	}
	for _, parent := range d.parents {
		if err := w.visit(parent, d.old); err != nil {
			return nil, err
		}
	}
	return d, ctx.Err()
}

func (w *newestFirst) Len() int           { return len(w.queue) }
func (w *newestFirst) Less(i, j int) bool { return w.queue[i].when.After(w.queue[j].when) }
func (w *newestFirst) Swap(i, j int)      { w.queue[i], w.queue[j] = w.queue[j], w.queue[i] }

// Push is for package heap.
func (w *newestFirst) Push(x any) { w.queue = append(w.queue, x.(*dated)) }

// Pop is for package heap.
func (w *newestFirst) Pop() any {
	last := len(w.queue) - 1
	d := w.queue[last]
	w.queue = w.queue[:last]
	return d
}
