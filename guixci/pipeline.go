package guixci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/substitute"
)

// Options say how a Pipeline works. The zero value does for a machine with Guix.
type Options struct {
	// Guix is the program that pulls and is not itself part of any lock;
	// empty means guix in PATH.
	Guix string
	// Daemon is the address of guix-daemon; empty means $GUIX_DAEMON_SOCKET or the usual socket.
	Daemon string
	// Slots is how many derivations are built at the same time; 0 means 1.
	Slots int
	// Limits bound all builds, however long their packages say they may take.
	Limits build.Limits
	// MinFree is how many bytes must be free in the store's file system for a build to start;
	// 0 means 256 MiB, and less than 0 none.
	MinFree int64
	// PullTimeout is how long one guix pull may take; 0 means 12 hours. What guix-daemon
	// builds for it is bounded by Limits, too, and must not be silent for an hour.
	PullTimeout time.Duration
	// PullMemory is how many bytes guix pull and its children, but not what guix-daemon
	// builds for it, may occupy; 0 means 8 GiB.
	PullMemory int64
	// UseSubstitutes lets guix-daemon fetch what somebody else has built, and jobs need, or are.
	UseSubstitutes bool
	// SubstituteURLs are the servers to fetch from; empty means those of guix-daemon, which
	// believes in others only if it trusts this user.
	SubstituteURLs []string
	// Notify is told what happens, in order. Everything waits for it, so it must return
	// soon, and not call the Pipeline; nil tells nobody.
	Notify func(Event)
	// Cores is how many processor cores a build may use; 0 leaves it to guix-daemon.
	Cores int
	// Until ends runs early: with [Pulled] after the verdict, with [Enumerated] when all jobs are
	// known, without building them. Such evaluations are recorded as aborted. Empty goes on to the end.
	Until Kind
	// Publish keeps an archive of everything that is built, so that [Pipeline.Handler]
	// can offer it even when the store has collected it as garbage.
	Publish bool
	// Log gets what guix pull and guix system print, as it comes; nil discards it.
	Log io.Writer
	// Logger is told of what is not an event; nil discards.
	Logger *slog.Logger
}

// A Pipeline is all of guixci at work in one state directory. Its methods may be called
// concurrently, but only one process may have a state directory open.
type Pipeline struct {
	dir    string
	o      Options
	record *record.Record
	repos  *channel.Repositories
	puller *inferior.Puller
	pool   *store.Pool
	roots  *build.Roots
	cache  *substitute.Cache // nil if nothing is published

	turn  chan struct{} // holds a token while a Run is at work
	tells sync.Mutex    // held while Notify is told

	mu        sync.Mutex       // guards what follows
	again     map[string]bool  // specifications that Retry was asked for
	scheduler *build.Scheduler // of the Run at work; nil if there is none
}

// Open opens a state directory, which is made, with mode 0700, when missing.
// Another process that has it open is a *[record.HeldError],
// a full disk a *[record.SpaceError]. The caller must Close the Pipeline.
func Open(dir string, o Options) (*Pipeline, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %v", err)
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	r, err := record.Open(dir)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"repos", "profiles", "roots", "logs", "keys"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			r.Close()
			return nil, fmt.Errorf("open state directory: %w", err)
		}
	}
	p := &Pipeline{
		dir: dir, o: o, record: r, turn: make(chan struct{}, 1), again: map[string]bool{},
		repos: &channel.Repositories{Dir: filepath.Join(dir, "repos"), Logger: o.Logger},
		puller: &inferior.Puller{Guix: o.Guix, Dir: filepath.Join(dir, "profiles"),
			CacheDir: filepath.Join(dir, "cache"), Log: o.Log, Logger: o.Logger,
			Memory: cmp.Or(o.PullMemory, 8<<30), Timeout: cmp.Or(o.PullTimeout, 12*time.Hour),
			BuildTimeout: o.Limits.Timeout, BuildMaxSilent: cmp.Or(o.Limits.MaxSilent, time.Hour)},
		pool: &store.Pool{Address: o.Daemon, Logger: o.Logger},
	}
	p.roots = &build.Roots{Dir: p.path("roots"), Pool: p.pool}
	if o.Publish {
		key, err := p.Key()
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		p.cache = &substitute.Cache{Dir: p.path("nar"), Key: key}
	}
	return p, nil
}

// Close lets go of the state directory and of guix-daemon.
func (p *Pipeline) Close() error { return errors.Join(p.pool.Close(), p.record.Close()) }

// Record is what happened so far.
func (p *Pipeline) Record() *record.Record { return p.record }

// Store is the connection to guix-daemon.
func (p *Pipeline) Store() *store.Pool { return p.pool }

// Follow yields the log of a build as [build.Scheduler.Follow] does: while it is built, from its
// beginning and as it grows, to any number of followers; later, as it was.
func (p *Pipeline) Follow(ctx context.Context, drv store.StorePath) iter.Seq2[[]byte, error] {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.scheduler != nil {
		return p.scheduler.Follow(ctx, drv)
	}
	return (&build.Scheduler{Logs: p.path("logs")}).Follow(ctx, drv)
}

// Cancel stops builds that are under way, and keeps those that are not from beginning, as
// [build.Scheduler.Cancel] does, for the Run at work: the next one builds them. Without one it does nothing.
func (p *Pipeline) Cancel(drvs ...store.StorePath) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.scheduler != nil {
		p.scheduler.Cancel(drvs...)
	}
}

// atWork says which scheduler is at work.
func (p *Pipeline) atWork(s *build.Scheduler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scheduler = s
}

func (p *Pipeline) path(elem ...string) string {
	return filepath.Join(append([]string{p.dir}, elem...)...)
}

func (p *Pipeline) notify(specification string, e Event) {
	if p.o.Notify == nil {
		return
	}
	e.Specification = specification
	e.Time = time.Now()
	p.tells.Lock()
	defer p.tells.Unlock()
	p.o.Notify(e)
}

// A LockError says that channels cannot be resolved by their own fault: a .guix-channel
// that is not one, or lacks what it must have. There is no lock to have a verdict on.
type LockError struct{ Err error }

func (e *LockError) Error() string { return e.Err.Error() }

// Unwrap returns the fault, a *[sexp.SyntaxError] with file, line and column.
func (e *LockError) Unwrap() error { return e.Err }

// ExitCode returns the status a program should end with.
func (e *LockError) ExitCode() int { return red }

// red is the exit status of programs for what was asked about and is not as it should be: the answer is known, and is no.
const red = 1

// Lock resolves the channels of spec to the commits they stand at now. The error is a
// *[LockError] when the channels are to blame; any other says nothing about them.
func (p *Pipeline) Lock(ctx context.Context, spec Specification) (*channel.Lock, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	lock, err := p.resolver().Resolve(ctx, spec.Channels)
	var syntax *sexp.SyntaxError
	if errors.As(err, &syntax) {
		return nil, &LockError{err}
	}
	if err != nil {
		return nil, err
	}
	p.notify(spec.Name, Event{Kind: Locked, Lock: lock})
	return lock, nil
}

func (p *Pipeline) resolver() *channel.Resolver {
	return &channel.Resolver{Repositories: p.repos, Logger: p.o.Logger}
}

// Authenticate checks that the commits of lock, and those before them that were
// not checked yet, are signed by whom each channel authorizes. The error is a
// *[channel.AuthError] when one is not.
func (p *Pipeline) Authenticate(ctx context.Context, lock *channel.Lock) ([]*channel.Authentication, error) {
	a := &channel.Authenticator{Repositories: p.repos, Cache: p.path("authenticated"), Logger: p.o.Logger}
	return a.AuthenticateLock(ctx, lock)
}

// Pull returns the profile of lock: the Guix that "guix pull" makes of it. It is made
// once and kept. The error is an *[inferior.PullError] when it cannot be made.
func (p *Pipeline) Pull(ctx context.Context, lock *channel.Lock) (*inferior.Profile, error) {
	// Without a daemon nothing can be pulled; that is best said in our own words.
	if err := p.pool.Do(ctx, func(*store.Client) error { return nil }); err != nil {
		return nil, fmt.Errorf("pull channels: %w", err)
	}
	return p.puller.Pull(ctx, lock.Digest(), channelsText(lock))
}

// daemonLogs is where guix-daemon writes the logs of builds.
const daemonLogs = "/var/log/guix/drvs"

// keep makes what was built safe before anybody is told of it: from the garbage collector,
// and in the cache that is published.
func (p *Pipeline) keep(ctx context.Context, r build.Result) error {
	if err := p.roots.Add(ctx, r); err != nil || p.cache == nil {
		return err
	}
	for _, output := range r.Outputs {
		info, err := p.pool.Info(ctx, output.Hash())
		if err != nil {
			return err
		}
		if err := p.cache.Add(ctx, p.pool, info); err != nil {
			return err
		}
	}
	return nil
}

// Handler serves the store to guix-daemons that authorize [Pipeline.Key],
// as "guix publish" would, and the logs of builds with it.
func (p *Pipeline) Handler() (http.Handler, error) {
	key, err := p.Key()
	if err != nil {
		return nil, err
	}
	var source substitute.Source = p.pool
	if p.cache != nil {
		source = substitute.First(p.pool, p.cache)
	}
	return &substitute.Handler{
		Source: source, Cache: p.cache, Key: key, Logger: p.o.Logger,
		Log: substitute.LogDir(os.DirFS(daemonLogs), p.pool),
	}, nil
}

// Key returns the key that signs what Handler serves. It is made at first use and
// kept in the state directory.
func (p *Pipeline) Key() (*substitute.PrivateKey, error) {
	return substitute.EnsureKeyPair(p.path("keys", "signing-key.sec"))
}
