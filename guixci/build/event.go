package build

import (
	"time"

	"github.com/genenetwork/guixci/guixci/store"
)

// A StorePath is the full name of a store item.
type StorePath = store.StorePath

// A Job is somebody's wish to have the outputs of a derivation.
// Several jobs may name the same derivation.
type Job struct {
	Name       string // for the caller; need not be unique
	Owner      string // likewise: on whose behalf
	Derivation StorePath
	Priority   int    // lower goes first; Cuirass has 0 to 9
	Limits     Limits // of its own derivation; what that needs has the scheduler's
}

// Limits end a build that goes on for too long in some way.
// In each field zero means the default and negative no limit.
type Limits struct {
	Timeout   time.Duration // default 20 h, as in (gnu ci)
	MaxSilent time.Duration // without any output; default 1 h, likewise
	MaxLog    int64         // bytes of log; default 1 GiB
}

// or fills in what l leaves open.
func (l Limits) or(d Limits) Limits {
	if l.Timeout == 0 {
		l.Timeout = d.Timeout
	}
	if l.MaxSilent == 0 {
		l.MaxSilent = d.MaxSilent
	}
	if l.MaxLog == 0 {
		l.MaxLog = d.MaxLog
	}
	return l
}

var defaultLimits = Limits{Timeout: 72000 * time.Second, MaxSilent: 3600 * time.Second, MaxLog: 1 << 30}

// A Result is what became of a derivation.
type Result struct {
	Derivation StorePath
	Cause      Cause
	// Culprit is the derivation to blame, if it is another one: with DependencyFailed one that
	// failed by its own fault, with any other cause one that ended so.
	Culprit    StorePath
	Outputs    map[string]StorePath // by name; nil if the derivation could not be read; must not be changed
	Present    bool                 // nothing had to be built
	Fetched    bool                 // it was not built but fetched, see [Scheduler.Substitutes]
	Remembered bool                 // not tried: it failed before, see [Scheduler.Known]
	Attempts   int                  // how often it was tried now
	Started    time.Time            // of the first attempt; zero if there was none
	Stopped    time.Time
	Log        string   // file name, for [OpenLog]; empty if there is none
	Telling    []string // lines of the log that may say why it failed
	Message    string   // what the daemon or the system says about the failure
}

// A Kind says what an [Event] tells.
type Kind string

// The kinds of events.
const (
	Started  Kind = "started"  // the first attempt begins; Result has Started and Log
	Retrying Kind = "retrying" // an attempt has failed, another follows; Result says why
	// (with [NotFetched] it is to be built, after what it needs)
	Finished Kind = "finished" // the derivation has its Result; once for each that was to be built
	JobDone  Kind = "job"      // and so has this Job; once for each job that was added
)

// An Event is something that happened to a derivation.
type Event struct {
	Kind       Kind
	Derivation StorePath
	Result     Result // as far as it is known
	Job        Job    // of JobDone only
}
