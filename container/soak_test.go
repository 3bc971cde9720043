package container

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// A soak is a deployment to which things happen. After each, the next command must
// find or make it whole.
type soak struct {
	*testing.T
	d      *Deployment
	random *rand.Rand
	sample sample
	good   *Generation // what must run in the end
	undone Outcome     // of a revision that does not come up, with something to go back to
}

// A sample is what is deployed: stand-ins, or real containers.
type sample interface {
	// change returns a revision that nobody has tried, and the deployment of s as
	// it is to be deployed with, that behaves like one of: works, launcher dies, container ends,
	// pid file lies, service fails.
	change(s *soak, behaviour string) (*Deployment, Revision)
	// deployer applies a change that works in another process until ctx ends, when
	// it is killed.
	deployer(ctx context.Context, s *soak)
	// faults are those that this sample has beside the common ones.
	faults() map[string]func(*soak)
	// check looks at what the soak does not know of.
	check(s *soak, in *Instance)
}

// faults are what happens to a soak, each a deploy with something going wrong.
var faults = map[string]func(s *soak){
	"nothing":           func(s *soak) { s.deploys("works") },
	"launcher dies":     func(s *soak) { s.fails("launcher dies") },
	"container ends":    func(s *soak) { s.fails("container ends") },
	"pid file lies":     func(s *soak) { s.fails("pid file lies") },
	"service fails":     func(s *soak) { s.fails("service fails") },
	"nobody confirms":   (*soak).unconfirmed,
	"interrupted":       (*soak).interrupted,
	"deployer killed":   (*soak).killed,
	"launcher killed":   (*soak).launcherKilled,
	"machine goes down": (*soak).machineDown,
	"two deployers":     (*soak).two,
}

// deploys: a revision that works, and is what must run from now on.
func (s *soak) deploys(behaviour string) {
	s.Helper()
	d, rev := s.sample.change(s, behaviour)
	g, err := d.Apply(context.Background(), rev)
	if err != nil {
		s.Fatal(err)
	}
	s.good = g
}

// fails: a revision that does not.
func (s *soak) fails(behaviour string) {
	s.Helper()
	d, rev := s.sample.change(s, behaviour)
	_, err := d.Apply(context.Background(), rev)
	wantOutcome(s.T, err, s.undone)
}

func (s *soak) unconfirmed() {
	d, rev := s.sample.change(s, "works")
	d.ConfirmBy = 20 * time.Millisecond
	_, err := d.Apply(context.Background(), rev)
	wantOutcome(s.T, err, RolledBack)
}

// instant is some time within a deploy.
func (s *soak) instant() time.Duration {
	return time.Duration(s.random.Int64N(int64(s.d.Schedule.StartPeriod)) / 2)
}

func (s *soak) interrupted() {
	ctx, cancel := context.WithTimeout(context.Background(), s.instant())
	defer cancel()
	d, rev := s.sample.change(s, "works")
	g, err := d.Apply(ctx, rev)
	if err == nil {
		s.good = g // it was faster
		return
	}
	var e *Error
	if !errors.As(err, &e) || e.Outcome == RollbackFailed {
		s.Error(err)
	}
}

// killed: the deployer gets SIGKILL at any instant, also after it has confirmed.
func (s *soak) killed() {
	ctx, cancel := context.WithTimeout(context.Background(), s.instant())
	defer cancel()
	s.sample.deployer(ctx, s)
	current, err := s.d.Current()
	if err != nil {
		s.Fatal(err)
	}
	s.good = current
}

func (s *soak) running() *Instance {
	s.Helper()
	in, err := s.d.Running()
	if err != nil {
		s.Fatal(err)
	}
	return in
}

func (s *soak) launcherKilled() {
	in := s.running()
	if err := errors.Join(in.Launcher.signal(9), in.Launcher.wait(context.Background())); err != nil {
		s.Error(err)
	}
	s.deploys("works")
}

// machineDown: all processes are gone, and nobody has had time to write anything down.
func (s *soak) machineDown() {
	for _, in := range s.instances() {
		for _, p := range []Process{in.Launcher, in.Process} {
			if err := errors.Join(p.signal(9), p.wait(context.Background())); err != nil {
				s.Error(err)
			}
		}
	}
}

// instances returns what runs, and what is kept beside it, if anything is.
func (s *soak) instances() []*Instance {
	s.Helper()
	kept, err := s.d.kept()
	if err != nil {
		s.Fatal(err)
	}
	if kept == nil {
		return []*Instance{s.running()}
	}
	return []*Instance{s.running(), kept}
}

// two deployers at once: one is refused, or comes second.
func (s *soak) two() {
	type result struct {
		g   *Generation
		err error
	}
	results := make(chan result)
	for range 2 {
		d, rev := s.sample.change(s, "works")
		go func() {
			g, err := d.Apply(context.Background(), rev)
			results <- result{g, err}
		}()
	}
	for range 2 {
		r := <-results
		var busy *BusyError
		switch {
		case r.err == nil && (s.good == nil || r.g.Number > s.good.Number):
			s.good = r.g
		case r.err != nil && !errors.As(r.err, &busy):
			s.Error(r.err)
		}
	}
}

// runSoak lets random things happen, GUIXCI_SOAK of them, 20 if it is not set; GUIXCI_SOAK_SEED
// chooses which, always the same if it is not set. After each, exactly one healthy generation runs, the last confirmed one,
// nothing is left of others, and the ledger tells what happened.
func runSoak(t *testing.T, d *Deployment, sample sample) {
	rounds := number("GUIXCI_SOAK", 20)
	seed := number("GUIXCI_SOAK_SEED", 1)
	t.Logf("seed %d", seed)
	s := &soak{T: t, d: d, random: rand.New(rand.NewPCG(uint64(seed), 0)), sample: sample, undone: RolledBack}
	if d.Switch.Mode == SideBySide {
		s.undone = Kept
	}
	all := sample.faults()
	for name, fault := range faults {
		all[name] = fault
	}
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	s.deploys("works")
	for i := range int(rounds) {
		name := names[s.random.IntN(len(names))]
		if i < len(names) {
			name = names[i] // each at least once
		}
		begin := time.Now()
		all[name](s)
		s.check()
		t.Logf("round %d: %s, %v", i, name, time.Since(begin).Round(time.Millisecond))
		if t.Failed() {
			return
		}
	}
}

// number reads an environment variable.
func number(name string, otherwise int64) int64 {
	if n, err := strconv.ParseInt(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// check starts what ought to run, as a boot or a timer would, and looks at everything.
func (s *soak) check() {
	s.Helper()
	if _, err := s.d.Start(context.Background()); err != nil {
		s.Fatal(err)
	}
	in := checkRuns(s.T, s.d, s.good)
	if n := len(s.instances()); n > 1 && s.d.Switch.Mode != SideBySide {
		s.Errorf("%d containers run", n)
	}
	s.checkLedger()
	all, err := s.d.Generations()
	if err != nil {
		s.Fatal(err)
	}
	for _, g := range all {
		other := &Instance{Generation: g, d: s.d}
		if slices.ContainsFunc(s.instances(), func(i *Instance) bool { return i.Generation.Number == g.Number }) {
			continue
		}
		if found := launchersOf(other.pidFile()); len(found) > 0 {
			s.Errorf("generation %d runs too: %v", g.Number, found)
		}
		if _, err := os.Stat(other.runDir()); !errors.Is(err, os.ErrNotExist) {
			s.Errorf("generation %d has left its directory: %v", g.Number, err)
		}
	}
	s.sample.check(s, in)
}

// checkLedger: what began has ended, and the last that was confirmed is what runs.
func (s *soak) checkLedger() {
	s.Helper()
	history, err := s.d.History()
	if err != nil {
		s.Error(err)
	}
	open, confirmed := 0, 0
	for _, e := range history {
		switch e.Event {
		case Began:
			if open != 0 {
				s.Errorf("entry %d begins while generation %d has not ended", e.Number, open)
			}
			open = e.Generation
		case Confirmed, WasKept, WasRolled, WasLost, WasCutOff:
			if e.Generation != open {
				s.Errorf("entry %d, %s, is about generation %d, and %d was begun", e.Number, e.Event, e.Generation, open)
			}
			open = 0
		case WasCut:
			s.Errorf("entry %d: %s", e.Number, e.Detail)
		}
		if e.Event == Confirmed {
			confirmed = e.Generation
		}
	}
	if open != 0 || confirmed != s.good.Number {
		s.Errorf("generation %d has not ended; %d was confirmed, and %d runs", open, confirmed, s.good.Number)
	}
}
