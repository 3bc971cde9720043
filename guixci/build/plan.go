package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/substitute"
)

// An item is a derivation that is missing, as the planner hands it to the run:
// it must not change afterwards, other than in node.
type item struct {
	drv     StorePath
	outputs []store.Output
	needs   []*item // that are missing too; none if there is a failure, or it can be fetched
	failure *Result // it cannot be read, or is known to fail
	fetch   bool    // its outputs can be fetched

	node *node // belongs to the run; nil until the plan has arrived there
}

func outputMap(outputs []store.Output) map[string]StorePath {
	if outputs == nil {
		return nil
	}
	m := make(map[string]StorePath, len(outputs))
	for _, o := range outputs {
		m[o.Name] = o.Path
	}
	return m
}

// A request is what the planner is to find out about.
type request struct {
	jobs   []Job
	expand []*item // that are to be built although there was a reason not to
}

// A plan says what some jobs need.
type plan struct {
	items    []*item // missing, and not in an earlier plan
	expanded []expansion
	jobs     []planned
}

// An expansion says what an item of an earlier plan needs after all.
type expansion struct {
	item   *item
	needs  []*item
	result *Result // that could not be found out
}

// A planned job has a result already unless it has to wait for a node.
type planned struct {
	job    Job
	item   *item
	result *Result
}

// A planner finds out what is missing. It belongs to one goroutine.
type planner struct {
	s        *Scheduler
	graph    *store.Graph
	plan     *store.Plan
	items    map[store.ID]*item
	failures map[store.ID]*Result // of what was pruned for that
	fetch    map[store.ID]bool    // what was pruned because it can be fetched
}

func (s *Scheduler) newPlanner() *planner {
	p := &planner{s: s, graph: &store.Graph{Store: s.Derivations}, items: map[store.ID]*item{},
		failures: map[store.ID]*Result{}, fetch: map[store.ID]bool{}}
	p.plan = p.graph.NewPlan(holder{s.Store})
	p.plan.Prune = p.prune
	return p
}

// A holder holds what it is asked about before it answers, so that the answer stays true.
type holder struct{ Store }

func (h holder) ValidPaths(ctx context.Context, paths []StorePath) ([]StorePath, error) {
	if err := h.Hold(ctx, paths); err != nil {
		return nil, fmt.Errorf("hold store items: %w", err)
	}
	return h.Store.ValidPaths(ctx, paths)
}

// planAtOnce bounds the jobs of one plan, so that building begins before all is known.
const planAtOnce = 2000

// make finds out what is asked. If the store does not answer it asks again,
// as often as builds are tried; after that the jobs have failed for want of a daemon.
func (p *planner) make(ctx context.Context, q request) *plan {
	for attempt := 1; ; attempt++ {
		made, err := p.try(ctx, q)
		if err == nil {
			return made
		}
		if attempt >= p.s.attempts() || ctx.Err() != nil {
			return abandoned(ctx, q, err, attempt)
		}
		p.s.logger().Warn("plan builds: trying again", "jobs", len(q.jobs), "error", err)
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
func abandoned(ctx context.Context, q request, err error, attempts int) *plan {
	verdict := func(drv StorePath) *Result {
		r := cancelled(drv, "")
		if ctx.Err() == nil {
			r.Cause, r.Message, r.Attempts = surroundings(err), err.Error(), attempts
		}
		return &r
	}
	made := &plan{}
	for _, j := range q.jobs {
		made.jobs = append(made.jobs, planned{job: j, result: verdict(j.Derivation)})
	}
	for _, it := range q.expand {
		made.expanded = append(made.expanded, expansion{item: it, result: verdict(it.drv)})
	}
	return made
}

// try makes a plan. After an error it can be repeated.
func (p *planner) try(ctx context.Context, q request) (*plan, error) {
	made := &plan{}
	var drvs []StorePath
	for _, j := range q.jobs {
		if path, err := substitute.ParseStorePath(string(j.Derivation)); err != nil || !path.IsDerivation() {
			made.jobs = append(made.jobs, planned{job: j, result: unreadable(j.Derivation, errors.New("this is not a derivation in the store"))})
			continue
		}
		drvs = append(drvs, j.Derivation)
	}
	if err := p.s.Store.Hold(ctx, drvs); err != nil {
		return nil, fmt.Errorf("plan builds: hold derivations: %w", err)
	}
	fresh, err := p.plan.Add(ctx, drvs...)
	if err != nil {
		return nil, fmt.Errorf("plan builds: %w", err)
	}
	p.enter(made, fresh)
	if err := p.expand(ctx, made, q.expand); err != nil {
		return nil, fmt.Errorf("plan builds: %w", err)
	}
	return made, p.planJobs(ctx, made, q.jobs)
}

// enter makes items of what is new in the store's plan.
func (p *planner) enter(made *plan, fresh []store.ID) {
	for _, id := range fresh {
		p.items[id] = &item{drv: p.graph.Derivation(id), outputs: p.graph.Outputs(id),
			failure: p.failures[id], fetch: p.fetch[id]}
	}
	for _, id := range fresh {
		p.items[id].needs = p.needs(id)
		made.items = append(made.items, p.items[id])
	}
}

func (p *planner) needs(id store.ID) (needs []*item) {
	for in := range p.plan.Inputs(id) {
		needs = append(needs, p.items[in])
	}
	return needs
}

// expand finds out what items need that were planned without.
func (p *planner) expand(ctx context.Context, made *plan, items []*item) error {
	for _, it := range items {
		id, _ := p.graph.Lookup(it.drv)
		fresh, err := p.plan.Expand(ctx, id)
		if err != nil {
			return err
		}
		p.enter(made, fresh)
		made.expanded = append(made.expanded, expansion{item: it, needs: p.needs(id)})
	}
	return nil
}

// planJobs tells jobs whose outputs are there from those that must wait.
func (p *planner) planJobs(ctx context.Context, made *plan, jobs []Job) error {
	for _, j := range jobs {
		id, ok := p.graph.Lookup(j.Derivation)
		if !ok {
			continue // not a derivation
		}
		if p.plan.Contains(id) {
			made.jobs = append(made.jobs, planned{job: j, item: p.items[id]})
			continue
		}
		r := Result{Derivation: j.Derivation, Cause: Succeeded, Present: true,
			Outputs: outputMap(p.graph.Outputs(id)), Stopped: time.Now()}
		if p.s.Root != nil {
			if err := p.s.Root(ctx, r); err != nil {
				return fmt.Errorf("plan builds: root outputs of %s: %w", j.Derivation, err)
			}
		}
		made.jobs = append(made.jobs, planned{job: j, result: &r})
	}
	return nil
}

// prune says of which missing derivations it is of no use to know what they need: they
// cannot be read, are known to fail, or can be fetched.
func (p *planner) prune(ctx context.Context, missing []store.ID) (pruned []store.ID, err error) {
	var rest []store.ID
	for _, id := range missing {
		if problem := p.graph.Problem(id); problem != nil {
			p.failures[id] = unreadable(p.graph.Derivation(id), problem)
			pruned = append(pruned, id)
		} else {
			rest = append(rest, id)
		}
	}
	if err := p.recall(ctx, rest); err != nil {
		return nil, err
	}
	if err := p.shop(ctx, rest); err != nil {
		return nil, err
	}
	for _, id := range rest {
		if p.failures[id] != nil || p.fetch[id] {
			pruned = append(pruned, id)
		}
	}
	return pruned, nil
}

// unreadable is the result of a derivation that is not there or is not one.
func unreadable(drv StorePath, err error) *Result {
	cause := surroundings(err)
	if errors.Is(err, substitute.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		cause = Gone
	}
	return &Result{Derivation: drv, Cause: cause, Message: err.Error(), Stopped: time.Now()}
}

// recall takes known failures for granted.
func (p *planner) recall(ctx context.Context, missing []store.ID) error {
	if p.s.Known == nil || len(missing) == 0 {
		return nil
	}
	drvs := make([]StorePath, len(missing))
	for i, id := range missing {
		drvs[i] = p.graph.Derivation(id)
	}
	known, err := p.s.Known(ctx, drvs)
	if err != nil {
		return fmt.Errorf("recall failures: %w", err)
	}
	for _, id := range missing {
		if r, ok := known[p.graph.Derivation(id)]; ok {
			r.Derivation, r.Remembered, r.Outputs = p.graph.Derivation(id), true, outputMap(p.graph.Outputs(id))
			p.failures[id] = &r
		}
	}
	return nil
}

// shop asks what need not be built because somebody else has all its outputs. That one
// cannot ask is no reason not to build.
func (p *planner) shop(ctx context.Context, missing []store.ID) error {
	if p.s.Substitutes == nil {
		return nil
	}
	var ask []StorePath
	for _, id := range missing {
		for _, o := range p.graph.Outputs(id) {
			ask = append(ask, o.Path)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	offered, err := p.s.Substitutes.Substitutable(ctx, ask)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	} else if err != nil {
		p.s.logger().Warn("ask for substitutes: building instead", "outputs", len(ask), "error", err)
		return nil
	}
	is := make(map[StorePath]bool, len(offered))
	for _, path := range offered {
		is[path] = true
	}
	for _, id := range missing {
		if p.failures[id] == nil && p.offered(id, is) {
			p.fetch[id] = true
		}
	}
	return nil
}

// offered reports whether all outputs of a derivation can be fetched, and may.
func (p *planner) offered(id store.ID, is map[StorePath]bool) bool {
	for _, o := range p.graph.Outputs(id) {
		if !is[o.Path] {
			return false
		}
	}
	d, err := p.graph.Read(id)
	return err == nil && d.Substitutable()
}
