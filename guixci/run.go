package guixci

import (
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
	// Built counts the derivations that were built in this run, also in vain, and for
	// whatever specification.
	Built int `json:"built"`
	// Green says that the verdict is green and the jobs satisfy the specification.
	Green bool `json:"green"`
	// LastGreen is the lock of the newest green evaluation, this one if it is;
	// nil before the first.
	LastGreen *channel.Lock `json:"lastGreen,omitempty"`
}

// Undecided returns the jobs whose answer is unknown because the machinery failed or the
// run was interrupted, not because of the package. The next Run tries them again.
func (r *Report) Undecided() []record.Job {
	return slices.DeleteFunc(slices.Clone(r.Jobs), func(j record.Job) bool { return !undecided(j) })
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
// Runs that have something to do take turns.
//
// A red verdict and a failed build are results, not errors. An error means
// that the answer is unknown; the next Run goes on from there. It is a
// *[SpecificationError] if spec is not one that can be run.
func (p *Pipeline) Run(ctx context.Context, spec Specification) (*Report, error) {
	o := p.RunAll(ctx, spec)[0]
	return o.Report, o.Err
}

// An Outcome is what became of one specification in [Pipeline.RunAll].
type Outcome struct {
	Specification Specification
	Report        *Report // nil if there is an Err, or if the specification is not active
	Err           error   // as of [Pipeline.Run]
}

// RunAll is Run for several specifications, of different names, in one turn. They are pulled and
// evaluated one after the other, those of the lowest Priority number first, while what is
// known to be missing is built, also by Priority: each derivation once, however many want it.
// One that has an error does not keep the others from their end.
// There is an Outcome for each, in the order given.
func (p *Pipeline) RunAll(ctx context.Context, specs ...Specification) []Outcome {
	outcomes := make([]Outcome, len(specs))
	err := distinct(specs)
	var todo []*Outcome
	for i, spec := range specs {
		outcomes[i].Specification = spec
		if outcomes[i].Err = err; err == nil && !spec.Inactive {
			todo = append(todo, &outcomes[i])
		}
	}
	if todo = p.changed(ctx, todo); len(todo) == 0 {
		return outcomes
	}
	waited, err := p.takeTurn(ctx)
	if err != nil {
		for _, o := range todo {
			o.Err = fmt.Errorf("run %s: %w", o.Specification.Name, err)
		}
		return outcomes
	}
	defer func() { <-p.turn }()
	if waited { // perhaps for somebody who did the same
		todo = p.changed(ctx, todo)
	}
	p.workAll(ctx, todo)
	return outcomes
}

// changed returns those for which there is something to do, and gives the others their report.
func (p *Pipeline) changed(ctx context.Context, all []*Outcome) (todo []*Outcome) {
	for _, o := range all {
		if p.wantedAgain(o.Specification.Name) {
			todo = append(todo, o)
			continue
		}
		o.Report, o.Err = p.unchangedReport(ctx, o.Specification)
		if o.Report == nil && o.Err == nil {
			todo = append(todo, o)
		}
	}
	return todo
}

// takeTurn returns when no other Run is at work. waited says that one was.
func (p *Pipeline) takeTurn(ctx context.Context) (waited bool, err error) {
	select {
	case p.turn <- struct{}{}:
		return false, nil
	default:
	}
	select {
	case p.turn <- struct{}{}:
		return true, nil
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
}

// An evaluation is one lock on its way.
type evaluation struct {
	id       int64 // in the record
	lock     *channel.Lock
	channels []string // whose packages are jobs
	commits  int      // authenticated
	verdict  *Verdict // nil until it is known
	profile  *inferior.Profile
}

// begin resolves the channels of spec and records that their evaluation has begun.
func (p *Pipeline) begin(ctx context.Context, spec Specification) (*evaluation, error) {
	lock, err := p.Lock(ctx, spec)
	if err != nil {
		return nil, err
	}
	e := &evaluation{lock: lock}
	if e.channels, err = jobChannels(spec, lock); err != nil {
		return nil, err
	}
	text, err := json.Marshal(lock)
	if err != nil {
		return nil, fmt.Errorf("record lock: %v", err)
	}
	if err := p.abandonLast(spec); err != nil {
		return nil, err
	}
	e.id, err = p.record.BeginEvaluation(record.Evaluation{Specification: spec.Name, LockDigest: lock.Digest(), Lock: text})
	if err != nil {
		return nil, err
	}
	// Not before: the specification in the record is that of the newest evaluation.
	if err := p.remember(spec); err != nil {
		return nil, errors.Join(err, p.finish(e, record.EvaluationAborted))
	}
	return e, nil
}

// abandonLast aborts the newest evaluation of spec if it is open: nobody is at work on it, but
// how it ended could not be recorded, on a full disk for one.
func (p *Pipeline) abandonLast(spec Specification) error {
	for last, err := range p.record.Evaluations(spec.Name) {
		if err != nil || last.Status != record.EvaluationStarted {
			return err
		}
		return p.record.FinishEvaluation(last.ID, record.EvaluationAborted, nil)
	}
	return nil
}

// judge authenticates and pulls a lock. An error other than a red verdict says
// nothing about the channels.
func (p *Pipeline) judge(ctx context.Context, spec Specification, e *evaluation) error {
	seen, err := p.Authenticate(ctx, e.lock)
	for _, a := range seen {
		e.commits += a.Commits
	}
	if err == nil {
		p.notify(spec.Name, Event{Kind: Authenticated, Lock: e.lock, Commits: e.commits})
		e.profile, err = p.Pull(ctx, e.lock)
	}
	var verdict *Verdict
	if err == nil {
		verdict = greenVerdict(e.lock, e.profile)
	} else if verdict = redVerdict(e.lock, err); verdict == nil {
		return err
	}
	e.verdict = verdict
	if verdict.Green { // there is more to come, which others may ask for meanwhile
		text, err := e.verdictText()
		if err == nil {
			err = p.record.JudgeEvaluation(e.id, text)
		}
		if err != nil {
			return err
		}
	}
	p.notify(spec.Name, Event{Kind: Pulled, Lock: e.lock, Verdict: verdict})
	return nil
}

// finish records how an evaluation ended, and its verdict if there is one.
func (p *Pipeline) finish(e *evaluation, status record.EvaluationStatus) error {
	text, err := e.verdictText()
	if err != nil {
		return err
	}
	return p.record.FinishEvaluation(e.id, status, text)
}

// verdictText is the verdict as it is recorded; nil if there is none.
func (e *evaluation) verdictText() ([]byte, error) {
	if e.verdict == nil {
		return nil, nil
	}
	text, err := json.Marshal(e.verdict)
	if err != nil {
		return nil, fmt.Errorf("record verdict: %v", err)
	}
	return text, nil
}

// remember records the specification as it is now.
func (p *Pipeline) remember(spec Specification) error {
	text, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("record specification %s: %v", spec.Name, err)
	}
	return p.record.PutSpecification(record.Specification{Name: spec.Name, Data: text})
}
