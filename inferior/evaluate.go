package inferior

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"
)

// EvaluateOptions say what to evaluate. Channels, Packages, Modes, Manifests and
// Modules add up; with none of them there are no jobs.
type EvaluateOptions struct {
	// Session says which Guix to ask; its Program is usually [Profile.Guix].
	Session Options
	// Systems to lower packages for, such as x86_64-linux, in this order.
	// None means the one that Guix runs on.
	Systems []string
	// Channels whose packages are wanted, by name. They must be in the profile; a
	// Guix that is not from a profile has one channel, "guix".
	Channels []string
	// Packages by specification: "hello", "guile@3.0". Unlike a channel's
	// packages they are wanted even if not supported or not substitutable.
	Packages []string
	// Modes of Cuirass that take no arguments.
	Modes []Mode
	// Manifests are files with manifests, looked up in the directories of
	// Checkouts. A manifest that does not load is one bad job.
	Manifests []string
	// Modules with a procedure cuirass-jobs of their own, Cuirass's mode
	// "custom", such as "(my jobs)". It is called once for each system and
	// makes all its jobs or none.
	Modules []string
	// Checkouts of the channels: where Manifests are, and where the modes
	// guix, images and system-tests find the source of Guix.
	Checkouts []Checkout
	// LoadPath are directories with more package modules, searched first, like
	// those of "guix build -L".
	LoadPath []string
	// Unsubstitutable asks also for a channel's packages whose derivations
	// say that they are not to be substituted. Guix's own CI leaves them out.
	Unsubstitutable bool
	// Sessions is how many inferiors to run side by side; 0 means 1. They share
	// the packages, cut by source file, and each lists all of them first, which
	// takes seconds for the whole of Guix; so only as many run as there is work for.
	Sessions int
	// SessionMemory is the resident memory, in bytes, above which a session is
	// replaced by a fresh one between two packages; 0 means 2 GiB. One that reaches
	// Session.Memory, by default twice that, is killed, and the package with it. Less than
	// the Guix at hand needs for listing packages is a fresh session every few packages.
	// Unless Session.Env says otherwise, Guile's collector is told to make use of what
	// it may.
	SessionMemory int64
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
	// Name is what (gnu ci) calls the job: PACKAGE.SYSTEM, base.PACKAGE.SYSTEM for what
	// Guix's build systems use, PACKAGE.SYSTEM.ARCHITECTURE for a tuned package,
	// TRIPLET.PACKAGE.SYSTEM for a cross-compiled one, test.NAME.SYSTEM,
	// IMAGE.SYSTEM, and PACKAGE-VERSION for an entry of a manifest. Two
	// versions of a package have the same one.
	Name string
	// Key is Name for the newest of the packages with that Name, and for the
	// others Name with @VERSION after the package's name, then #2, #3, …
	// if there are several of that version. No two jobs of an evaluation have the same Key and
	// System, but for those that a module of Modules calls the same.
	Key    string
	System string
	// Derivation is the .drv in the store; empty if Err is not nil. It is
	// safe from garbage collection until the sequence ends, and no longer; less
	// long if its session is replaced. Who needs it longer roots it when it comes.
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
	// SupportedSystems are those that the package says it can be built on.
	SupportedSystems []string
	// MaxSilentTime and Timeout are how long a build of it may be
	// silent, and take: the package's properties, else 1 and 20 hours, or
	// 1 and 5 hours for what is not built as a package.
	MaxSilentTime time.Duration
	Timeout       time.Duration
	// Substitutable is false if the result is not meant for others.
	Substitutable bool
	// Err is the exception that prevented the derivation; nil if there is one.
	// Its key is package-timeout for a package that took too long,
	// session-ended for one that killed its inferior and package-memory for
	// one that ate its memory.
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
	keyMemory  = "package-memory"
	keyEnded   = "session-ended"
)

var errEnough = errors.New("no more jobs are wanted")

// Evaluate starts inferiors, lists the packages asked for and lowers one
// after the other, without grafts, yielding each job as soon as it is known, in no
// particular order if there are several sessions. A package
// that throws is a job with Err. So is one that takes too long, or kills its
// inferior, or eats its memory, also in an inferior that has done nothing else before;
// then another inferior takes over. An error that is not a
// job's is the last thing yielded: no inferior could be started, or the packages not be
// listed, or ctx has ended.
func Evaluate(ctx context.Context, o EvaluateOptions) iter.Seq2[Job, error] {
	return func(yield func(Job, error) bool) {
		err := o.check()
		if err == nil {
			err = newEvaluation(o).run(ctx, yield)
		}
		if err != nil {
			yield(Job{}, fmt.Errorf("evaluate packages: %w", err))
		}
	}
}

// An evaluation is the state of one Evaluate.
type evaluation struct {
	EvaluateOptions
	entries []entry // not changed once the first session has listed them
	work    *shares
}

func newEvaluation(o EvaluateOptions) *evaluation {
	if o.Sessions == 0 {
		o.Sessions = 1
	}
	if o.SessionMemory == 0 {
		o.SessionMemory = 2 << 30
	}
	if o.PackageTimeout == 0 {
		o.PackageTimeout = 5 * time.Minute
	}
	if o.EnumerateTimeout == 0 {
		o.EnumerateTimeout = 15 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Session.Memory == 0 {
		o.Session.Memory = 2 * o.SessionMemory
	}
	o.Session.Env = heapSettings(o.Session.Env, o.Sessions, o.SessionMemory)
	return &evaluation{EvaluateOptions: o}
}

// run lets workers lower the packages and yields what they find.
func (e *evaluation) run(ctx context.Context, yield func(Job, error) bool) error {
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	first, err := e.open(within, false)
	if err != nil {
		return err
	}
	e.work = newShares(e.total(), e.Sessions, e.sameFile)
	found := make(chan Job)
	finished := make(chan error, 1)
	go func() { // joined by receiving from finished, after found is closed
		defer close(found)
		finished <- e.workAll(within, first, found)
	}()
	enough := false
	for job := range found { // to its end, for the workers to end
		if !enough && ctx.Err() == nil && !yield(job, nil) {
			enough = true
			cancel(errEnough)
		}
	}
	if err := <-finished; !enough {
		return err
	}
	return nil
}

// total is the number of items there are to lower.
func (e *evaluation) total() int { return len(e.entries) * len(e.Systems) }

// sameFile reports whether item i and the one before it are of one file and system.
func (e *evaluation) sameFile(i int) bool {
	n := len(e.entries)
	return i%n != 0 && e.entries[i%n].location.File == e.entries[i%n-1].location.File
}
