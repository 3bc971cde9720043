package guixci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/inferior"
)

// A Report is what one run over a specification found.
type Report struct {
	Specification string        `json:"specification"`
	Evaluation    int64         `json:"evaluation"` // its number in the record
	Lock          *channel.Lock `json:"lock"`
	Digest        string        `json:"digest"` // of Lock
	// Unchanged says that this very lock had been dealt with before: nothing
	// was pulled, evaluated or built, and the report is from the record.
	Unchanged bool     `json:"unchanged"`
	Commits   int      `json:"commits"` // authenticated in this run
	Verdict   *Verdict `json:"verdict"`
	// Jobs are those of the evaluation; none if the verdict is red.
	Jobs []record.Job `json:"jobs,omitempty"`
	// Built counts the derivations that were built in this run, also in vain.
	Built int `json:"built"`
	// Green says that the verdict is green and the jobs satisfy the specification.
	Green bool `json:"green"`
	// LastGreen is the lock of the newest green evaluation, this one if it is;
	// nil before the first.
	LastGreen *channel.Lock `json:"lastGreen,omitempty"`
}

// Job returns the job of that name.
func (r *Report) Job(name string) (record.Job, bool) {
	i := slices.IndexFunc(r.Jobs, func(j record.Job) bool { return j.Name == name })
	if i < 0 {
		return record.Job{}, false
	}
	return r.Jobs[i], true
}

// Run takes spec the whole way: its channels to a lock, the lock to a profile or a
// verdict that says why not, the profile to jobs, and the jobs to builds, which
// start while evaluation goes on. Everything is in the record as soon as it is
// known, and what the record or the store has already is not done again.
//
// A red verdict and a failed build are results, not errors. An error means
// that the answer is unknown; the next Run goes on from there.
func (p *Pipeline) Run(ctx context.Context, spec Specification) (*Report, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	done, err := p.unchanged(ctx, spec)
	if err != nil {
		return nil, err
	}
	if done != nil {
		r, err := p.report(spec, *done)
		if err == nil {
			r.Unchanged = true
		}
		return r, err
	}
	if err := p.remember(spec); err != nil {
		return nil, err
	}
	lock, err := p.Lock(ctx, spec)
	if err != nil {
		return nil, err
	}
	return p.evaluation(ctx, spec, lock)
}

// evaluation runs one lock and records what comes of it.
func (p *Pipeline) evaluation(ctx context.Context, spec Specification, lock *channel.Lock) (*Report, error) {
	text, err := json.Marshal(lock)
	if err != nil {
		return nil, fmt.Errorf("record lock: %v", err)
	}
	id, err := p.record.BeginEvaluation(record.Evaluation{Specification: spec.Name, LockDigest: lock.Digest(), Lock: text})
	if err != nil {
		return nil, err
	}
	commits, profile, verdict, err := p.judge(ctx, spec, lock)
	if err != nil {
		return nil, errors.Join(err, p.record.FinishEvaluation(id, record.EvaluationAborted, nil))
	}
	built := 0
	if verdict.Green {
		built, err = p.work(ctx, spec, lock, profile, id, verdict)
	} else {
		err = p.finish(id, record.EvaluationFailed, verdict)
	}
	if err != nil {
		return nil, err
	}
	e, err := p.record.Evaluation(id)
	if err != nil {
		return nil, err
	}
	r, err := p.report(spec, *e)
	if err != nil {
		return nil, err
	}
	r.Commits, r.Built = commits, built
	return r, nil
}

// judge authenticates and pulls a lock. An error other than a red verdict says
// nothing about the channels.
func (p *Pipeline) judge(ctx context.Context, spec Specification, lock *channel.Lock) (commits int, _ *inferior.Profile, _ *Verdict, _ error) {
	seen, err := p.Authenticate(ctx, lock)
	for _, a := range seen {
		commits += a.Commits
	}
	var profile *inferior.Profile
	if err == nil {
		p.notify(spec, Event{Kind: Authenticated, Lock: lock, Commits: commits})
		profile, err = p.Pull(ctx, lock)
	}
	var verdict *Verdict
	if err == nil {
		verdict = greenVerdict(lock, profile)
	} else if verdict = redVerdict(lock, err); verdict == nil {
		return commits, nil, nil, err
	}
	p.notify(spec, Event{Kind: Pulled, Lock: lock, Verdict: verdict})
	return commits, profile, verdict, nil
}

func (p *Pipeline) finish(id int64, status record.EvaluationStatus, verdict *Verdict) error {
	text, err := json.Marshal(verdict)
	if err != nil {
		return fmt.Errorf("record verdict: %v", err)
	}
	return p.record.FinishEvaluation(id, status, text)
}

// remember records the specification as it is now.
func (p *Pipeline) remember(spec Specification) error {
	text, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("record specification %s: %v", spec.Name, err)
	}
	return p.record.PutSpecification(record.Specification{Name: spec.Name, Data: text})
}

// unchanged returns the evaluation that has dealt with spec as it stands now,
// nil if there is something to do. It asks the repositories for their heads only.
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
		settled, err := p.settled(e.ID)
		if err != nil || !settled {
			return nil, err
		}
		return &e, nil
	}
	return nil, nil
}

// settled reports whether every job of an evaluation has an answer about the
// package, and not about the machinery.
func (p *Pipeline) settled(id int64) (bool, error) {
	for job, err := range p.record.Jobs(id) {
		if err != nil {
			return false, err
		}
		switch job.Status {
		case record.Succeeded, record.Failed, record.DependencyFailed:
		default:
			return false, nil
		}
	}
	return true, nil
}

// report reads what the record has of an evaluation.
func (p *Pipeline) report(spec Specification, e record.Evaluation) (*Report, error) {
	lock, err := recordedLock(&e)
	if err != nil {
		return nil, err
	}
	r := &Report{Specification: spec.Name, Evaluation: e.ID, Lock: lock, Digest: e.LockDigest, Verdict: new(Verdict)}
	if err := json.Unmarshal(e.Verdict, r.Verdict); err != nil {
		return nil, fmt.Errorf("read verdict of evaluation %d: %v", e.ID, err)
	}
	for job, err := range p.record.Jobs(e.ID) {
		if err != nil {
			return nil, err
		}
		r.Jobs = append(r.Jobs, job)
	}
	green, err := p.record.LastGreen(spec.Name, spec.Green)
	if errors.Is(err, record.ErrNotFound) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	r.Green = green.ID == e.ID
	r.LastGreen, err = recordedLock(green)
	return r, err
}

// LastGreen returns the newest lock of a specification that satisfied a policy:
// the one to pull from. The error wraps [record.ErrNotFound] if there is none.
func (p *Pipeline) LastGreen(specification string, policy record.Policy) (*channel.Lock, error) {
	e, err := p.record.LastGreen(specification, policy)
	if err != nil {
		return nil, err
	}
	return recordedLock(e)
}

func recordedLock(e *record.Evaluation) (*channel.Lock, error) {
	return channel.ReadLock("lock in the record", bytes.NewReader(e.Lock))
}
