package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/internal/samples"
)

// This file has the steps in which somebody pushes, and the one in which nobody does.

type breakageFound struct {
	Commit    channel.Commit  `json:"commit"`
	Verdict   *guixci.Verdict `json:"verdict"`
	LastGreen string          `json:"lastGreen"` // digest
}

func (f breakageFound) String() string {
	return fmt.Sprintf("%s; the last green lock stays", f.Verdict)
}

func (s *story) breakage(ctx context.Context) (fmt.Stringer, error) {
	green := s.lock.Digest()
	var found breakageFound
	var err error
	if found.Commit, err = s.samples.Break(); err != nil {
		return nil, err
	}
	if s.report, err = s.pipeline.Run(ctx, s.spec); err != nil {
		return nil, err
	}
	v := s.report.Verdict
	found.Verdict = v
	switch {
	case v.Green:
		return found, wrong("the broken channel pulls")
	case v.Channel != samples.Channel:
		return found, wrong("the verdict blames channel %q: %v", v.Channel, v)
	case !strings.Contains(v.Module+v.File, "sample") || !strings.Contains(v.Exception, "sample-builder-of-tomorrow"):
		return found, wrong("the verdict does not name the module and the variable: %v", v)
	case s.report.Green || s.report.LastGreen == nil || s.report.LastGreen.Digest() != green:
		return found, wrong("the last green lock did not stay what it was")
	}
	found.LastGreen = s.report.LastGreen.Digest()
	return found, nil
}

type repairFound struct {
	Commits   []channel.Commit `json:"commits"`
	Digest    string           `json:"digest"`
	LastGreen string           `json:"lastGreen"` // the same digest
	Jobs      int              `json:"jobs"`
	Builds    int              `json:"builds"`
}

func (f repairFound) String() string {
	return fmt.Sprintf("green again with all %d jobs, %d builds; last green lock is now %.12s…", f.Jobs, f.Builds, f.Digest)
}

// repair pushes what makes the package channel right again, and a new version of the
// project with it.
func (s *story) repair(ctx context.Context) (fmt.Stringer, error) {
	var found repairFound
	fix, err := s.samples.Repair()
	if err != nil {
		return nil, err
	}
	version, err := s.samples.Upgrade(nextVersion)
	if err != nil {
		return nil, err
	}
	found.Commits = []channel.Commit{fix, version}
	if s.report, err = s.pipeline.Run(ctx, s.spec); err != nil {
		return found, err
	}
	found.Digest, found.Jobs, found.Builds = s.report.Digest, len(s.report.Jobs), s.report.Built
	if !s.report.Green || s.report.LastGreen.Digest() != s.report.Digest {
		return found, wrong("the repaired channels are not green: %v", s.report.Verdict)
	}
	found.LastGreen = s.report.LastGreen.Digest()
	for _, j := range s.report.Jobs {
		if j.Status != 0 {
			return found, wrong("job %s is %s after the repair", j.Name, j.Status)
		}
	}
	return found, nil
}

// againLimit is how long a check may take that finds nothing to do. Should the machine have been
// busy with something else, it is made once more, a few times.
const (
	againLimit = 2 * time.Second
	againTries = 5
)

type againFound struct {
	Check  float64 `json:"check"` // seconds
	Pulled int     `json:"pulled"`
	Jobs   int     `json:"evaluated"`
	Built  int     `json:"built"`
}

func (f againFound) String() string {
	return fmt.Sprintf("nothing pulled, evaluated or built, known after %.2f s (limit %.0f s)", f.Check, againLimit.Seconds())
}

func (s *story) again(ctx context.Context) (fmt.Stringer, error) {
	var found againFound
	s.events = func(e guixci.Event) {
		switch e.Kind {
		case guixci.Pulled:
			found.Pulled++
		case guixci.Evaluated:
			found.Jobs++
		case guixci.Built:
			found.Built++
		}
	}
	defer func() { s.events = nil }()
	before := s.report
	var r *guixci.Report
	for try := 0; try == 0 || try < againTries && found.Check > againLimit.Seconds(); try++ {
		start := time.Now()
		var err error
		if r, err = s.pipeline.Run(ctx, s.spec); err != nil {
			return nil, err
		}
		found.Check = time.Since(start).Seconds()
	}
	switch {
	case !r.Unchanged || r.Digest != before.Digest || r.Evaluation != before.Evaluation:
		return found, wrong("the unchanged lock was taken for a new one")
	case found.Pulled+found.Jobs+found.Built > 0:
		return found, wrong("something was done again: %+v", found)
	case found.Check > againLimit.Seconds():
		return found, wrong("the check took %.1f s, more than %v", found.Check, againLimit)
	}
	return found, nil
}
