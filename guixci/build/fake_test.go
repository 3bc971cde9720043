package build

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/genenetwork/guixci/guixci/store"
)

// A fake is a store and a builder without a daemon. Derivations are named by
// one word; "a.drv" makes "a", and "a-doc" if it has that output.
type fake struct {
	mu     sync.Mutex // guards the following
	drvs   map[StorePath]*store.Derivation
	files  fstest.MapFS // the same, as the scheduler reads them
	valid  map[StorePath]bool
	built  []string // names, in the order in which builds began
	active int
	most   int // builds at the same time
	held   map[StorePath]bool

	// script says what building something does, by name. Otherwise it succeeds.
	script map[string]func(ctx context.Context, log io.Writer) error
	// before is called when a build begins. Nil is nothing.
	before func(name string)
}

// newFake makes a store of derivations, each described as "name: needs…", where
// a need "x!doc" is that of output doc of x.
func newFake(t testing.TB, lines ...string) *fake {
	t.Helper()
	f := &fake{drvs: map[StorePath]*store.Derivation{}, files: fstest.MapFS{}, valid: map[StorePath]bool{}, held: map[StorePath]bool{},
		script: map[string]func(context.Context, io.Writer) error{}}
	for _, line := range lines {
		f.add(line)
	}
	return f
}

func (f *fake) add(line string) {
	name, needs, _ := strings.Cut(line, ":")
	d := &store.Derivation{Outputs: []store.Output{{Name: "doc", Path: path(name) + "-doc"}, {Name: "out", Path: path(name)}}}
	for _, need := range strings.Fields(needs) {
		need, output, ok := strings.Cut(need, "!")
		if !ok {
			output = "out"
		}
		d.Inputs = append(d.Inputs, store.Input{Derivation: drv(need), Outputs: []string{output}})
	}
	f.put(name, d)
}

func (f *fake) put(name string, d *store.Derivation) {
	f.drvs[drv(name)] = d
	f.files[drv(name).Base()] = &fstest.MapFile{Data: []byte(d.String())}
}

const prefix = "/gnu/store/00000000000000000000000000000000-"

func path(name string) StorePath { return StorePath(prefix + name) }
func drv(name string) StorePath  { return path(name + ".drv") }
func name(p StorePath) string {
	return strings.TrimSuffix(strings.TrimPrefix(string(p), prefix), ".drv")
}

func (f *fake) ValidPaths(_ context.Context, paths []StorePath) (valid []StorePath, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range paths {
		if !f.held[p] {
			return nil, fmt.Errorf("%s was not held before it was asked about", p)
		}
		if f.valid[p] {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

func (f *fake) Hold(_ context.Context, paths []StorePath) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range paths {
		f.held[p] = true
	}
	return nil
}

func (f *fake) Build(ctx context.Context, drv StorePath, _ Limits, log io.Writer) error {
	if err := f.begin(drv); err != nil {
		return err
	}
	if f.before != nil {
		f.before(name(drv))
	}
	var err error
	if script := f.script[name(drv)]; script != nil {
		err = script(ctx, log)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active--
	if err == nil {
		for _, o := range f.drvs[drv].Outputs {
			f.valid[o.Path] = true
		}
	}
	return err
}

// begin checks what a Builder may rely on.
func (f *fake) begin(drv StorePath) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active++
	f.most = max(f.most, f.active)
	f.built = append(f.built, name(drv))
	d := f.drvs[drv]
	for _, in := range d.Inputs {
		for _, o := range f.drvs[in.Derivation].Outputs {
			if slices.Contains(in.Outputs, o.Name) && !f.valid[o.Path] {
				return fmt.Errorf("%s is built before what it needs, %s", drv, o.Path)
			}
		}
	}
	return nil
}

// fails is the script of a builder that prints something and ends with an error.
func fails(drv StorePath, cause store.Cause, text string) func(context.Context, io.Writer) error {
	return func(_ context.Context, log io.Writer) error {
		fmt.Fprint(log, text)
		return &store.BuildError{
			Failures: []store.Failure{{Derivation: drv, Cause: cause, Message: "builder for `" + string(drv) + "' failed with exit code 1"}},
			Err:      &store.DaemonError{Message: "build failed", Status: 100},
		}
	}
}

// blocks is the script of a builder that goes on until it is stopped.
func blocks(ctx context.Context, _ io.Writer) error {
	<-ctx.Done()
	return fmt.Errorf("build: %w: %w", store.ErrClosed, context.Cause(ctx))
}

// An observer keeps what a scheduler notifies.
type observer struct {
	events  []Event
	results map[string]Result   // by derivation's name
	jobs    map[string][]Result // by job's name
	also    func(Event)
}

func (o *observer) notify(e Event) {
	o.events = append(o.events, e)
	switch e.Kind {
	case Finished:
		o.results[name(e.Derivation)] = e.Result
	case JobDone:
		o.jobs[e.Job.Name] = append(o.jobs[e.Job.Name], e.Result)
	}
	if o.also != nil {
		o.also(e)
	}
}

// scheduler makes one for f that is observed.
func scheduler(f *fake) (*Scheduler, *observer) {
	o := &observer{results: map[string]Result{}, jobs: map[string][]Result{}}
	return &Scheduler{Store: f, Builder: f, Derivations: f.files, Notify: o.notify}, o
}

// runJobs adds a job for each name, and builds.
func runJobs(t testing.TB, s *Scheduler, names ...string) {
	t.Helper()
	for _, n := range names {
		s.Add(Job{Name: n, Derivation: drv(n)})
	}
	s.Seal()
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}
