package check

import (
	"fmt"
	"strings"
	"time"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/specification"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/internal/cli"
)

// A screen shows people what happens: on a terminal what is going on just now and how much is
// done, and anywhere a line for what they should know.
type screen struct {
	*cli.Progress
	several bool // specifications, so that lines say which one
	jobs    int  // that have a derivation
	done    int  // of those
	running []store.StorePath
}

func newScreen(p *cli.Progress) *screen { return &screen{Progress: p} }

func (s *screen) begin(specs []specification.Specification) {
	s.several = len(specs) > 1
	var names []string
	for _, spec := range specs {
		names = append(names, spec.Name)
	}
	name := strings.Join(names, ", ")
	if len(names) > 3 {
		name = fmt.Sprintf("%d specifications", len(names))
	}
	s.Step(name)
}

func (s *screen) end() { s.Done() }

// show is called for one event after the other.
func (s *screen) show(e guixci.Event) {
	of := ""
	if s.several && e.Specification != "" {
		of = e.Specification + ": "
	}
	switch {
	case e.Kind == guixci.Locked:
		s.Line("%slock %.12s… of %d channels", of, e.Lock.Digest(), len(e.Lock.Channels))
	case e.Verdict != nil:
		s.Line("%s%v", of, e.Verdict)
	case e.Job != nil && e.Job.Err != nil:
		s.Line("%s%s has no derivation: %s", of, e.Job.Name, e.Job.Err.Message())
	case e.Job != nil:
		s.jobs++
		s.count("evaluating %s", e.Job.Name)
	case e.Build != nil:
		s.build(*e.Build)
	}
}

// build shows an event of a build.
func (s *screen) build(e build.Event) {
	switch e.Kind {
	case build.Started:
		s.running = append(s.running, e.Derivation)
	case build.JobDone:
		s.done++
	case build.Retrying:
		s.Line("%s %s, and is tried again", e.Derivation.Name(), e.Result.Cause)
	case build.Finished:
		s.running = without(s.running, e.Derivation)
		s.Line("%s", finished(e.Result))
	}
	names := make([]string, len(s.running))
	for i, drv := range s.running {
		names[i] = strings.TrimSuffix(drv.Name(), ".drv")
	}
	s.count("building %s", strings.Join(names, " "))
}

func without(all []store.StorePath, drv store.StorePath) []store.StorePath {
	for i, d := range all {
		if d == drv {
			return append(all[:i:i], all[i+1:]...)
		}
	}
	return all
}

// count shows how far it is, and what it is at.
func (s *screen) count(format string, args ...any) {
	s.Detail("%d of %d jobs, %s", s.done, s.jobs, fmt.Sprintf(format, args...))
}

func finished(r build.Result) string {
	text := fmt.Sprintf("%s %s", r.Derivation.Name(), r.Cause)
	if r.Cause.Number() == 3 && r.Message != "" {
		return text + ": " + r.Message
	}
	if !r.Started.IsZero() {
		text += fmt.Sprintf(" in %v", r.Stopped.Sub(r.Started).Round(100*time.Millisecond))
	}
	return text
}
