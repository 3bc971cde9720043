package container

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
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
	good   *Generation // what must run in the end
}

// faults are what happens to a soak, each a deploy with something going wrong.
var faults = map[string]func(s *soak){
	"nothing":           func(s *soak) { s.deploys(script(s.T, s.d, "works", "status-works.sexp")) },
	"launcher dies":     func(s *soak) { s.fails(script(s.T, s.d, "dies", "waitpid.log")) },
	"container ends":    func(s *soak) { s.fails(script(s.T, s.d, "ends", "status-works.sexp")) },
	"pid file lies":     func(s *soak) { s.fails(script(s.T, s.d, "lies", "status-works.sexp")) },
	"service fails":     func(s *soak) { s.fails(script(s.T, s.d, "works", "status-fails.sexp")) },
	"nobody confirms":   (*soak).unconfirmed,
	"interrupted":       (*soak).interrupted,
	"deployer killed":   (*soak).killed,
	"launcher killed":   (*soak).launcherKilled,
	"machine goes down": (*soak).machineDown,
	"two deployers":     (*soak).two,
}

// deploys: a revision that works, and is what must run from now on.
func (s *soak) deploys(script string) {
	g, err := s.d.Apply(context.Background(), Revision{Script: script})
	if err != nil {
		s.Fatal(err)
	}
	s.good = g
}

// fails: a revision that does not.
func (s *soak) fails(script string) {
	_, err := s.d.Apply(context.Background(), Revision{Script: script})
	wantOutcome(s.T, err, RolledBack)
}

func (s *soak) unconfirmed() {
	e := *s.d
	e.ConfirmBy = 20 * time.Millisecond
	_, err := e.Apply(context.Background(), Revision{Script: script(s.T, s.d, "works", "status-works.sexp")})
	wantOutcome(s.T, err, RolledBack)
}

// instant is some time within a deploy.
func (s *soak) instant() time.Duration {
	return time.Duration(s.random.Int64N(int64(500 * time.Millisecond)))
}

func (s *soak) interrupted() {
	ctx, cancel := context.WithTimeout(context.Background(), s.instant())
	defer cancel()
	g, err := s.d.Apply(ctx, Revision{Script: script(s.T, s.d, "works", "status-works.sexp")})
	if err == nil {
		s.good = g // it was faster
		return
	}
	var e *Error
	if !errors.As(err, &e) || e.Outcome == RollbackFailed {
		s.Error(err)
	}
}

// killed: the deployer gets SIGKILL at any instant. It never confirms.
func (s *soak) killed() {
	ctx, cancel := context.WithTimeout(context.Background(), s.instant())
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "STANDIN=deployer", "DIR="+s.d.Dir, "SOCKET="+s.d.socket,
		"SCRIPT="+script(s.T, s.d, "works", "status-works.sexp"))
	cmd.Run()
}

func (s *soak) launcherKilled() {
	in, err := s.d.Running()
	if err != nil {
		s.Fatal(err)
	}
	s.Log(in.Launcher.signal(9), in.Launcher.wait(context.Background()))
	s.deploys(script(s.T, s.d, "works", "status-works.sexp"))
}

// machineDown: all processes are gone, and nobody has had time to write anything down.
func (s *soak) machineDown() {
	in, err := s.d.Running()
	if err != nil {
		s.Fatal(err)
	}
	for _, p := range []Process{in.Launcher, in.Process} {
		s.Log(p.signal(9), p.wait(context.Background()))
	}
}

// two deployers at once: one is refused, or comes second.
func (s *soak) two() {
	type result struct {
		g   *Generation
		err error
	}
	results := make(chan result)
	for range 2 {
		next := script(s.T, s.d, "works", "status-works.sexp")
		go func() {
			g, err := s.d.Apply(context.Background(), Revision{Script: next})
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

// TestSoak lets random things happen, GUIXCI_SOAK of them, 20 if it is not set. After each,
// exactly one healthy generation runs, the last confirmed one, nothing is left of
// others, and the ledger is whole.
func TestSoak(t *testing.T) {
	rounds := 20
	if n, err := strconv.Atoi(os.Getenv("GUIXCI_SOAK")); err == nil {
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s := &soak{T: t, d: testDeployment(t), random: rand.New(rand.NewPCG(seed, 0))}
	s.d.Schedule.StartPeriod = time.Second
	s.d.StartTimeout = 5 * time.Second
	var names []string
	for name := range faults {
		names = append(names, name)
	}
	s.deploys(script(t, s.d, "works", "status-works.sexp"))
	for i := range rounds {
		name := names[s.random.IntN(len(names))]
		if i < len(names) {
			name = names[i] // each at least once
		}
		t.Logf("round %d: %s", i, name)
		faults[name](s)
		s.check()
		if t.Failed() {
			return
		}
	}
}

// check starts what ought to run, as a boot or a timer would, and looks at everything.
func (s *soak) check() {
	s.Helper()
	if _, err := s.d.Start(context.Background()); err != nil {
		s.Fatal(err)
	}
	in := checkRuns(s.T, s.d, s.good)
	events(s.T, s.d)
	all, err := s.d.Generations()
	if err != nil {
		s.Fatal(err)
	}
	for _, g := range all {
		other := &Instance{Generation: g, d: s.d}
		if g.Number == in.Generation.Number {
			continue
		}
		if found := launchersOf(other.pidFile()); len(found) > 0 {
			s.Errorf("generation %d runs too: %v", g.Number, found)
		}
		if _, err := os.Stat(other.runDir()); !errors.Is(err, os.ErrNotExist) {
			s.Errorf("generation %d has left its directory: %v", g.Number, err)
		}
	}
}
