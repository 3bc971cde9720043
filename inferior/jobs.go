package inferior

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// jobs returns the jobs that a reply about the item at index i tells of. The reply
// is v, or failure if the session broke or an exception got through; late is the failure
// that is a timeout.
func (e *evaluation) jobs(i int, v sexp.Value, failure, late error) ([]Job, error) {
	job := e.blank(i)
	var exception *Exception
	switch {
	case failure == nil:
		return e.decode(job, v)
	case errors.As(failure, &exception):
		job.Err = exception
	case errors.Is(failure, late):
		job.Err = plainException(keyTimeout, late.Error())
	case errors.Is(failure, errMemory):
		job.Err = plainException(keyMemory, cause(failure).Error())
	default:
		job.Err = plainException(keyEnded, failure.Error())
	}
	if exception == nil {
		e.Logger.Warn("inferior lost", "job", job.Name, "err", failure)
	}
	return []Job{job}, nil
}

// cause is why a session broke.
func cause(err error) error {
	var broken *BrokenError
	if errors.As(err, &broken) {
		return broken.Cause
	}
	return err
}

// blank returns the job of item i as far as it is known without lowering.
func (e *evaluation) blank(i int) Job {
	p := &e.entries[i%len(e.entries)]
	system := e.Systems[i/len(e.entries)]
	return Job{Name: p.jobName(system, ""), Key: p.jobName(system, p.distinct), System: system,
		Package: p.name, Version: p.version, Location: p.location}
}

// decode returns the jobs in what guixci/lower returned: one, none, or those of a module.
func (e *evaluation) decode(job Job, v sexp.Value) ([]Job, error) {
	several, ok := sexp.Rest(v, "jobs")
	if !ok {
		several = []sexp.Value{v}
	}
	var jobs []Job
	for _, fields := range several {
		next := job
		wanted, err := e.fill(&next, fields)
		if err != nil {
			return nil, err
		}
		if wanted {
			jobs = append(jobs, next)
		}
	}
	return jobs, nil
}

func plainException(key, message string) *Exception {
	return &Exception{Key: key, Args: []sexp.Value{sexp.String(message)}}
}

// fill completes job from the fields that guixci/lower returned.
// wanted is false if there is to be no job.
func (e *evaluation) fill(job *Job, v sexp.Value) (wanted bool, err error) {
	if name := text(v, "name"); name != "" {
		job.Name, job.Key = name, name
	}
	if _, base := sexp.Rest(v, "base"); base {
		job.Name, job.Key = "base."+job.Name, "base."+job.Key
	}
	fillMetadata(job, v)
	if thrown, ok := sexp.Rest(v, "exception"); ok {
		job.Err, err = decodeException(thrown)
		return true, err
	}
	if _, ok := sexp.Rest(v, "unsupported"); ok {
		e.Logger.Debug("package not supported", "job", job.Name)
		return false, nil
	}
	job.Derivation = text(v, "derivation")
	if job.Derivation == "" {
		return false, fmt.Errorf("lower %q: no derivation in %.80q", job.Name, v)
	}
	job.NixName = text(v, "nix-name")
	job.Outputs = pairs(v, "outputs")
	job.MaxSilentTime = seconds(v, "max-silent-time")
	job.Timeout = seconds(v, "timeout")
	job.Substitutable = flag(v, "substitutable")
	wanted = job.Substitutable || e.Unsubstitutable || flag(v, "always")
	if !wanted {
		e.Logger.Debug("package not substitutable", "job", job.Name)
	}
	return wanted, nil
}

func fillMetadata(job *Job, v sexp.Value) {
	job.Synopsis = text(v, "synopsis")
	job.HomePage = text(v, "home-page")
	job.License = joined(v, "licenses")
	systems, _ := sexp.Rest(v, "systems")
	for _, s := range systems {
		job.SupportedSystems = append(job.SupportedSystems, displayed(s))
	}
}

func text(v sexp.Value, key sexp.Symbol) string {
	field, _ := sexp.Field(v, key)
	s, _ := sexp.Text(field)
	return s
}

func flag(v sexp.Value, key sexp.Symbol) bool {
	field, _ := sexp.Field(v, key)
	return sexp.True(field)
}

func joined(v sexp.Value, key sexp.Symbol) string {
	var words []string
	rest, _ := sexp.Rest(v, key)
	for _, r := range rest {
		words = append(words, displayed(r))
	}
	return strings.Join(words, ", ")
}

func seconds(v sexp.Value, key sexp.Symbol) time.Duration {
	field, _ := sexp.Field(v, key)
	return time.Duration(integer(field)) * time.Second
}

// pairs reads (KEY ("name" . "value") …).
func pairs(v sexp.Value, key sexp.Symbol) map[string]string {
	m := make(map[string]string)
	rest, _ := sexp.Rest(v, key)
	for _, r := range rest {
		if l, ok := r.(*sexp.List); ok && len(l.Items) == 1 && l.Tail != nil {
			m[displayed(l.Items[0])] = displayed(l.Tail)
		}
	}
	return m
}
