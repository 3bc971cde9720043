package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// errStuck is returned should derivations wait for each other.
// The names of derivations contain hashes of what they need, so a store cannot hold such ones.
var errStuck = errors.New("derivations wait for each other")

// A run is the state of one Run. All of it belongs to that goroutine, which
// hears from the planner and the builds by channels only.
type run struct {
	s     *Scheduler
	nodes map[StorePath]*node
	count int // of nodes so far
	ready queue

	planning bool        // the planner is at work
	backlog  []Job       // waits for it
	again    []*item     // and so do these, which are to be expanded
	open     int         // active nodes
	running  int         // attempts under way
	waiting  []delayed   // nodes that are tried again later
	late     []StorePath // cancelled while the planner may be looking at them
	sealed   bool

	plans    chan *plan
	outcomes chan outcome
	timer    *time.Timer // for the first of waiting
}

// A delayed node is tried again at some time.
type delayed struct {
	node *node
	at   time.Time
}

// Run builds until [Scheduler.Seal] was called and every job is done, and then returns
// nil, whatever became of them. When ctx ends it stops what is under way, says of
// everything that is not done that it was cancelled, and returns ctx's cause.
// Nothing it started is left when it returns.
func (s *Scheduler) Run(ctx context.Context) error {
	s.init()
	r := &run{
		s:        s,
		nodes:    map[StorePath]*node{},
		plans:    make(chan *plan),
		outcomes: make(chan outcome, s.slots()),
		timer:    time.NewTimer(0),
	}
	defer r.timer.Stop()
	defer s.live.endAll()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	requests := make(chan request)
	var planner sync.WaitGroup
	planner.Go(func() { s.planAll(ctx, requests, r.plans) })
	defer planner.Wait()
	defer close(requests)
	if err := r.loop(ctx, requests); err != nil {
		cancel(err)
		r.abort()
		return fmt.Errorf("build: %w", err)
	}
	return nil
}

// planAll makes plans on request until there are no more requests.
func (s *Scheduler) planAll(ctx context.Context, requests <-chan request, plans chan<- *plan) {
	p := s.newPlanner()
	for q := range requests {
		plans <- p.make(ctx, q)
	}
}

// loop reacts to whatever happens next.
func (r *run) loop(ctx context.Context, requests chan<- request) error {
	for {
		r.dispatch(ctx)
		next := r.request(requests)
		if r.idle() {
			if r.open > 0 {
				return errStuck
			}
			if r.sealed {
				return nil
			}
		}
		select {
		case <-r.s.wake:
			r.hear()
		case next <- r.portion():
			r.backlog, r.again = r.backlog[len(r.portion().jobs):], nil
			r.planning = true
		case made := <-r.plans:
			r.planning = false
			r.enter(made)
		case o := <-r.outcomes:
			r.conclude(o)
		case <-r.timer.C:
			r.resume()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// idle reports whether nothing can happen any more unless somebody adds a job.
func (r *run) idle() bool {
	return !r.planning && len(r.backlog) == 0 && len(r.again) == 0 && r.running == 0 && len(r.waiting) == 0 && len(r.ready) == 0
}

// request returns where to send the next portion of jobs; nil if there is none.
func (r *run) request(requests chan<- request) chan<- request {
	if r.planning || len(r.backlog) == 0 && len(r.again) == 0 {
		return nil
	}
	return requests
}

func (r *run) portion() request {
	return request{r.backlog[:min(len(r.backlog), planAtOnce)], r.again}
}

// hear reads the inbox.
func (r *run) hear() {
	heard := r.s.take()
	r.sealed = heard.sealed
	for _, drv := range heard.retry {
		r.retry(drv)
	}
	r.backlog = append(r.backlog, heard.added...)
	for _, drv := range heard.cancel {
		r.withdraw(drv)
	}
}

// dispatch gives the free slots something to do.
func (r *run) dispatch(ctx context.Context) {
	for r.running < r.s.slots() && len(r.ready) > 0 {
		r.start(ctx, r.ready.next())
	}
}

// start begins an attempt in a goroutine that always sends its outcome.
func (r *run) start(ctx context.Context, n *node) {
	ctx, cancel := context.WithCancel(ctx)
	n.attempts++
	n.stop = cancel
	r.running++
	if n.attempts == 1 {
		n.first = Result{Derivation: n.item.drv, Outputs: outputMap(n.item.outputs), Started: time.Now(), Log: logName(r.s.Logs, n.item.drv)}
		r.s.live.begin(n.item.drv)
		r.notify(Event{Kind: Started, Derivation: n.item.drv, Result: n.first})
	}
	a := attempt{s: r.s, number: n.attempts, fetch: n.fetch, result: n.first, limits: n.limits.or(r.s.Limits).or(defaultLimits)}
	go func() {
		defer cancel()
		r.outcomes <- outcome{n, a.make(ctx)}
	}()
}

// An outcome is what an attempt came to.
type outcome struct {
	node   *node
	result Result
}

// conclude settles a node, or has it tried again.
func (r *run) conclude(o outcome) {
	n := o.node
	r.running--
	n.stop = nil
	o.result.Attempts = n.attempts
	if n.stopping && o.result.Cause != Succeeded {
		o.result.Cause, o.result.Message = Cancelled, ""
	}
	retry := o.result.Cause.Machinery() && n.attempts-n.base < r.s.attempts()
	if n.active() && (retry || n.fetch && o.result.Cause != Succeeded && o.result.Cause != Cancelled) {
		r.s.logger().Warn("build: trying again", "derivation", n.item.drv, "cause", o.result.Cause, "message", o.result.Message)
		r.notify(Event{Kind: Retrying, Derivation: n.item.drv, Result: o.result})
		if retry {
			r.delay(n, r.s.backoff(n.attempts-n.base))
		} else {
			r.plan(n)
		}
		return
	}
	n.stopping = false
	r.settle(n, o.result)
}

// plan has the planner find out what n needs after all.
func (r *run) plan(n *node) {
	n.fetch, n.failure, n.base, n.expanding = false, nil, n.attempts, true
	r.again = append(r.again, n.item)
}

// delay has n tried again after d.
func (r *run) delay(n *node, d time.Duration) {
	r.waiting = append(r.waiting, delayed{n, time.Now().Add(d)})
	r.setTimer()
}

// resume makes ready what has waited long enough.
func (r *run) resume() {
	now := time.Now()
	r.waiting = slices.DeleteFunc(r.waiting, func(d delayed) bool {
		due := !d.at.After(now)
		if due {
			r.offer(d.node)
		}
		return due
	})
	r.setTimer()
}

func (r *run) setTimer() {
	if len(r.waiting) == 0 {
		return
	}
	first := slices.MinFunc(r.waiting, func(a, b delayed) int { return a.at.Compare(b.at) })
	r.timer.Reset(time.Until(first.at))
}

// abort waits for what is under way, whose context has ended, and says of
// all that is not done that it was cancelled.
func (r *run) abort() {
	for r.running > 0 {
		o := <-r.outcomes
		r.running--
		o.node.stop = nil
		o.result.Attempts = o.node.attempts
		r.tell(o.node, o.result)
	}
	if r.planning {
		r.enter(<-r.plans)
	}
	for _, j := range append(r.backlog, r.s.take().added...) {
		r.report(j, cancelled(j.Derivation, ""))
	}
	for _, n := range slices.SortedFunc(maps.Values(r.nodes), func(a, b *node) int { return a.number - b.number }) {
		if n.active() {
			r.tell(n, cancelled(n.item.drv, ""))
		}
	}
}

func cancelled(drv, culprit StorePath) Result {
	return Result{Derivation: drv, Cause: Cancelled, Culprit: culprit, Stopped: time.Now()}
}

func (r *run) notify(e Event) {
	if r.s.Notify != nil {
		r.s.Notify(e)
	}
}

// report says that a job is done.
func (r *run) report(j Job, result Result) {
	r.notify(Event{Kind: JobDone, Derivation: j.Derivation, Result: result, Job: j})
}
