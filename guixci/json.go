package guixci

import (
	"encoding/json"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/inferior"
)

// jsonJob is the JSON form of an [inferior.Job].
type jsonJob struct {
	Name   string `json:"name"`
	System string `json:"system"`
	Metadata
	Derivation string `json:"derivation,omitempty"`
	Error      string `json:"error,omitempty"` // "KEY: message" of what prevented it
}

func newJSONJob(j *inferior.Job) *jsonJob {
	if j == nil {
		return nil
	}
	f := &jsonJob{Name: j.Name, System: j.System, Metadata: metadata(*j), Derivation: j.Derivation}
	if j.Err != nil {
		f.Error = unlowered(*j)
	}
	return f
}

// jsonBuild is the JSON form of a [build.Event].
type jsonBuild struct {
	Kind       build.Kind                 `json:"kind"`
	Derivation store.StorePath            `json:"derivation"`
	Job        string                     `json:"job,omitempty"`   // its name, when it is done
	Cause      build.Cause                `json:"cause,omitempty"` // when it has ended
	Culprit    store.StorePath            `json:"culprit,omitempty"`
	Outputs    map[string]store.StorePath `json:"outputs,omitempty"`
	Present    bool                       `json:"present,omitempty"`
	Remembered bool                       `json:"remembered,omitempty"`
	Attempts   int                        `json:"attempts,omitempty"`
	Started    time.Time                  `json:"started,omitzero"`
	Stopped    time.Time                  `json:"stopped,omitzero"`
	Log        string                     `json:"log,omitempty"`
	Telling    []string                   `json:"telling,omitempty"`
	Message    string                     `json:"message,omitempty"`
}

func newJSONBuild(e *build.Event) *jsonBuild {
	if e == nil {
		return nil
	}
	r := e.Result
	return &jsonBuild{
		Kind: e.Kind, Derivation: e.Derivation, Job: e.Job.Name, Cause: r.Cause, Culprit: r.Culprit,
		Outputs: r.Outputs, Present: r.Present, Remembered: r.Remembered, Attempts: r.Attempts,
		Started: r.Started, Stopped: r.Stopped, Log: r.Log, Telling: r.Telling, Message: r.Message,
	}
}

// MarshalJSON returns an object with "event", "time", "specification" and what the kind
// of the event names, less what is not known.
func (e Event) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Kind          Kind          `json:"event"`
		Time          time.Time     `json:"time"`
		Specification string        `json:"specification"`
		Lock          *channel.Lock `json:"lock,omitempty"`
		Commits       *int          `json:"commits,omitempty"`
		Verdict       *Verdict      `json:"verdict,omitempty"`
		Job           *jsonJob      `json:"job,omitempty"`
		Build         *jsonBuild    `json:"build,omitempty"`
	}{e.Kind, e.Time, e.Specification, e.Lock, e.commits(), e.Verdict, newJSONJob(e.Job), newJSONBuild(e.Build)})
}

// commits is nil for events that do not count any: to have authenticated none is news, too.
func (e Event) commits() *int {
	if e.Kind != Authenticated {
		return nil
	}
	return &e.Commits
}
