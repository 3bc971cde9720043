package channel

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A job is one commit to be verified.
type job struct {
	at      int32 // in the history
	id      objectID
	object  *commitObject // nil when it has to be read
	entry   authorizationEntry
	parents []parent
}

// A parent is what verifying a commit needs to know of its parent.
type parent struct {
	id    objectID
	entry authorizationEntry
}

// A checker verifies commits, several at once, and counts who signed them.
type checker struct {
	verifier *verifier
	workers  int // 0 means one per processor
	history  *history

	mu     sync.Mutex // guards the rest
	count  tally
	failed commitSet
	broken bool // something was added to failed lately
}

// ahead limits how many commits wait to be verified, and the memory they take.
const ahead = 64

// run verifies what produce hands out. A commit that is refused is added to failed; the error
// is produce's, or about the repository.
func (c *checker) run(ctx context.Context, produce func(context.Context, chan<- job) error) error {
	group, running := errgroup.WithContext(ctx)
	jobs := make(chan job, ahead)
	for range cmp.Or(c.workers, runtime.GOMAXPROCS(0)) {
		group.Go(func() error {
			for j := range jobs {
				if err := c.one(j); err != nil {
					return err
				}
			}
			return nil
		})
	}
	produced := produce(running, jobs)
	close(jobs)
	err := group.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil: // produced is that it was cancelled
		return err
	}
	return produced
}

// one verifies a commit. The error is not about the commit.
func (c *checker) one(j job) error {
	signer, when, err := c.verifier.verify(j)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.count.add(signer, when)
		return nil
	}
	if !isRefused(err) && !errors.As(err, new(*malformedError)) {
		return err
	}
	c.failed.add(j.at)
	c.broken = true
	return nil
}

func (c *checker) isBroken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

// job describes a commit. Its parents have been read, unless an error is returned.
func (c *checker) job(i int32, object *commitObject) (job, error) {
	j := job{at: i, id: c.history.nodes[i].id, object: object}
	parents, err := c.history.parents(i)
	if err != nil {
		return j, err
	}
	if j.entry, err = c.entry(i, object); err != nil {
		return j, err
	}
	for _, p := range parents {
		e, err := c.entry(p, nil)
		if err != nil {
			return j, err
		}
		j.parents = append(j.parents, parent{c.history.nodes[p].id, e})
	}
	return j, nil
}

// entry returns what a commit, whose object is nil when it has to be read for that, has by the
// name .guix-authorizations.
func (c *checker) entry(i int32, object *commitObject) (e authorizationEntry, err error) {
	if known := c.history.nodes[i].entry; known != none {
		return c.history.entries[known], nil
	}
	if object == nil {
		if object, err = c.history.read(i); err != nil {
			return e, err
		}
	}
	if e, err = c.verifier.repo.authorizations(object.tree); err == nil {
		c.history.nodes[i].entry = c.history.intern(e)
	}
	return e, err
}

// inOrder verifies commits, parents before children, and stops some time after the
// first that is refused.
func (c *checker) inOrder(ctx context.Context, commits []int32) error {
	return c.run(ctx, func(ctx context.Context, jobs chan<- job) error {
		for _, i := range commits {
			if c.isBroken() {
				return nil
			}
			j, err := c.job(i, nil)
			if err != nil {
				return err
			}
			select {
			case jobs <- j:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
}

// difference returns the commits to be verified, parents before children, and those that have
// been already.
func (c *checker) difference(ctx context.Context, d *difference, oldest time.Time) (order []int32, done commitSet, err error) {
	if err := d.begin(ctx); err != nil {
		return nil, nil, err
	}
	if done, err = c.walking(ctx, d, oldest); err != nil {
		return nil, nil, err
	}
	order, err = d.commits(ctx)
	return order, done, err
}

// rest verifies what has not been verified yet. The error is that of the first commit
// in order that is refused, always the same.
func (c *checker) rest(ctx context.Context, order []int32, done commitSet) error {
	var wanted commitSet
	for _, i := range order {
		wanted.add(i)
	}
	for i := range done.all() {
		if !wanted.has(i) { // it comes before the introduction, for all its date
			c.count, c.failed, c.broken, done = tally{}, nil, false, nil
			break
		}
	}
	left := slices.DeleteFunc(slices.Clone(order), done.has)
	c.broken = false // what was refused while walking may not be the first
	if err := c.inOrder(ctx, left); err != nil {
		return err
	}
	for _, i := range order {
		if c.failed.has(i) {
			j, err := c.job(i, nil)
			if err == nil {
				_, _, err = c.verifier.verify(j)
			}
			return err
		}
	}
	return nil
}

// maxWaiting limits how many commits are kept until their parents have been read.
const maxWaiting = 4096

// A walker walks a difference from its target, and has commits verified as they come
// by: nothing is read twice then. It leaves out those older than the introduction,
// which may turn out to come before it.
type walker struct {
	*checker
	oldest time.Time   // of the commits that are verified
	stop   []commitSet // where to turn back
	seen   commitSet
	queue  []int32   // to be read, those that were read first
	held   []waiting // for their parents to be read
	done   commitSet // handed out
}

// A waiting commit is handed out when so many of the queue have been read.
type waiting struct {
	at     int32
	object *commitObject
	until  int
}

// walking verifies what it meets on the way from the target, and returns what that was.
func (c *checker) walking(ctx context.Context, d *difference, oldest time.Time) (commitSet, error) {
	w := &walker{checker: c, oldest: oldest, stop: []commitSet{d.known, d.introduction()}}
	w.meet(d.at(d.target))
	err := c.run(ctx, w.produce)
	return w.done, err
}

func (w *walker) produce(ctx context.Context, jobs chan<- job) error {
	for read := 0; read < len(w.queue); {
		i := w.queue[read]
		object, err := w.history.read(i)
		if err != nil {
			return err
		}
		// Reading is this goroutine's only: those that verify would wait for each other.
		if _, err := w.entry(i, object); err != nil {
			return err
		}
		parents, _ := w.history.parents(i)
		for _, p := range parents {
			w.meet(p)
		}
		if !object.when.Before(w.oldest) && len(w.held) < maxWaiting {
			w.held = append(w.held, waiting{i, object, len(w.queue)})
		}
		read++
		if err := w.release(ctx, jobs, read); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) meet(i int32) {
	if !w.seen.has(i) && !in(i, w.stop) {
		w.seen.add(i)
		w.queue = append(w.queue, i)
	}
}

// release hands out the commits whose parents have been read by now.
func (w *walker) release(ctx context.Context, jobs chan<- job, read int) error {
	for ; len(w.held) > 0 && w.held[0].until <= read; w.held = w.held[1:] {
		j, err := w.job(w.held[0].at, w.held[0].object)
		if err != nil {
			return err
		}
		select {
		case jobs <- j:
			w.done.add(w.held[0].at)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
