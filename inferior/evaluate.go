package inferior

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// EvaluateOptions say what to evaluate. Channels and Packages add up; with
// neither there are no jobs.
type EvaluateOptions struct {
	// Session says which Guix to ask; its Program is usually [Profile.Guix].
	Session Options
	// Systems to lower packages for, such as x86_64-linux, in this order.
	// None means the one that Guix runs on.
	Systems []string
	// Channels whose packages are wanted, by name. They must be in the profile.
	Channels []string
	// Packages by specification: "hello", "guile@3.0". Unlike a channel's
	// packages they are wanted even if not supported or not substitutable.
	Packages []string
	// LoadPath are directories with more package modules, searched first, like
	// those of "guix build -L".
	LoadPath []string
	// Unsubstitutable asks also for a channel's packages whose derivations
	// say that they are not to be substituted. Guix's own CI leaves them out.
	Unsubstitutable bool
	// PackageTimeout is how long one package may take to lower before it is
	// given up, together with the session; 0 means 5 minutes.
	PackageTimeout time.Duration
	// EnumerateTimeout is how long starting a session, loading modules and
	// listing packages may take; 0 means 15 minutes.
	EnumerateTimeout time.Duration
	// Logger gets what is not worth a job; nil discards it.
	Logger *slog.Logger
}

// A Job is one package for one system: a derivation, or why there is none.
type Job struct {
	// Name is PACKAGE.SYSTEM, or base.PACKAGE.SYSTEM for what Guix's build systems
	// use, as (gnu ci) names jobs. Two versions of a package have the same one.
	Name   string
	System string
	// Derivation is the .drv in the store; empty if Err is not nil. It is
	// safe from garbage collection until the sequence ends, and no longer.
	Derivation string
	// Outputs are the store items it makes, by name: "out", "doc", ….
	Outputs map[string]string
	// NixName is the derivation's name, PACKAGE-VERSION mostly.
	NixName string
	// Package is the package's name. For a module that cannot be loaded it
	// is the module's, "(my packages)", and for an unknown specification that.
	Package  string
	Version  string
	Location Location
	Synopsis string
	License  string // names, separated by ", "
	HomePage string
	// MaxSilentTime and Timeout are how long a build of it may be
	// silent, and take: the package's properties, else 1 and 20 hours.
	MaxSilentTime time.Duration
	Timeout       time.Duration
	// Substitutable is false if the result is not meant for others.
	Substitutable bool
	// Err is the exception that prevented the derivation; nil if there is one.
	// Its key is package-timeout for a package that took too long and
	// session-ended for one that killed its inferior.
	Err *Exception
}

// A Location is a place in a Scheme file.
type Location struct {
	File   string // relative to the load path, or absolute; empty if unknown
	Line   int    // counts from 1
	Column int    // counts from 0
}

// String returns "FILE:LINE", or the file alone if no line is known.
func (l Location) String() string {
	if l.Line == 0 {
		return l.File
	}
	return fmt.Sprintf("%s:%d", l.File, l.Line)
}

// Keys of the exceptions that are ours.
const (
	keyTimeout = "package-timeout"
	keyEnded   = "session-ended"
)

var errEnough = errors.New("no more jobs are wanted")

//go:embed evaluate.scm
var evaluateSource string

// Evaluate starts an inferior, lists the packages asked for and lowers one
// after the other, without grafts, yielding each job as soon as it is known. A package
// that throws is a job with Err. So is one that takes too long, or kills the
// inferior; then another inferior takes over. An error that is not a
// job's is the last thing yielded: no inferior could be started, or the packages not be
// listed, or ctx has ended.
func Evaluate(ctx context.Context, o EvaluateOptions) iter.Seq2[Job, error] {
	return func(yield func(Job, error) bool) {
		e := newEvaluation(o)
		if err := e.run(ctx, yield); err != nil {
			yield(Job{}, fmt.Errorf("evaluate packages: %w", err))
		}
	}
}

// An evaluation is the state of one Evaluate.
type evaluation struct {
	EvaluateOptions
	packages []identity
	next     int // index of the next job: system next / len(packages), package the rest
}

// An identity is what is known of a package before it is lowered.
type identity struct {
	name, version string
	location      Location
}

func newEvaluation(o EvaluateOptions) *evaluation {
	if o.PackageTimeout == 0 {
		o.PackageTimeout = 5 * time.Minute
	}
	if o.EnumerateTimeout == 0 {
		o.EnumerateTimeout = 15 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &evaluation{EvaluateOptions: o}
}

// run lowers all packages, in one session after another. Each session
// either finishes or has lost the one package that broke it, so this ends.
func (e *evaluation) run(ctx context.Context, yield func(Job, error) bool) error {
	for {
		s, err := e.open(ctx)
		if err != nil {
			return err
		}
		more, err := e.lower(ctx, s, yield)
		s.Close()
		if !more || err != nil {
			return err
		}
	}
}

// open returns a session that has listed the packages.
func (e *evaluation) open(ctx context.Context) (_ *Session, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.EnumerateTimeout,
		fmt.Errorf("packages not listed within %v", e.EnumerateTimeout))
	defer cancel()
	s, err := Start(ctx, e.Session)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.load(ctx, evaluateSource); err != nil {
		return nil, err
	}
	return s, e.enumerate(ctx, s)
}

// load evaluates each datum of a program.
func (s *Session) load(ctx context.Context, program string) error {
	r := sexp.NewReader(strings.NewReader(program))
	for {
		form, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := s.Eval(ctx, form); err != nil {
			return err
		}
	}
}

func (e *evaluation) enumerate(ctx context.Context, s *Session) error {
	if len(e.Systems) == 0 {
		v, err := s.Eval(ctx, sexp.L(sexp.Symbol("%current-system")))
		if err != nil {
			return err
		}
		system, _ := sexp.Text(v)
		e.Systems = []string{system}
	}
	names := sexp.L()
	for _, n := range e.Channels {
		names.Items = append(names.Items, sexp.Symbol(n))
	}
	reply, err := s.Eval(ctx, sexp.L(sexp.Symbol("guixci/enumerate"),
		sexp.Quote(names), sexp.Quote(sexp.Strings(e.Packages...)), sexp.Quote(sexp.Strings(e.LoadPath...))))
	if err != nil {
		return err
	}
	packages, err := decodeIdentities(reply)
	if err != nil {
		return err
	}
	if e.packages != nil && len(packages) != len(e.packages) {
		return fmt.Errorf("a second session lists %d packages, the first listed %d", len(packages), len(e.packages))
	}
	e.packages = packages
	e.Logger.Debug("packages listed", "count", len(packages), "channels", e.Channels)
	return nil
}

func decodeIdentities(reply sexp.Value) ([]identity, error) {
	items, ok := sexp.Items(reply)
	if !ok {
		return nil, fmt.Errorf("list of packages is %.80q", reply)
	}
	packages := make([]identity, len(items))
	for i, item := range items {
		fields, _ := sexp.Items(item)
		if len(fields) != 5 {
			return nil, fmt.Errorf("identity of a package is %.80q", item)
		}
		p := &packages[i]
		p.name, _ = sexp.Text(fields[0])
		p.version, _ = sexp.Text(fields[1])
		p.location.File, _ = sexp.Text(fields[2])
		p.location.Line = integer(fields[3])
		p.location.Column = integer(fields[4])
	}
	return packages, nil
}

func integer(v sexp.Value) int {
	n, _ := v.(sexp.Int)
	return int(n)
}

// total is the number of jobs there could be.
func (e *evaluation) total() int { return len(e.packages) * len(e.Systems) }

// calls are the expressions that lower what is left.
func (e *evaluation) calls(yield func(sexp.Value) bool) {
	for i := e.next; i < e.total(); i++ {
		p, system := i%len(e.packages), e.Systems[i/len(e.packages)]
		if !yield(sexp.L(sexp.Symbol("guixci/lower"), sexp.Int(p), sexp.String(system))) {
			return
		}
	}
}

// lower yields jobs until all are done, the consumer has enough, or the session breaks.
// more says that another session must go on.
func (e *evaluation) lower(ctx context.Context, s *Session, yield func(Job, error) bool) (more bool, err error) {
	late := fmt.Errorf("not lowered within %v", e.PackageTimeout)
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	clock := time.AfterFunc(e.PackageTimeout, func() { cancel(late) })
	defer clock.Stop()
	for v, err := range s.EvalAll(within, e.calls) {
		clock.Stop() // the consumer may take its time
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		job, wanted, err := e.job(v, err, late)
		if err != nil {
			return false, err
		}
		e.next++
		if wanted && !yield(job, nil) {
			cancel(errEnough) // what was sent ahead need not be waited for
			return false, nil
		}
		clock.Reset(e.PackageTimeout)
	}
	return e.next < e.total(), nil
}

// job returns the job that a reply is about: the next one.
func (e *evaluation) job(v sexp.Value, failure, late error) (job Job, wanted bool, err error) {
	job = e.blank()
	var exception *Exception
	switch {
	case failure == nil:
		wanted, err = e.fill(&job, v)
		return job, wanted, err
	case errors.As(failure, &exception):
		job.Err = exception
	case errors.Is(failure, late):
		job.Err = plainException(keyTimeout, late.Error())
	default:
		job.Err = plainException(keyEnded, failure.Error())
	}
	if job.Err.Key == keyTimeout || job.Err.Key == keyEnded {
		e.Logger.Warn("inferior lost", "job", job.Name, "err", failure)
	}
	return job, true, nil
}

// blank returns the next job as far as it is known without lowering.
func (e *evaluation) blank() Job {
	p := e.packages[e.next%len(e.packages)]
	system := e.Systems[e.next/len(e.packages)]
	return Job{Name: p.name + "." + system, System: system,
		Package: p.name, Version: p.version, Location: p.location}
}

func plainException(key, message string) *Exception {
	return &Exception{Key: key, Args: []sexp.Value{sexp.String(message)}}
}

// fill completes job from what guixci/lower returned.
// wanted is false if there is to be no job.
func (e *evaluation) fill(job *Job, v sexp.Value) (wanted bool, err error) {
	job.Synopsis = text(v, "synopsis")
	job.HomePage = text(v, "home-page")
	job.License = joined(v, "licenses")
	if _, base := sexp.Rest(v, "base"); base {
		job.Name = "base." + job.Name
	}
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
