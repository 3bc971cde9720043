package guixci

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/inferior"
)

// A shift is the work of one turn: whatever is to be built goes to one scheduler.
type shift struct {
	*Pipeline
	daemon *build.Daemon
	*build.Scheduler
	alone string // the specification, if there is only one
	built int    // derivations, also in vain; known when the scheduler has ended
}

// workAll takes specifications to their end, the most urgent first.
func (p *Pipeline) workAll(ctx context.Context, todo []*Outcome) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	daemon := &build.Daemon{Pool: p.pool, Options: store.BuildOptions{Cores: p.o.Cores, SubstituteURLs: p.o.SubstituteURLs}}
	defer daemon.Close()
	defer p.pool.Release()
	s := &shift{Pipeline: p, daemon: daemon, Scheduler: p.newScheduler(daemon)}
	if len(todo) == 1 {
		s.alone = todo[0].Specification.Name
	}
	s.Notify = func(e build.Event) {
		if err := s.hear(e); err != nil {
			cancel(err) // what cannot be recorded has not happened
		}
	}
	p.atWork(s.Scheduler)
	defer p.atWork(nil)
	var scheduling sync.WaitGroup
	var buildErr error
	scheduling.Go(func() { buildErr = s.Scheduler.Run(ctx) })
	todo = slices.SortedStableFunc(slices.Values(todo), func(a, b *Outcome) int { return a.Specification.Priority - b.Specification.Priority })
	evaluations := make([]*evaluation, len(todo))
	for i, o := range todo {
		evaluations[i], o.Err = s.evaluate(ctx, o.Specification)
	}
	s.Seal()
	scheduling.Wait()
	if ctx.Err() != nil {
		buildErr = context.Cause(ctx) // whatever it looked like from inside
	}
	for i, o := range todo {
		s.conclude(o, evaluations[i], buildErr)
	}
}

// conclude gives a specification its report.
func (s *shift) conclude(o *Outcome, e *evaluation, buildErr error) {
	if o.Err == nil && buildErr != nil {
		o.Err = fmt.Errorf("evaluate and build %s: %w", o.Specification.Name, buildErr)
	}
	if o.Err != nil {
		return
	}
	recorded, err := s.record.Evaluation(e.id)
	if err == nil {
		o.Report, err = s.History().report(o.Specification, *recorded)
	}
	if o.Err = err; err == nil {
		o.Report.Commits, o.Report.Built = e.commits, s.built
		s.done(o.Specification.Name)
	}
}

// evaluate resolves, judges and evaluates a specification, and gives its jobs to the scheduler.
// The builds go on when evaluation ends in an error: what is done is done.
func (s *shift) evaluate(ctx context.Context, spec Specification) (*evaluation, error) {
	e, err := s.begin(ctx, spec)
	if err != nil {
		return nil, err
	}
	status := record.EvaluationFailed
	err = s.judge(ctx, spec, e)
	if err == nil && e.verdict.Green && s.o.Until != Pulled {
		err = s.enumerateAll(ctx, spec, e)
	}
	switch {
	case err != nil:
		return nil, errors.Join(err, s.finish(e, record.EvaluationAborted))
	case e.verdict.Green && s.o.Until != "":
		status = record.EvaluationAborted
	case e.verdict.Green:
		status = record.EvaluationSucceeded
	}
	if err := s.finish(e, status); err != nil {
		return nil, err
	}
	if e.verdict.Green && s.o.Until != Pulled {
		s.notify(spec.Name, Event{Kind: Enumerated, Lock: e.lock})
	}
	return e, nil
}

// enumerateAll evaluates what spec wants of a profile.
func (s *shift) enumerateAll(ctx context.Context, spec Specification, e *evaluation) error {
	options, err := s.evaluateOptions(ctx, spec, e)
	if err != nil {
		return err
	}
	err = s.enumerate(ctx, spec, e.id, held(ctx, s.daemon, inferior.Evaluate(ctx, options)))
	if ctx.Err() != nil {
		err = context.Cause(ctx) // whatever it looked like from inside
	}
	if err != nil {
		return fmt.Errorf("evaluate and build %s: %w", spec.Name, err)
	}
	return nil
}

// hear records what the scheduler tells, and passes it on.
func (s *shift) hear(e build.Event) error {
	if e.Kind == build.Finished && e.Result.Attempts > 0 && !e.Result.Fetched {
		s.built++
	}
	if err := s.recordBuild(e); err != nil {
		return err
	}
	owner := s.alone
	if e.Kind == build.JobDone {
		owner = e.Job.Owner
	}
	s.notify(owner, Event{Kind: Built, Build: &e})
	return nil
}

// held keeps the derivations of jobs from being collected as garbage until daemon is closed:
// the inferior lets go of them when it ends, before the scheduler may have seen them.
func held(ctx context.Context, daemon *build.Daemon, jobs iter.Seq2[inferior.Job, error]) iter.Seq2[inferior.Job, error] {
	return func(yield func(inferior.Job, error) bool) {
		for job, err := range jobs {
			if err == nil && job.Derivation != "" {
				err = daemon.Hold(ctx, []store.StorePath{store.StorePath(job.Derivation)})
			}
			if !yield(job, err) {
				return
			}
		}
	}
}

func (p *Pipeline) newScheduler(daemon *build.Daemon) *build.Scheduler {
	s := &build.Scheduler{
		Store: daemon, Builder: daemon, Slots: p.o.Slots, Logs: p.path("logs"),
		Limits: p.o.Limits, MinFree: cmp.Or(p.o.MinFree, 256<<20), Known: p.known, Root: p.keep, Logger: p.o.Logger,
	}
	if p.o.UseSubstitutes {
		s.Substitutes = daemon
	}
	return s
}

// enumerate records jobs as they come and gives them to the scheduler. Many jobs in
// little time are recorded together, since each transaction waits for the disk.
func (s *shift) enumerate(ctx context.Context, spec Specification, id int64, jobs iter.Seq2[inferior.Job, error]) error {
	known := &batch[inferior.Job]{most: 64, longest: 100 * time.Millisecond,
		pass: func(jobs []inferior.Job) error { return s.addJobs(spec, id, jobs) }}
	for job, err := range jobs {
		if err != nil {
			return errors.Join(err, known.flush())
		}
		s.notify(spec.Name, Event{Kind: Evaluated, Job: &job})
		if err := known.add(job); err != nil {
			return err
		}
	}
	return errors.Join(known.flush(), context.Cause(ctx))
}

func (s *shift) addJobs(spec Specification, id int64, jobs []inferior.Job) error {
	records := make([]record.Job, 0, len(jobs))
	for _, job := range jobs {
		r := record.Job{Name: job.Key, System: job.System, Derivation: job.Derivation}
		if job.Err != nil {
			r.Error = unlowered(job)
		}
		var err error
		if r.Metadata, err = json.Marshal(metadata(job)); err != nil {
			return fmt.Errorf("record job %s: %v", job.Name, err)
		}
		records = append(records, r)
	}
	if err := s.record.AddJobs(id, records...); err != nil {
		return err
	}
	for _, job := range jobs {
		if job.Derivation != "" && s.o.Until == "" {
			s.Add(build.Job{
				Name: job.Key, Owner: spec.Name, Derivation: store.StorePath(job.Derivation),
				Priority: spec.Priority, Limits: s.limits(spec, job),
			})
		}
	}
	return nil
}

// unlowered says why a job has no derivation, and where: where it was thrown, unless that is
// in Guix's own machinery, else where the package is.
func unlowered(job inferior.Job) string {
	at := job.Location
	if thrown, ok := job.Err.Where(); ok && !strings.HasPrefix(thrown.File, "guix/") {
		at = inferior.Location{File: thrown.File, Line: thrown.Line}
	}
	why := job.Err.Error()
	if job.Err.Key == "quit" { // what a guix command would have printed
		why = job.Err.Message()
	}
	if at.File == "" {
		return why
	}
	return at.String() + ": " + why
}

// Metadata is what the record keeps of a job beside its derivation and its builds.
type Metadata struct {
	Package  string            `json:"package"`
	Version  string            `json:"version,omitempty"`
	Location string            `json:"location,omitempty"` // FILE:LINE
	Synopsis string            `json:"synopsis,omitempty"`
	License  string            `json:"license,omitempty"`
	HomePage string            `json:"homePage,omitempty"`
	Outputs  map[string]string `json:"outputs,omitempty"` // store items by output name
}

func metadata(job inferior.Job) Metadata {
	m := Metadata{Package: job.Package, Version: job.Version, Synopsis: job.Synopsis,
		License: job.License, HomePage: job.HomePage, Outputs: job.Outputs}
	if job.Location.File != "" {
		m.Location = job.Location.String()
	}
	return m
}

// recordBuild puts what the scheduler tells into the record.
func (p *Pipeline) recordBuild(e build.Event) error {
	r := e.Result
	switch e.Kind {
	case build.Started:
		return p.record.StartBuild(string(e.Derivation), r.Started, r.Log)
	case build.Finished, build.JobDone:
		// A derivation may have been finished, for another job's sake, before the job
		// that this is about was known; saying the same twice changes nothing.
		return p.record.FinishBuild(record.Build{
			Derivation: string(e.Derivation), Status: record.Status(r.Cause.Number()), Cause: string(r.Cause),
			Culprit: string(r.Culprit), Attempts: r.Attempts, Started: r.Started, Stopped: r.Stopped,
			Log: r.Log, Telling: r.Telling,
		})
	}
	return nil
}

// known tells the scheduler which derivations failed before, by their own fault.
func (p *Pipeline) known(_ context.Context, drvs []store.StorePath) (map[store.StorePath]build.Result, error) {
	names := make([]string, len(drvs))
	for i, drv := range drvs {
		names[i] = string(drv)
	}
	failures, err := p.record.KnownFailures(names)
	if err != nil {
		return nil, err
	}
	results := make(map[store.StorePath]build.Result, len(failures))
	for drv, b := range failures {
		results[store.StorePath(drv)] = build.Result{
			Derivation: store.StorePath(drv), Cause: build.Cause(b.Cause), Remembered: true,
			Started: b.Started, Stopped: b.Stopped, Log: b.Log, Telling: b.Telling,
		}
	}
	return results, nil
}
