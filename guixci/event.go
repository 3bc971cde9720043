package guixci

import (
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/inferior"
)

// A Kind says what an Event tells.
type Kind string

// The kinds of events, in the order of a run.
const (
	Locked        Kind = "lock"         // Lock
	Authenticated Kind = "authenticate" // Commits
	Pulled        Kind = "pull"         // Verdict; also when it is red
	Evaluated     Kind = "job"          // Job: one was lowered, or could not be
	Enumerated    Kind = "evaluation"   // all jobs are known; builds go on
	Built         Kind = "build"        // Build: one derivation started, is retried, or has ended
)

// An Event is something that happened in a run. Beside the first three fields only those
// that its kind names are set, and Lock where there is one. Its JSON form is a line of "--json".
type Event struct {
	Kind          Kind
	Time          time.Time
	Specification string // its name; empty for the start and end of a build in a run of several
	Lock          *channel.Lock
	Commits       int
	Verdict       *Verdict
	Job           *inferior.Job
	Build         *build.Event
}
