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

// An Event is something that happened in a run. Only the fields its kind names are set.
// Its JSON form, less what is nil, is a line of "--json".
type Event struct {
	Kind          Kind          `json:"event"`
	Time          time.Time     `json:"time"`
	Specification string        `json:"specification"`
	Lock          *channel.Lock `json:"lock,omitempty"`
	Commits       int           `json:"commits,omitempty"`
	Verdict       *Verdict      `json:"verdict,omitempty"`
	Job           *inferior.Job `json:"job,omitempty"`
	Build         *build.Event  `json:"build,omitempty"`
}
