package build

// maxPriority is later than any job's.
const maxPriority = 1 << 30

// enter takes a plan into the graph.
func (r *run) enter(p *plan) {
	fresh := r.grow(p.items)
	var waiting []Job
	for _, pj := range p.jobs {
		if pj.result != nil {
			r.report(pj.job, *pj.result)
			continue
		}
		n := pj.item.node
		n.limits = pj.job.Limits.or(n.limits)
		if pj.job.Priority < n.priority {
			n.priority = pj.job.Priority
			if !n.fresh {
				r.urge(n)
			}
		}
		waiting = append(waiting, pj.job)
	}
	r.rank(fresh)
	r.expand(p.expanded)
	for _, j := range waiting {
		r.attach(r.nodes[j.Derivation], j)
	}
	for _, n := range fresh {
		if n.failure != nil {
			r.settle(n, *n.failure)
		}
	}
	r.withdrawLate()
}

// grow makes nodes of items and connects them with those they need.
func (r *run) grow(items []*item) []*node {
	fresh := make([]*node, 0, len(items))
	for _, it := range items {
		n := &node{item: it, fetch: it.fetch, failure: it.failure, priority: maxPriority, index: -1, fresh: true, number: r.count}
		it.node = n
		r.count++
		r.nodes[it.drv] = n
		fresh = append(fresh, n)
	}
	for _, n := range fresh {
		n.link(n.item.needs)
	}
	return fresh
}

// link notes that n needs what some items stand for.
func (n *node) link(needs []*item) {
	for _, it := range needs {
		d := it.node
		n.needs = append(n.needs, d)
		d.neededBy = append(d.neededBy, n)
		if !d.succeeded() {
			n.waiting++
		}
	}
}

// expand has nodes built of which it was not known before what they need.
func (r *run) expand(expanded []expansion) {
	for _, x := range expanded {
		n := x.item.node
		n.expanding = false
		n.link(x.needs)
		r.urge(n)
		switch {
		case n.active() && x.result != nil:
			r.settle(n, *x.result)
		case n.active():
			r.wantNeeds(n)
		}
	}
}

// wantNeeds has an active node want what it has just been linked with.
func (r *run) wantNeeds(n *node) {
	var broken *node
	for _, d := range n.needs {
		switch {
		case d.result == nil || d.result.Cause == Cancelled:
			r.want(d)
		case d.result.Cause != Succeeded:
			broken = d
		}
	}
	if broken != nil {
		r.settle(n, follow(n, broken.result))
	}
	r.offer(n)
}

// rank finds how urgent the fresh nodes are, each after all that need it,
// and passes on what changes for the others. They are fresh no longer.
func (r *run) rank(fresh []*node) {
	for _, n := range fresh {
		for _, d := range n.needs {
			d.above++
		}
	}
	var todo []*node
	for _, n := range fresh {
		if n.above == 0 {
			todo = append(todo, n)
		}
	}
	for len(todo) > 0 {
		n := todo[0]
		todo = todo[1:]
		n.fresh = false
		for _, d := range n.needs {
			news := d.raise(n)
			d.above--
			switch {
			case d.fresh && d.above == 0:
				todo = append(todo, d)
			case !d.fresh && news:
				r.urge(d)
			}
		}
	}
}

// urge passes on that n, whose own place is settled, has become more urgent.
func (r *run) urge(n *node) {
	todo := []*node{n}
	for len(todo) > 0 {
		n := todo[0]
		todo = todo[1:]
		r.ready.fix(n)
		for _, d := range n.needs {
			if d.raise(n) && !d.fresh {
				todo = append(todo, d)
			}
		}
	}
}

// attach has a job wait for n, or tells it at once.
func (r *run) attach(n *node, j Job) {
	if n.result != nil && n.result.Cause != Cancelled {
		r.report(j, *n.result)
		return
	}
	n.jobs = append(n.jobs, j)
	r.want(n)
}

// want counts one more who wants n. What somebody has begun to want must be
// built, and so must what it needs; what needs something broken is broken.
func (r *run) want(n *node) {
	var doomed []verdict
	todo := []*node{n}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if n.result != nil {
			n.revive()
		}
		n.wants++
		if n.wants > 1 {
			continue
		}
		r.open++
		for _, d := range n.needs {
			switch {
			case d.result == nil || d.result.Cause == Cancelled:
				todo = append(todo, d)
			case d.result.Cause != Succeeded:
				doomed = append(doomed, verdict{n, follow(n, d.result)})
			}
		}
		r.offer(n)
	}
	for _, v := range doomed {
		r.settle(v.node, v.result)
	}
}

// offer makes n ready to be built if nothing is in the way.
func (r *run) offer(n *node) {
	if n.active() && n.waiting == 0 && n.stop == nil && !n.expanding {
		r.ready.add(n)
	}
}

// A verdict is a result on its way to a node.
type verdict struct {
	node   *node
	result Result
}

// settle gives n its result. If it succeeded, those that waited for it last are ready;
// otherwise all that need it share its fate, directly or not.
func (r *run) settle(n *node, result Result) {
	todo := []verdict{{n, result}}
	for len(todo) > 0 {
		v := todo[0]
		todo = todo[1:]
		if v.node.result != nil {
			continue
		}
		r.close(v.node, v.result)
		for _, p := range v.node.neededBy {
			switch {
			case v.node.succeeded():
				p.waiting--
				r.offer(p)
			case p.result == nil:
				todo = append(todo, verdict{p, follow(p, v.node.result)})
			}
		}
	}
}

// follow is the result of n on account of that of something it needs.
func follow(n *node, r *Result) Result {
	result := Result{Derivation: n.item.drv, Cause: DependencyFailed, Culprit: r.Derivation, Stopped: r.Stopped}
	if r.Culprit != "" {
		result.Culprit = r.Culprit
	}
	if r.Cause != DependencyFailed && !r.Cause.Real() { // that says nothing about n either
		result.Cause = r.Cause
	}
	return result
}

// close enters the result of n alone and tells whom it concerns.
func (r *run) close(n *node, result Result) {
	active := n.active()
	r.ready.remove(n)
	r.tell(n, result)
	if active {
		r.open--
		r.release(n, result.Cause == Cancelled)
	}
}

// tell gives n its result and notifies of it and of the jobs that waited for it.
func (r *run) tell(n *node, result Result) {
	concerns := n.active() || n.attempts > 0
	result.Derivation = n.item.drv
	if n.attempts == 0 {
		result.Outputs = outputMap(n.item.outputs)
	} else {
		result.Outputs, result.Started, result.Log = n.first.Outputs, n.first.Started, n.first.Log
		r.s.live.end(n.item.drv)
	}
	n.result = &result
	if concerns {
		r.notify(Event{Kind: Finished, Derivation: n.item.drv, Result: result})
	}
	for _, j := range n.jobs {
		r.report(j, result)
	}
	n.jobs = nil
}

// release counts one less who wants each of what n needs. What nobody wants any
// more is not built; if it is being built, only a cancellation stops it.
func (r *run) release(n *node, stop bool) {
	todo := []*node{n}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, d := range n.needs {
			if d.result != nil {
				continue
			}
			if d.wants--; d.wants > 0 {
				continue
			}
			r.open--
			r.ready.remove(d)
			if stop {
				d.halt()
			}
			todo = append(todo, d)
		}
	}
}

// withdraw cancels a derivation that is not done.
func (r *run) withdraw(drv StorePath) {
	kept := r.backlog[:0:0]
	for _, j := range r.backlog {
		if j.Derivation == drv {
			r.report(j, cancelled(drv, ""))
		} else {
			kept = append(kept, j)
		}
	}
	r.backlog = kept
	if r.planning {
		r.late = append(r.late, drv) // it may be in the plan that is being made
	}
	n := r.nodes[drv]
	switch {
	case n == nil || !n.active():
	case n.stop != nil:
		n.halt() // the outcome settles it
	default:
		r.settle(n, cancelled(drv, ""))
	}
}

// withdrawLate cancels what was to be cancelled while it was being planned.
func (r *run) withdrawLate() {
	late := r.late
	r.late = nil
	for _, drv := range late {
		r.withdraw(drv)
	}
}
