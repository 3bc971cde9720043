package guixci

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/store"
)

// Retry has the next run of a specification look at everything again, changed or not, and
// build again what failed: the named jobs of the newest evaluation, or all of them without
// names, and whatever they failed on account of. Failures that it forgets are no longer known
// to anybody, so that all that depends on them is tried again, too. It returns
// how many builds that were known to fail it has forgotten.
func (p *Pipeline) Retry(ctx context.Context, specification string, jobs ...string) (forgotten int, err error) {
	p.mu.Lock()
	p.again[specification] = true
	p.mu.Unlock()
	for e, err := range p.record.Evaluations(specification) {
		if err != nil {
			return 0, err
		}
		return p.forget(ctx, e.ID, jobs)
	}
	return 0, nil
}

// wantedAgain reports whether Retry was asked for.
func (p *Pipeline) wantedAgain(specification string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.again[specification]
}

// done says that a specification has had its run.
func (p *Pipeline) done(specification string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.again, specification)
}

// forget forgets the failures that jobs of an evaluation are red for.
func (p *Pipeline) forget(ctx context.Context, evaluation int64, names []string) (int, error) {
	var graph store.Graph
	var drvs []string
	for job, err := range p.record.Jobs(evaluation) {
		if err != nil {
			return 0, err
		}
		failed := job.Status == record.Failed || job.Status == record.DependencyFailed
		if !failed || job.Derivation == "" || len(names) > 0 && !slices.Contains(names, job.Name) {
			continue
		}
		drvs = append(drvs, job.Derivation, job.Culprit)
		if _, err := os.Stat(job.Derivation); err != nil {
			continue // collected as garbage: what it needed is not known any more
		}
		if err := graph.Add(ctx, store.StorePath(job.Derivation)); err != nil {
			return 0, fmt.Errorf("retry job %s: %w", job.Name, err)
		}
	}
	for i := range graph.Len() {
		drvs = append(drvs, string(graph.Derivation(store.ID(i))))
	}
	failures, err := p.record.KnownFailures(drvs)
	if err != nil {
		return 0, err
	}
	return len(failures), p.record.Forget(slices.Collect(maps.Keys(failures))...)
}
