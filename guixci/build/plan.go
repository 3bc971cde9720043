package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/substitute"
)

// An item is what the planner keeps of a derivation.
type item struct {
	drv     StorePath
	outputs []output
	inputs  []input
	missing bool    // is to be built; a node of it exists or is on its way
	failure *Result // it cannot be read, or is known to fail
}

type output struct {
	name  string
	path  StorePath
	valid bool
}

type input struct {
	item    *item
	outputs []string
}

// lacks reports whether one of the named outputs is missing; no names means all.
func (it *item) lacks(names []string) bool {
	if it.failure != nil {
		return true
	}
	for _, o := range it.outputs {
		if !o.valid && (len(names) == 0 || slices.Contains(names, o.name)) {
			return true
		}
	}
	return false
}

func (it *item) outputMap() map[string]StorePath {
	if it.outputs == nil {
		return nil
	}
	m := make(map[string]StorePath, len(it.outputs))
	for _, o := range it.outputs {
		m[o.name] = o.path
	}
	return m
}

// A plan says what some jobs need.
type plan struct {
	items []*item // missing, and not in an earlier plan; each after one that needs it
	jobs  []planned
}

// A planned job has a result already unless it has to wait for a node.
type planned struct {
	job    Job
	item   *item
	result *Result
}

// A planner finds out what is missing. It looks at the jobs' own derivations, then
// at what the missing ones among them need, and so on, each time asking the
// store about all at once. It belongs to one goroutine.
type planner struct {
	s     *Scheduler
	items map[StorePath]*item
}

// planAtOnce bounds the jobs of one plan, so that building begins before all is known.
const planAtOnce = 2000

// plan finds out what jobs need. If the store does not answer it asks again,
// as often as builds are tried; after that the jobs have failed for want of a daemon.
func (p *planner) plan(ctx context.Context, jobs []Job) *plan {
	for attempt := 1; ; attempt++ {
		made, err := p.try(ctx, jobs)
		if err == nil {
			return made
		}
		if attempt >= p.s.attempts() || ctx.Err() != nil {
			return abandoned(ctx, jobs, err, attempt)
		}
		p.s.logger().Warn("plan builds: trying again", "jobs", len(jobs), "error", err)
		pause(ctx, p.s.backoff(attempt))
	}
}

// pause waits, but not beyond the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// abandoned is the plan of jobs about which nothing could be found out.
func abandoned(ctx context.Context, jobs []Job, err error, attempts int) *plan {
	made := &plan{}
	for _, j := range jobs {
		r := cancelled(j.Derivation, "")
		if ctx.Err() == nil {
			r.Cause, r.Message, r.Attempts = surroundings(err), err.Error(), attempts
		}
		made.jobs = append(made.jobs, planned{job: j, result: &r})
	}
	return made
}

// try makes a plan. Until it has succeeded nothing is marked as missing,
// so that it can be repeated.
func (p *planner) try(ctx context.Context, jobs []Job) (*plan, error) {
	var level []input
	for _, j := range jobs {
		level = append(level, input{item: p.item(j.Derivation)})
	}
	made := &plan{}
	found := map[*item]bool{}
	for len(level) > 0 {
		missing, err := p.missing(ctx, level, found)
		if err != nil {
			return nil, err
		}
		made.items = append(made.items, missing...)
		level = nil
		for _, it := range missing {
			level = append(level, it.inputs...)
		}
	}
	if err := p.planJobs(ctx, made, jobs, found); err != nil {
		return nil, err
	}
	for _, it := range made.items {
		it.missing = true
	}
	return made, nil
}

func (p *planner) item(drv StorePath) *item {
	it := p.items[drv]
	if it == nil {
		it = &item{drv: drv}
		p.items[drv] = it
	}
	return it
}

// missing returns those of the level that have to be built and are not in a plan yet.
func (p *planner) missing(ctx context.Context, level []input, found map[*item]bool) ([]*item, error) {
	if err := p.learn(ctx, level); err != nil {
		return nil, err
	}
	var missing []*item
	for _, in := range level {
		if it := in.item; !it.missing && !found[it] && it.lacks(in.outputs) {
			found[it] = true
			missing = append(missing, it)
		}
	}
	return missing, p.recall(ctx, missing)
}

// learn reads the derivations that are new and asks which of their outputs are valid.
// They are held before that, so that the answer stays true.
func (p *planner) learn(ctx context.Context, level []input) error {
	var fresh []*item
	var hold, ask []StorePath
	read := map[*item]bool{}
	for _, in := range level {
		it := in.item
		if it.outputs != nil || it.failure != nil || read[it] {
			continue
		}
		read[it] = true
		d, err := p.s.Store.Derivation(ctx, it.drv)
		if err != nil {
			if it.failure = unreadable(it.drv, err); it.failure == nil {
				return fmt.Errorf("plan builds: %w", err)
			}
			continue
		}
		fresh = append(fresh, p.compact(it.drv, d))
		hold = append(hold, it.drv)
		for _, o := range d.Outputs {
			ask = append(ask, o.Path)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	if err := p.s.Store.Hold(ctx, append(hold, ask...)); err != nil {
		return fmt.Errorf("plan builds: hold store items: %w", err)
	}
	valid, err := p.s.Store.ValidPaths(ctx, ask)
	if err != nil {
		return fmt.Errorf("plan builds: %w", err)
	}
	p.enter(fresh, valid)
	return nil
}

// compact takes from a derivation what is needed: a whole one with its
// environment is some kilobytes, and there may be 100,000.
func (p *planner) compact(drv StorePath, d *store.Derivation) *item {
	it := &item{drv: drv, outputs: make([]output, len(d.Outputs)), inputs: make([]input, len(d.Inputs))}
	for i, o := range d.Outputs {
		it.outputs[i] = output{name: o.Name, path: o.Path}
	}
	for i, in := range d.Inputs {
		it.inputs[i] = input{item: p.item(in.Derivation), outputs: in.Outputs}
	}
	return it
}

// enter completes the known items with what was learnt of them.
func (p *planner) enter(fresh []*item, valid []StorePath) {
	is := make(map[StorePath]bool, len(valid))
	for _, path := range valid {
		is[path] = true
	}
	for _, it := range fresh {
		for i := range it.outputs {
			it.outputs[i].valid = is[it.outputs[i].path]
		}
		known := p.item(it.drv)
		known.outputs, known.inputs = it.outputs, it.inputs
	}
}

// unreadable is the result of a derivation that is not there or is not one;
// nil if it is the daemon that cannot be asked.
func unreadable(drv StorePath, err error) *Result {
	cause := surroundings(err)
	switch {
	case errors.Is(err, substitute.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		cause = Gone
	case cause == DaemonLost, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil
	}
	return &Result{Derivation: drv, Cause: cause, Message: err.Error(), Stopped: time.Now()}
}

// recall takes known failures for granted; what they need is not looked at.
func (p *planner) recall(ctx context.Context, missing []*item) error {
	if p.s.Known == nil || len(missing) == 0 {
		return nil
	}
	drvs := make([]StorePath, len(missing))
	for i, it := range missing {
		drvs[i] = it.drv
	}
	known, err := p.s.Known(ctx, drvs)
	if err != nil {
		return fmt.Errorf("plan builds: recall failures: %w", err)
	}
	for _, it := range missing {
		if r, ok := known[it.drv]; ok && it.failure == nil {
			r.Derivation, r.Remembered, r.Outputs = it.drv, true, it.outputMap()
			it.failure, it.inputs = &r, nil
		}
	}
	return nil
}

// planJobs tells jobs whose outputs are there from those that must wait.
func (p *planner) planJobs(ctx context.Context, made *plan, jobs []Job, found map[*item]bool) error {
	for _, j := range jobs {
		it := p.items[j.Derivation]
		if it.missing || found[it] {
			made.jobs = append(made.jobs, planned{job: j, item: it})
			continue
		}
		r := Result{Derivation: it.drv, Cause: Succeeded, Present: true, Outputs: it.outputMap(), Stopped: time.Now()}
		if p.s.Root != nil {
			if err := p.s.Root(ctx, r); err != nil {
				return fmt.Errorf("plan builds: root outputs of %s: %w", it.drv, err)
			}
		}
		made.jobs = append(made.jobs, planned{job: j, item: it, result: &r})
	}
	return nil
}
