package demo

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/inferior"
)

// This file has the steps from a profile to what was built.

// system is Guix's name for the machine.
func system() string {
	machine, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686", "arm": "armhf"}[runtime.GOARCH]
	if !ok {
		machine = runtime.GOARCH
	}
	return machine + "-linux"
}

func job(name string) string { return name + "." + system() }

type evaluateFound struct {
	Jobs       int    `json:"jobs"`
	Unlowered  string `json:"unlowered"`
	Exception  string `json:"exception"`
	Derivation string `json:"derivation"` // of the project's package
}

func (f evaluateFound) String() string {
	return fmt.Sprintf("%d jobs; %s could not be lowered: %s", f.Jobs, f.Unlowered, f.Exception)
}

// evaluate begins a run of the pipeline and ends when all jobs are known; by then builds
// are under way, which the next step waits for.
func (s *story) evaluate(ctx context.Context) (fmt.Stringer, error) {
	found := evaluateFound{}
	known := make(chan struct{})
	s.events = func(e guixci.Event) {
		switch e.Kind {
		case guixci.Evaluated:
			found.Jobs++
			found.note(e.Job)
		case guixci.Enumerated:
			close(known)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	s.running = make(chan runResult, 1)
	go func() {
		r, err := s.pipeline.Run(ctx, s.spec)
		s.running <- runResult{r, err}
	}()
	s.cleanup(func(context.Context) error { // it has ended, or is made to, before its store is closed
		cancel()
		s.running <- <-s.running
		return nil
	})
	select {
	case <-known:
	case r := <-s.running:
		s.running <- r
		if r.err != nil {
			return nil, r.err
		}
		select {
		case <-known:
		default:
			return nil, wrong("nothing was evaluated: %v", r.report.Verdict)
		}
	}
	switch {
	case found.Unlowered != job("sample-unlowerable") || found.Exception == "":
		return found, wrong("sample-unlowerable is not the one bad job, but %q", found.Unlowered)
	case found.Derivation == "":
		return found, wrong("the project's package is not among the jobs")
	}
	return found, nil
}

func (f *evaluateFound) note(j *inferior.Job) {
	if j.Err != nil {
		f.Unlowered, f.Exception = j.Name, j.Err.Message()
	}
	if j.Name == job("sample-project") {
		f.Derivation = j.Derivation
	}
}

type buildFound struct {
	Succeeded []string          `json:"succeeded"`
	Failed    map[string]string `json:"failed"`     // job to the telling line of its log
	Because   map[string]string `json:"dependency"` // job to the derivation it failed because of
	Builds    int               `json:"builds"`
}

func (f buildFound) String() string {
	var failed, because []string
	for name, line := range f.Failed {
		failed = append(failed, fmt.Sprintf("%s (%s)", name, line))
	}
	for name, culprit := range f.Because {
		because = append(because, fmt.Sprintf("%s because of %s", name, store.StorePath(culprit).Name()))
	}
	slices.Sort(failed)
	return fmt.Sprintf("%d succeeded; failed: %s; %s", len(f.Succeeded), strings.Join(failed, ", "), strings.Join(because, ", "))
}

func (s *story) build(ctx context.Context) (fmt.Stringer, error) {
	r := <-s.running
	s.running <- r // for the clean-up
	s.events = nil
	if r.err != nil {
		return nil, r.err
	}
	s.report = r.report
	found := buildFound{Failed: map[string]string{}, Because: map[string]string{}, Builds: r.report.Built}
	for _, j := range r.report.Jobs {
		switch {
		case j.Status == record.Succeeded:
			found.Succeeded = append(found.Succeeded, j.Name)
		case j.Status == record.DependencyFailed:
			found.Because[j.Name] = j.Culprit
		case j.Derivation != "":
			found.Failed[j.Name] = s.telling(j)
		}
	}
	return found, s.checkBuild(ctx, found)
}

// telling is the line of a failed build's log that says why.
func (s *story) telling(j record.Job) string {
	b, err := s.pipeline.Record().LatestBuild(j.Derivation)
	if err != nil {
		return err.Error()
	}
	for _, line := range b.Telling {
		if strings.Contains(line, "error") {
			return line
		}
	}
	return strings.Join(b.Telling, " / ")
}

func (s *story) checkBuild(ctx context.Context, found buildFound) error {
	if line := found.Failed[job("sample-broken")]; !strings.Contains(line, "the answer is 41, expected 42") {
		return wrong("the log of sample-broken is not told, but %q", line)
	}
	if culprit := found.Because[job("sample-needs-broken")]; !strings.Contains(culprit, "sample-broken") {
		return wrong("sample-needs-broken did not fail because of sample-broken, but of %q", culprit)
	}
	if len(found.Failed) != 1 || len(found.Because) != 1 {
		return wrong("other packages failed too: %v %v", found.Failed, found.Because)
	}
	if !s.report.Green {
		return wrong("the specification is not green, though the jobs it asks for are")
	}
	// What the record calls succeeded must be in the store.
	for _, j := range s.report.Jobs {
		if j.Status != record.Succeeded {
			continue
		}
		drv, err := store.ReadDerivation(store.StorePath(j.Derivation))
		if err != nil {
			return err
		}
		for _, o := range drv.Outputs {
			if ok, err := s.pipeline.Store().Valid(ctx, o.Path); err != nil || !ok {
				return wrong("%s succeeded, but its output %s is not in the store: %v", j.Name, o.Path, err)
			}
		}
	}
	return nil
}
