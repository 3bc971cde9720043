package guixci

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/inferior"
)

// unchangedReport returns the report of the evaluation that has dealt with spec as it
// stands now, nil if there is something to do.
func (p *Pipeline) unchangedReport(ctx context.Context, spec Specification) (*Report, error) {
	e, err := p.unchanged(ctx, spec)
	if e == nil || err != nil {
		return nil, err
	}
	r, err := p.History().report(spec, *e)
	if err != nil {
		return nil, err
	}
	r.Unchanged = true
	return r, nil
}

// unchanged returns that evaluation. It asks the repositories for their heads only.
func (p *Pipeline) unchanged(ctx context.Context, spec Specification) (*record.Evaluation, error) {
	last, err := p.last(spec)
	if last == nil || err != nil {
		return nil, err
	}
	lock, err := recordedLock(last)
	if err != nil {
		return nil, err
	}
	same, err := p.resolver().Current(ctx, spec.Channels, lock)
	if err != nil || !same {
		return nil, err
	}
	if last.Status == record.EvaluationSucceeded && !p.pulled(lock) {
		return nil, nil
	}
	return last, nil
}

// last returns the newest evaluation of spec if nothing of it is open,
// and spec was the same then.
func (p *Pipeline) last(spec Specification) (*record.Evaluation, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("compare specification %s: %v", spec.Name, err)
	}
	for old, err := range p.record.Specifications() {
		if err != nil {
			return nil, err
		}
		if old.Name == spec.Name && !bytes.Equal(old.Data, text) {
			return nil, nil
		}
	}
	for e, err := range p.record.Evaluations(spec.Name) {
		if err != nil {
			return nil, err
		}
		if e.Status != record.EvaluationSucceeded && e.Status != record.EvaluationFailed {
			return nil, nil
		}
		settled, err := p.settled(&e)
		if err != nil || !settled {
			return nil, err
		}
		return &e, nil
	}
	return nil, nil
}

// settled reports whether the answer of an evaluation would be the same again: every job's
// is about the package, and a red verdict about what is in the commits.
// Whether they can be fetched changes without them.
func (p *Pipeline) settled(e *record.Evaluation) (bool, error) {
	var verdict Verdict
	if err := json.Unmarshal(e.Verdict, &verdict); err != nil {
		return false, fmt.Errorf("read verdict of evaluation %d: %v", e.ID, err)
	}
	if stage := inferior.Stage(verdict.Stage); stage == inferior.StageStart || stage == inferior.StageFetch {
		return false, nil
	}
	for job, err := range p.record.Jobs(e.ID) {
		if err != nil {
			return false, err
		}
		if undecided(job) {
			return false, nil
		}
	}
	return true, nil
}

// undecided reports whether nothing is known of a job's package yet.
func undecided(j record.Job) bool {
	return !j.Status.Decided()
}

// pulled reports whether the profile of a lock is still there: the report names it,
// and whoever reads that will want to use it.
func (p *Pipeline) pulled(lock *channel.Lock) bool {
	names, err := p.puller.Names()
	if err != nil || !slices.Contains(names, lock.Digest()) {
		return false
	}
	_, err = os.Stat(p.path("profiles", lock.Digest(), "manifest"))
	return err == nil
}
