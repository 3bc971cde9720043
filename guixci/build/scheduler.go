package build

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"time"
)

// A Store answers what must be known before building. Its methods may be
// called concurrently. [Daemon] is one.
type Store interface {
	// ValidPaths returns those of paths that are in the store.
	ValidPaths(ctx context.Context, paths []StorePath) ([]StorePath, error)
	// Hold keeps paths, which need not exist yet, from being collected as
	// garbage for as long as the scheduler may need them.
	Hold(ctx context.Context, paths []StorePath) error
}

// A Builder builds. It is called concurrently, once for each slot. [Daemon] is one.
type Builder interface {
	// Build makes the outputs of drv valid. Everything it needs is valid.
	// It writes what the builder prints to log as it comes, and returns when the
	// builder has ended, which it makes happen when ctx ends. The scheduler
	// watches the limits itself; they are given for builders that can tell others.
	// Errors are [*store.BuildError], [*store.DaemonError] or wrap [store.ErrClosed];
	// any other counts as [NotStarted].
	Build(ctx context.Context, drv StorePath, limits Limits, log io.Writer) error
}

// A Fetcher gets from substitute servers what somebody else has built. It is called
// concurrently, once for each slot. [Daemon] is one.
type Fetcher interface {
	// Substitutable returns those of paths that can be fetched.
	Substitutable(ctx context.Context, paths []StorePath) ([]StorePath, error)
	// Fetch makes paths valid, and what they refer to. It writes what is said meanwhile
	// to log. Errors are as for [Builder.Build].
	Fetch(ctx context.Context, paths []StorePath, log io.Writer) error
}

// A Scheduler builds what its jobs want. Its exported fields may be changed
// until the first method call. It serves for one Run: what it has found to be
// built or broken it does not ask about again.
type Scheduler struct {
	Store   Store   // required
	Builder Builder // required
	// Derivations has the derivations, by name without directory. Nil means /gnu/store.
	Derivations fs.FS
	// Substitutes is asked first whether what is missing can be fetched; what it needs
	// to be built is then not looked at. What was found but cannot be fetched after all is
	// built. Nil builds everything.
	Substitutes Fetcher
	// Slots is how many derivations are built at the same time. 0 means 1.
	Slots int
	// Logs is the directory for log files, made if need be; see [OpenLog] and
	// [Scheduler.Follow]. Empty keeps none, only the telling lines.
	Logs string
	// Limits are for builds whose job does not say otherwise.
	Limits Limits
	// Attempts is how often a build is tried at most when the machinery fails. 0 means 5.
	Attempts int
	// Backoff is how long to wait after the first such failure; it doubles each time. 0 means 2 s.
	Backoff time.Duration
	// MinFree is how many bytes must be free in the store's file system for a
	// build to start; else it has failed with [DiskFull]. 0 does not look.
	MinFree int64
	// Known says which of some missing derivations are known to fail, and how:
	// they are not tried. Nil means none.
	Known func(ctx context.Context, drvs []StorePath) (map[StorePath]Result, error)
	// Root makes the outputs of a derivation safe from the garbage collector
	// for good. It is called concurrently, for everything built, and for jobs whose outputs were there,
	// before anybody is told of the success. Nil leaves them with [Store.Hold].
	Root func(ctx context.Context, r Result) error
	// Notify is told what happens, in order, from the goroutine of Run, which
	// waits for it: it must not call Run. Nil means nobody.
	Notify func(Event)
	// Logger is told of retries and of failures that are no build's. Nil discards.
	Logger *slog.Logger

	once sync.Once
	wake chan struct{} // holds a token when there is something in the inbox
	live liveLogs

	mu    sync.Mutex // guards inbox
	inbox inbox
}

// An inbox is what Run has not heard of yet.
type inbox struct {
	added  []Job
	cancel []StorePath
	retry  []StorePath
	sealed bool
}

func (s *Scheduler) init() {
	s.once.Do(func() { s.wake = make(chan struct{}, 1) })
}

// Add gives the scheduler more to do. It does not block and may be called from
// anywhere, before and during Run. What is added after [Scheduler.Seal] is
// still built if Run has not ended by then, so callers seal when they have added all.
func (s *Scheduler) Add(jobs ...Job) {
	s.put(func() { s.inbox.added = append(s.inbox.added, jobs...) })
}

// Seal says that all jobs have been added: Run ends when they are done.
func (s *Scheduler) Seal() {
	s.put(func() { s.inbox.sealed = true })
}

// Cancel stops the builds of derivations, or sees to it that they do not
// begin. Jobs that want one of them end with [Cancelled], and so do those
// that need it. What only they needed is stopped as well. What has ended stays as it is, and
// a derivation nobody has asked for is ignored.
func (s *Scheduler) Cancel(drvs ...StorePath) {
	s.put(func() { s.inbox.cancel = append(s.inbox.cancel, drvs...) })
}

// Retry forgets that derivations failed, and what became of others on their account, so that
// they are tried when a job that is added from then on wants them. What has not failed stays
// as it is. To retry one build add its job again; to retry it and all that depends on it,
// also the jobs whose Result named it as Culprit.
//
// What [Scheduler.Known] knows is forgotten for this Run only; for later ones it is up to
// whoever remembers.
func (s *Scheduler) Retry(drvs ...StorePath) {
	s.put(func() { s.inbox.retry = append(s.inbox.retry, drvs...) })
}

// put changes the inbox and wakes Run up.
func (s *Scheduler) put(change func()) {
	s.init()
	s.mu.Lock()
	change()
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox.
func (s *Scheduler) take() inbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.inbox
	s.inbox = inbox{sealed: taken.sealed}
	return taken
}

func (s *Scheduler) slots() int { return max(1, s.Slots) }

func (s *Scheduler) attempts() int {
	if s.Attempts == 0 {
		return 5
	}
	return s.Attempts
}

// backoff is how long to wait after attempt n, counted from 1.
func (s *Scheduler) backoff(n int) time.Duration {
	base := s.Backoff
	if base == 0 {
		base = 2 * time.Second
	}
	return base << min(n-1, 10)
}

func (s *Scheduler) logger() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}
