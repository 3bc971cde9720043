package guixci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/inferior"
)

// work evaluates the packages that spec wants of a profile and builds them as they
// become known. It returns how many derivations were built.
func (p *Pipeline) work(ctx context.Context, spec Specification, e *evaluation) (built int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	daemon := &build.Daemon{Pool: p.pool}
	defer daemon.Close()
	defer p.pool.Release()
	s := p.scheduler(daemon)
	s.Notify = func(e build.Event) {
		if e.Kind == build.Finished && e.Result.Attempts > 0 && !e.Result.Fetched {
			built++
		}
		if err := p.recordBuild(e); err != nil {
			cancel(err) // what cannot be recorded has not happened
			return
		}
		p.notify(spec, Event{Kind: Built, Build: &e})
	}
	jobs := inferior.Evaluate(ctx, inferior.EvaluateOptions{
		Session:  inferior.Options{Program: e.profile.Guix(), Env: p.environment(), Logger: p.o.Logger},
		Channels: e.channels, Systems: spec.Systems, Logger: p.o.Logger,
	})
	// The builds go on when evaluation ends in an error, and the other way round:
	// what is done is done. So neither's error cancels the other's context.
	var group errgroup.Group
	group.Go(func() error {
		defer s.Seal()
		err := p.enumerate(ctx, spec, e.id, s, held(ctx, daemon, jobs))
		if err != nil {
			return errors.Join(err, p.finish(e, record.EvaluationAborted))
		}
		if err := p.finish(e, record.EvaluationSucceeded); err != nil {
			return err
		}
		p.notify(spec, Event{Kind: Enumerated, Lock: e.lock})
		return nil
	})
	err = s.Run(ctx)
	err = errors.Join(group.Wait(), err)
	if ctx.Err() != nil {
		err = context.Cause(ctx) // whatever it looked like from inside
	}
	if err != nil {
		return built, fmt.Errorf("evaluate and build %s: %w", spec.Name, err)
	}
	return built, nil
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

func (p *Pipeline) scheduler(daemon *build.Daemon) *build.Scheduler {
	s := &build.Scheduler{
		Store: daemon, Builder: daemon, Slots: p.o.Slots, Logs: p.path("logs"),
		Limits: p.o.Limits, Known: p.known, Root: p.keep, Logger: p.o.Logger,
	}
	if p.o.UseSubstitutes {
		s.Substitutes = daemon
	}
	return s
}

// enumerate records jobs as they come and gives them to the scheduler. Many jobs in
// little time are recorded together, since each transaction waits for the disk.
func (p *Pipeline) enumerate(ctx context.Context, spec Specification, id int64, s *build.Scheduler, jobs iter.Seq2[inferior.Job, error]) error {
	const most, longest = 64, 100 * time.Millisecond
	var waiting []inferior.Job
	var last time.Time
	flush := func() error {
		last = time.Now()
		err := p.addJobs(spec, id, s, waiting)
		waiting = nil
		return err
	}
	for job, err := range jobs {
		if err != nil {
			return errors.Join(err, flush())
		}
		p.notify(spec, Event{Kind: Evaluated, Job: &job})
		if waiting = append(waiting, job); len(waiting) >= most || time.Since(last) > longest {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return errors.Join(flush(), context.Cause(ctx))
}

func (p *Pipeline) addJobs(spec Specification, id int64, s *build.Scheduler, jobs []inferior.Job) error {
	records := make([]record.Job, 0, len(jobs))
	for _, job := range jobs {
		r := record.Job{Name: job.Key, System: job.System, Derivation: job.Derivation}
		if job.Err != nil {
			r.Error = job.Err.Error()
		}
		var err error
		if r.Metadata, err = json.Marshal(metadata(job)); err != nil {
			return fmt.Errorf("record job %s: %v", job.Name, err)
		}
		records = append(records, r)
	}
	if err := p.record.AddJobs(id, records...); err != nil {
		return err
	}
	for _, job := range jobs {
		if job.Derivation != "" {
			s.Add(build.Job{
				Name: job.Name, Derivation: store.StorePath(job.Derivation), Priority: spec.Priority,
				Limits: build.Limits{Timeout: job.Timeout, MaxSilent: job.MaxSilentTime},
			})
		}
	}
	return nil
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
		return p.record.StartBuild(string(e.Derivation), r.Started)
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
