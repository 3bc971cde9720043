package guixci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/record"
)

// A History answers questions about what happened, from a state directory. It needs no Guix
// and no network.
type History struct {
	record *record.Record
	repos  *channel.Repositories
}

// OpenHistory opens the history of a state directory for reading, beside whoever
// has it open as a [Pipeline]. The error wraps fs.ErrNotExist if there is none. The caller must Close it.
func OpenHistory(dir string) (*History, error) {
	r, err := record.OpenReadOnly(dir)
	if err != nil {
		return nil, err
	}
	return &History{record: r, repos: &channel.Repositories{Dir: filepath.Join(dir, "repos")}}, nil
}

// Close closes a History that [OpenHistory] has opened.
func (h *History) Close() error { return h.record.Close() }

// History is that of the pipeline's state directory, for as long as it is open.
func (p *Pipeline) History() *History { return &History{record: p.record, repos: p.repos} }

// Record is what happened, as it was recorded.
func (h *History) Record() *record.Record { return h.record }

// Specifications returns those that were ever run, by name, as they were the last time.
func (h *History) Specifications() (specs []Specification, err error) {
	for s, err := range h.record.Specifications() {
		if err != nil {
			return nil, err
		}
		var spec Specification
		if err := json.Unmarshal(s.Data, &spec); err != nil {
			// Written by an older guixci; the next run replaces it.
			spec = Specification{Name: s.Name}
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// Report returns that of the newest evaluation of a specification that came to a verdict. The
// error wraps [record.ErrNotFound] if there is none.
func (h *History) Report(spec Specification) (*Report, error) {
	for e, err := range h.record.Evaluations(spec.Name) {
		if err != nil {
			return nil, err
		}
		if len(e.Verdict) > 0 {
			return h.report(spec, e)
		}
	}
	return nil, fmt.Errorf("report on %q: %w", spec.Name, record.ErrNotFound)
}

// report reads what the record has of an evaluation.
func (h *History) report(spec Specification, e record.Evaluation) (*Report, error) {
	lock, err := recordedLock(&e)
	if err != nil {
		return nil, err
	}
	r := &Report{Specification: spec.Name, Evaluation: e.ID, Lock: lock, Digest: e.LockDigest, Verdict: new(Verdict)}
	if err := json.Unmarshal(e.Verdict, r.Verdict); err != nil {
		return nil, fmt.Errorf("read verdict of evaluation %d: %v", e.ID, err)
	}
	for job, err := range h.record.Jobs(e.ID) {
		if err != nil {
			return nil, err
		}
		r.Jobs = append(r.Jobs, job)
	}
	green, err := h.record.LastGreen(spec.Name, spec.Green)
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
func (h *History) LastGreen(specification string, policy record.Policy) (*channel.Lock, error) {
	e, err := h.record.LastGreen(specification, policy)
	if err != nil {
		return nil, err
	}
	return recordedLock(e)
}

// LastGreen is [History.LastGreen].
func (p *Pipeline) LastGreen(specification string, policy record.Policy) (*channel.Lock, error) {
	return p.History().LastGreen(specification, policy)
}

func recordedLock(e *record.Evaluation) (*channel.Lock, error) {
	return channel.ReadLock("lock in the record", bytes.NewReader(e.Lock))
}

// Log opens the log of a job in a report, also while it is being built: of its own
// build or, if it was not built for the sake of another one's failure, of that. The error
// wraps [record.ErrNotFound] if there is none.
func (h *History) Log(job record.Job) (io.ReadCloser, error) {
	b, err := h.buildOf(job)
	if err != nil {
		return nil, err
	}
	if b.Log == "" {
		return nil, fmt.Errorf("read log of %s: %w", job.Name, record.ErrNotFound)
	}
	return build.OpenLog(b.Log)
}

// buildOf returns the build that says most about a job.
func (h *History) buildOf(job record.Job) (*record.Build, error) {
	drv := job.Derivation
	if job.Culprit != "" {
		drv = job.Culprit
	}
	return h.record.LatestBuild(drv)
}
