package container

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// A Deployment is one place where a container runs: at any time at most one
// generation of it does. Its methods may be called concurrently and from several
// processes; those that change anything take turns by the lease in Dir.
// Fields must not change after the first call. A generation is handled as they say when it is
// applied, also by somebody who has not got them: see [Handling].
type Deployment struct {
	// Name is used in messages and in the name of the control group. Required.
	Name string
	// Dir holds the state. Required, absolute, made when missing with mode 0700.
	Dir string
	// Shares are the directories of the host the container may write,
	// Exposes those that it may only read.
	Shares, Exposes []Mount
	// Environment is what else the container is given here.
	Environment Environment
	// Probes say when a generation is healthy.
	// Empty means [Alive] and [AllServices].
	Probes Probes
	// Schedule says how often they are tried and how long.
	Schedule Schedule
	// Root makes link an indirect GC root of the store item, as the daemon's
	// add-indirect-root does, the link included.
	// Nil keeps no roots: the collector may then delete any generation
	// that is not running.
	Root func(ctx context.Context, link, item string) error
	// Closures tells of what a script needs; nil leaves out of plans and the
	// preflight what can only be known from that.
	Closures Closures
	// Switch says how one generation takes the place of another.
	Switch Switch
	// Follows is the deployment that this one follows, as production follows CD: a store item other than the one that is
	// confirmed there, or one that does not run well there just now, is refused, unless [Revision.AllowUnconfirmed]. Only its
	// Name, Dir and Runners count. Nil is for one that follows nobody.
	Follows *Deployment
	// ConfirmBy is how long a healthy generation waits for [Deployment.Confirm] before it
	// is taken back; 0 confirms it at once. To have it confirmed by itself after a
	// delay, let its Schedule have a longer Window.
	ConfirmBy time.Duration
	// Waiting is told when a healthy generation begins to wait for that, and until when; nil tells nobody.
	Waiting func(generation int, until time.Time)
	// Keep says which generations stay; the zero value keeps all.
	Keep Retention
	// MayFetch names the services that may fetch code from elsewhere when they start; others
	// that do are refused, see [Fetch].
	MayFetch []string
	// Renamed are the accounts that go on under other names. Where an account that is gone has left files in a
	// writable mount, no other one may have its number.
	Renamed []Renaming
	// MinFree is the space in bytes that must be free on every disk that is going to be
	// written to; 0 means 256 MiB.
	MinFree int64
	// StartTimeout limits the time until the container's first process exists, half of it for each
	// of two attempts when the launcher hangs;
	// 0 means one minute.
	StartTimeout time.Duration
	// StopTimeout is how long Shepherd gets to stop its services before
	// the whole container is killed; 0 means 30 seconds.
	StopTimeout time.Duration
	// Runners are what an [Environment] may name to run its container; empty is only
	// our own [Supervisor], which needs no name. All programs that work on the
	// deployment must have the same.
	Runners map[string]Runner
	// Who does things, and Why, are for the lease and the ledger, where a [Revision] does not say; may be empty.
	Who, Why string
	// Logger is told of each step and, at the level of debugging, of each probe that fails; nil discards.
	Logger *slog.Logger

	places       map[string]string // where the file has what, such as "mount state"; nil for none
	live         string            // the state directory of what this one runs beside; empty for none
	proven       bool              // what is gone back to was confirmed before, and need not be again
	socket       string            // of Shepherd, inside the container; empty means shepherdSockets
	unprivileged bool              // a test's launcher needs no root
}

// A Mount is a directory of the host that the container sees.
type Mount struct {
	// Name says what it is for, such as "state", and is the same in all
	// environments; may be empty.
	Name   string `json:"name,omitempty"`
	Source string `json:"source"`           // on the host
	Target string `json:"target,omitempty"` // in the container; empty means the same as Source
	// Owner is the account of the container, or a number, to which a writable mount
	// must belong; empty for whomever.
	Owner string `json:"owner,omitempty"`
	// Concurrent says that two generations may write to it at the same time, and containers of others, too, that were
	// given a directory above it. That another one was given just this directory is refused all the same.
	Concurrent bool `json:"concurrent,omitempty"`
}

// target returns where the container sees the mount.
func (m Mount) target() string {
	if m.Target == "" {
		return m.Source
	}
	return m.Target
}

// A Revision is what Apply is asked to run, by whom, and why.
type Revision struct {
	Script string // file name of a run-container
	Lock   string // digest of the Lock it was built from; may be empty
	// Channels are those of the Lock, for telling what a change consists of; may be empty.
	Channels []Channel
	Who      string // for the lease and the ledger; empty means that of the deployment
	Why      string // likewise
	// Descends reports whether the commit of new has that of old, another one of the same
	// channel, in its history: a revision that takes a channel back is refused. Nil lets every channel go anywhere.
	Descends func(ctx context.Context, old, new Channel) (bool, error)
	// AllowDowngrade tries it all the same; the ledger says so.
	AllowDowngrade bool
	// AllowUnconfirmed tries what is not confirmed, or does not run well, where the deployment follows; the ledger says so.
	AllowUnconfirmed bool
	// Force tries a revision again that was rejected before.
	Force bool
	// RestoreState has [Deployment.RollBack] put back the snapshot of the state that the
	// generation left behind. What was written since is lost.
	RestoreState bool

	snapshotOf int // the generation whose snapshot is put back; 0 for none
	back       int // the generation that is gone back to; 0 for none
}

// A Channel is a channel of Guix at a commit.
type Channel struct {
	Name   string `json:"name"`
	URL    string `json:"url,omitempty"`
	Commit string `json:"commit"`
}

// A Generation is a revision that was tried, with all it takes to run it
// again: going back is starting an older generation, with the mounts
// and probes it had then.
type Generation struct {
	Number      int         `json:"number"` // counts from 1
	Script      string      `json:"script"`
	Lock        string      `json:"lock,omitempty"`
	Shares      []Mount     `json:"shares,omitempty"`
	Exposes     []Mount     `json:"exposes,omitempty"`
	Environment Environment `json:"environment,omitzero"`
	Channels    []Channel   `json:"channels,omitempty"`
	Probes      Probes      `json:"probes,omitempty"`
	// Schedule is that of the probes.
	Schedule Schedule `json:"schedule"`
	// Handling is no part of the [Generation.Bindings]; generations of older versions have none.
	Handling Handling `json:"handling,omitzero"`
	// Switch is how it was to take the place of the one before, Switched what that took;
	// nil before it was tried.
	Switch   Switch    `json:"switch,omitzero"`
	Switched *Switched `json:"switched,omitempty"`
	Created  time.Time `json:"created"`
	// Started is when it last became healthy; zero if it never did.
	Started time.Time `json:"started,omitzero"`
	// Checked is what its probes said when it was last tried.
	Checked []Checked `json:"checked,omitempty"`
	// Pinned generations are never removed.
	Pinned bool `json:"pinned,omitempty"`
	// Rejected says why it was given up; empty if it was not.
	Rejected string `json:"rejected,omitempty"`
	// Withdrawn is true after somebody has gone back from it: it was healthy, and not good.
	Withdrawn bool `json:"withdrawn,omitempty"`
}

// well reports whether it is one to go back to.
func (g *Generation) well() bool { return !g.Started.IsZero() && g.Rejected == "" && !g.Withdrawn }

// shepherdSockets are where shepherd listens: as Guix builds it, and as others do.
var shepherdSockets = []string{"/var/run/shepherd/socket", "/run/shepherd/socket"}

const (
	defaultStartTimeout = time.Minute
	defaultStopTimeout  = 30 * time.Second
)

func (d *Deployment) log() *slog.Logger {
	if d.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Logger.With("deployment", d.Name)
}

func (d *Deployment) path(elem ...string) string {
	return filepath.Join(append([]string{d.Dir}, elem...)...)
}

// prepare makes the state directory. What it holds tells where data and secrets of
// the deployment are, so only its owner may look.
func (d *Deployment) prepare() error {
	return os.MkdirAll(d.path("generations"), 0o700)
}
