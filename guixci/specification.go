package guixci

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/specification"
	"github.com/genenetwork/guixci/inferior"
)

// A Specification says what to watch and evaluate, and when it counts as green.
type Specification = specification.Specification

// A SpecificationError says what its author has to change in a specification.
type SpecificationError = specification.Error

// jobChannels returns the names of the channels of lock whose packages spec wants.
// The error is a *[SpecificationError].
func jobChannels(spec Specification, lock *channel.Lock) ([]string, error) {
	if spec.Build.Mode != "" && spec.Build.Mode != "channels" {
		return nil, nil
	}
	var all []string
	known := map[string]bool{}
	for _, c := range lock.Channels {
		known[c.Name] = true
		if c.Name != "guix" {
			all = append(all, c.Name)
		}
	}
	if len(spec.Build.Arguments) == 0 {
		return all, nil
	}
	for _, name := range spec.Build.Arguments {
		if !known[name] {
			return nil, spec.Wrong("build", "no channel %q, whose packages are to be built, among those of the lock: %s",
				name, strings.Join(append([]string{"guix"}, all...), ", "))
		}
	}
	return spec.Build.Arguments, nil
}

// evaluateOptions say what is to be evaluated of a lock that was pulled.
func (p *Pipeline) evaluateOptions(ctx context.Context, spec Specification, e *evaluation) (inferior.EvaluateOptions, error) {
	o := inferior.EvaluateOptions{
		Session:  inferior.Options{Program: e.profile.Guix(), Env: p.environment(), Logger: p.o.Logger},
		Channels: e.channels, Systems: spec.Systems, Logger: p.o.Logger,
		Sessions: cmp.Or(spec.Sessions, sessions()), SessionMemory: spec.SessionMemory,
	}
	b := spec.Build
	switch b.Mode {
	case "", "channels":
		return o, nil
	case "packages":
		o.Packages = b.Arguments
	case "manifests":
		o.Manifests = b.Arguments
	case "custom":
		o.Modules = b.Arguments
	default:
		o.Modes = []inferior.Mode{inferior.Mode(b.Mode)}
	}
	var err error
	o.Checkouts, err = p.checkouts(ctx, spec, e.lock)
	return o, err
}

// sessions is how many inferiors evaluate what a specification does not say it of: one for each
// processor, but no more than four, nor than there is memory for besides builds.
func sessions() int {
	const each = 4 << 30 // twice what one has before it is replaced: then it is killed
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 1
	}
	return sessionsWithin(runtime.NumCPU(), available(text)/each)
}

func sessionsWithin(processors int, room int64) int {
	return int(max(1, min(int64(processors), 4, room)))
}

// available is how many bytes of memory can be had without swapping, from /proc/meminfo.
func available(meminfo []byte) int64 {
	for line := range bytes.Lines(meminfo) {
		var kib int64
		if n, _ := fmt.Sscanf(string(line), "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// checkouts are the files of those channels that the evaluation of spec looks into: with one
// of its manifests, and Guix's for the modes that build that.
func (p *Pipeline) checkouts(ctx context.Context, spec Specification, lock *channel.Lock) (all []inferior.Checkout, err error) {
	for _, c := range lock.Channels {
		wanted := false
		switch inferior.Mode(spec.Build.Mode) {
		case inferior.ModeGuix, inferior.ModeImages, inferior.ModeSystemTests:
			wanted = c.Name == "guix"
		case "manifests":
			wanted, err = p.hasFile(ctx, c, spec.Build.Arguments)
		}
		if err != nil {
			return nil, err
		}
		if !wanted {
			continue
		}
		dir, err := p.checkout(ctx, c)
		if err != nil {
			return nil, err
		}
		all = append(all, inferior.Checkout{Name: c.Name, Directory: dir, Commit: string(c.Commit)})
	}
	return all, nil
}

// hasFile reports whether a channel has one of the files.
func (p *Pipeline) hasFile(ctx context.Context, c channel.LockedChannel, files []string) (bool, error) {
	repo, err := p.repos.Open(ctx, c.URL)
	if err != nil {
		return false, err
	}
	for _, file := range files {
		switch _, err := repo.File(c.Commit, file); {
		case err == nil:
			return true, nil
		case !errors.Is(err, fs.ErrNotExist):
			return false, err
		}
	}
	return false, nil
}

// limits are those of a job: the strictest of what its package, its specification and the
// program say.
func (p *Pipeline) limits(spec Specification, job inferior.Job) build.Limits {
	return build.Limits{
		Timeout:   strictest(job.Timeout, spec.Timeout, p.o.Limits.Timeout),
		MaxSilent: strictest(job.MaxSilentTime, spec.MaxSilent, p.o.Limits.MaxSilent),
		MaxLog:    p.o.Limits.MaxLog,
	}
}

// strictest is the shortest time that is one; 0 if there is none.
func strictest(times ...time.Duration) time.Duration {
	times = slices.DeleteFunc(times, func(d time.Duration) bool { return d <= 0 })
	if len(times) == 0 {
		return 0
	}
	return slices.Min(times)
}

// distinct checks that specifications are sound and have different names.
func distinct(specs []Specification) error {
	seen := map[string]bool{}
	for _, s := range specs {
		if err := s.Check(); err != nil {
			return err
		}
		if seen[s.Name] {
			return s.Wrong("name", "there is another one of that name")
		}
		seen[s.Name] = true
	}
	return nil
}
