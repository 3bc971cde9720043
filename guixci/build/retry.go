package build

// retry forgets that a derivation failed, and what failed on its account.
func (r *run) retry(drv StorePath) {
	n := r.nodes[drv]
	if n == nil || !n.failed() {
		return
	}
	n.forget(r)
	forgotten := []*node{n}
	for i := 0; i < len(forgotten); i++ {
		for _, p := range forgotten[i].neededBy {
			if p.failed() && p.result.Culprit != "" {
				p.forget(r)
				forgotten = append(forgotten, p)
			}
		}
	}
	for _, n := range forgotten {
		n.revive()
	}
}

// failed reports whether n has a failure that can be forgotten: not one of
// the derivation, which is not there.
func (n *node) failed() bool {
	if n.failure != nil && !n.failure.Remembered {
		return false
	}
	return n.result != nil && n.result.Cause != Succeeded && n.result.Cause != Cancelled
}

// forget takes back the result of n. If it was known beforehand it is not known what n needs.
func (n *node) forget(r *run) {
	n.result = nil
	if n.failure != nil && n.failure.Remembered {
		r.plan(n)
	}
}
