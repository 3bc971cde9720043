package container

import (
	"context"
	"os"
	"testing"
	"time"
)

// standIns are what a soak deploys where there is no Guix.
type standIns struct{}

func TestSoak(t *testing.T) {
	d := testDeployment(t)
	d.StartTimeout = plenty // also for going back from one that has less
	runSoak(t, d, standIns{}, 500*time.Millisecond)
}

func (standIns) change(s *soak, behaviour string) (*Deployment, Revision) {
	d := *s.d
	how := map[string][2]string{
		"works":          {"works", "status-works.sexp"},
		"launcher dies":  {"dies", "waitpid.log"},
		"container ends": {"ends", "status-works.sexp"},
		"pid file lies":  {"lies", "status-works.sexp"},
		"service fails":  {"works", "status-fails.sexp"},
	}[behaviour]
	switch behaviour {
	case "pid file lies":
		d.StartTimeout = 10 * time.Second
	case "service fails":
		d.Schedule.StartPeriod = time.Second
	}
	return &d, Revision{Script: script(s.T, s.d, how[0], how[1])}
}

// deployer never confirms.
func (standIns) deployer(s *soak, after time.Duration) {
	cmd := standIn(context.Background(), s.d, "deployer", "SCRIPT="+script(s.T, s.d, "works", "status-works.sexp"))
	if killed, err := runUntil(cmd, after, os.Kill); !killed {
		s.Errorf("deployer: %v", err)
	}
}

func (standIns) faults() map[string]fault { return nil }

func (standIns) begin(*soak) {}

func (standIns) start(s *soak) {
	if _, err := s.d.Start(context.Background()); err != nil {
		s.Fatal(err)
	}
}

func (standIns) check(*soak, *Instance) {}
