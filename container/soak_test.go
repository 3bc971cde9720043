package container

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
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
	good   *Generation   // what must run in the end
	undone Outcome       // of a revision that does not come up, with something to go back to
	takes  time.Duration // as long as a deploy takes, or longer
	tally  map[string]*tally
}

// A tally counts how often something was done, and how often that changed what came of the round: a process that is
// killed when it has done its work proves nothing.
type tally struct{ times, bites int }

func (s *soak) count(name string, bites bool) {
	if s.tally[name] == nil {
		s.tally[name] = new(tally)
	}
	if s.tally[name].times++; bites {
		s.tally[name].bites++
	}
}

// report prints what was counted. Of very many rounds nothing may have been in vain.
func (s *soak) report(rounds int) {
	s.Helper()
	for _, name := range slices.Sorted(maps.Keys(s.tally)) {
		c := s.tally[name]
		s.Logf("%-34s %4d times, %4d with an effect", name, c.times, c.bites)
		if c.bites == 0 && rounds >= 200 {
			s.Errorf("%s has never had an effect", name)
		}
	}
}

// A sample is what is deployed: stand-ins, or real containers.
type sample interface {
	// change returns a revision that nobody has tried, and the deployment of s as
	// it is to be deployed with, that behaves like one of: works, launcher dies, container ends,
	// pid file lies, service fails.
	change(s *soak, behaviour string) (*Deployment, Revision)
	// deployer applies a change that works in another process, which is killed after a while.
	deployer(s *soak, after time.Duration)
	// faults are those that this sample has beside the common ones, or in their place.
	faults() map[string]fault
	// begin is called before each round.
	begin(s *soak)
	// start starts what ought to run, as a boot or a timer would, or waits until somebody has.
	start(s *soak)
	// check looks at what the soak does not know of.
	check(s *soak, in *Instance)
}

// A fault is something that happens to a soak, a deploy with something going wrong. It reports
// whether that has changed what came of it.
type fault func(s *soak) bool

var faults = map[string]fault{
	"nothing":           func(s *soak) bool { return s.deploys("works") },
	"launcher dies":     func(s *soak) bool { return s.fails("launcher dies") },
	"container ends":    func(s *soak) bool { return s.fails("container ends") },
	"pid file lies":     func(s *soak) bool { return s.fails("pid file lies") },
	"service fails":     func(s *soak) bool { return s.fails("service fails") },
	"nobody confirms":   (*soak).unconfirmed,
	"interrupted":       (*soak).interrupted,
	"deployer killed":   (*soak).killed,
	"launcher killed":   (*soak).launcherKilled,
	"machine goes down": (*soak).machineDown,
	"two deployers":     (*soak).two,
}

// deploys: a revision that works, and is what must run from now on.
func (s *soak) deploys(behaviour string) bool {
	s.Helper()
	d, rev := s.sample.change(s, behaviour)
	g, err := d.Apply(context.Background(), rev)
	if err != nil {
		s.Fatal(err)
	}
	s.good = g
	return true
}

// fails: a revision that does not.
func (s *soak) fails(behaviour string) bool {
	s.Helper()
	d, rev := s.sample.change(s, behaviour)
	_, err := d.Apply(context.Background(), rev)
	wantOutcome(s.T, err, s.undone)
	return true
}

func (s *soak) unconfirmed() bool {
	d, rev := s.sample.change(s, "works")
	d.ConfirmBy = 20 * time.Millisecond
	_, err := d.Apply(context.Background(), rev)
	wantOutcome(s.T, err, RolledBack)
	return true
}

// instant is some time within a deploy.
func (s *soak) instant() time.Duration {
	return time.Duration(s.random.Int64N(int64(s.takes)))
}

func (s *soak) interrupted() bool {
	ctx, cancel := context.WithTimeout(context.Background(), s.instant())
	defer cancel()
	d, rev := s.sample.change(s, "works")
	g, err := d.Apply(ctx, rev)
	if err == nil {
		s.good = g // it was faster
		return false
	}
	var e *Error
	if !errors.As(err, &e) || e.Outcome == RollbackFailed {
		s.Error(err)
	}
	return true
}

// killed: the deployer gets SIGKILL at any instant, also after it has confirmed.
func (s *soak) killed() bool {
	s.sample.deployer(s, s.instant())
	before := s.good
	s.findGood()
	return s.good.Number == before.Number
}

// runUntil runs a command, which gets a signal after a while if it has not ended. It reports whether it got it.
func runUntil(cmd *exec.Cmd, after time.Duration, signal os.Signal) (interrupted bool, err error) {
	if err := cmd.Start(); err != nil {
		return false, err
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Signal(signal) })
	err = cmd.Wait()
	return !timer.Stop(), err
}

// findGood makes good what another process has confirmed.
func (s *soak) findGood() {
	s.Helper()
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

func (s *soak) launcherKilled() bool {
	in := s.running()
	if err := errors.Join(in.Launcher.signal(9), in.Launcher.wait(context.Background())); err != nil {
		s.Error(err)
	}
	orphaned := in.Alive()
	s.deploys("works")
	return orphaned
}

// machineDown: all processes are gone, and nobody has had time to write anything down.
func (s *soak) machineDown() bool {
	for _, in := range s.instances() {
		for _, p := range []Process{in.Launcher, in.Process} {
			if err := errors.Join(p.signal(9), p.wait(context.Background())); err != nil {
				s.Error(err)
			}
		}
	}
	_, err := s.d.Running()
	return errors.Is(err, errStopped)
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
func (s *soak) two() (refused bool) {
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
		case errors.As(r.err, &busy):
			refused = true
		case r.err != nil:
			s.Error(r.err)
		}
	}
	return refused
}

// runSoak lets random things happen, GUIXCI_SOAK of them, 20 if it is not set; GUIXCI_SOAK_SEED
// chooses which, always the same if it is not set. After each, exactly one healthy generation runs, the last confirmed one,
// nothing is left of others, and the ledger tells what happened. At the end it says how often each thing was of consequence.
// A deploy takes so long, or less.
func runSoak(t *testing.T, d *Deployment, sample sample, takes time.Duration) {
	rounds := number("GUIXCI_SOAK", 20)
	seed := number("GUIXCI_SOAK_SEED", 1)
	t.Logf("seed %d", seed)
	s := &soak{T: t, d: d, random: rand.New(rand.NewPCG(uint64(seed), 0)), sample: sample, undone: RolledBack, takes: takes, tally: make(map[string]*tally)}
	if d.Switch.Mode == SideBySide {
		s.undone = Kept
	}
	all := maps.Clone(faults)
	maps.Copy(all, sample.faults())
	names := slices.Sorted(maps.Keys(all))
	s.deploys("works")
	for i := range int(rounds) {
		name := names[s.random.IntN(len(names))]
		if i < len(names) {
			name = names[i] // each at least once
		}
		begin := time.Now()
		sample.begin(s)
		s.count(name, all[name](s))
		sample.start(s)
		s.check()
		t.Logf("round %d: %s, %v", i, name, time.Since(begin).Round(time.Millisecond))
		if t.Failed() {
			return
		}
	}
	s.report(int(rounds))
}

// number reads an environment variable.
func number(name string, otherwise int64) int64 {
	if n, err := strconv.ParseInt(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// check looks at everything. One container runs, since also side by side the old one is to be stopped.
func (s *soak) check() {
	s.Helper()
	in := checkRuns(s.T, s.d, s.good)
	if n := len(s.instances()); n > 1 {
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
