package container

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"
)

// A secondTime is a probe that only a second container passes.
type secondTime struct{ first Process }

func (p *secondTime) String() string { return "second time" }
func (p *secondTime) Check(_ context.Context, in *Instance, _ any) (any, error) {
	if p.first.isZero() {
		p.first = in.Process
	}
	if in.Process == p.first {
		return nil, errors.New("it is the first one")
	}
	return nil, nil
}

// A container is started once more if what shepherd forked has crashed, and then only.
func TestForkCrash(t *testing.T) {
	second := func() Probe { return new(secondTime) }
	never := func() Probe { return probeFunc(func() error { return errors.New("never well") }) }
	alive := func() Probe { return Alive{} }
	services := func() Probe { return AllServices{} }
	for _, c := range []struct {
		name, mode string
		probe      func() Probe
		boots      int
		healthy    bool
	}{
		{"once", "crashes", second, 2, true},
		{"again", "crashes", never, 2, false},
		{"it does no harm", "crashes", alive, 1, true},
		{"nothing crashes", "works", second, 1, false},
		{"shepherd itself", "crashes and ends", services, 1, false},
	} {
		check := func(t *testing.T, d *Deployment) *Generation {
			d.Probes, d.Schedule.StartPeriod = Probes{c.probe()}, 500*time.Millisecond
			g, err := d.Apply(t.Context(), Revision{Script: script(t, d, c.mode, "status-works.sexp")})
			if (err == nil) != c.healthy || errors.Is(err, errForkCrashed) != (c.boots == 2 && !c.healthy) {
				t.Errorf("error %v", err)
			}
			generations, err := d.Generations()
			if err != nil {
				t.Fatal(err)
			}
			last := generations[len(generations)-1]
			if boots := bytes.Count(readFile(t, d.generationPath(last.Number, "log")), []byte("is running as PID")); boots != c.boots {
				t.Errorf("it was started %d times, want %d", boots, c.boots)
			}
			return g
		}
		t.Run(c.name, func(t *testing.T) {
			d := testDeployment(t)
			if g := check(t, d); g != nil {
				checkRuns(t, d, g)
			}
		})
		if c.mode == "crashes and ends" {
			continue // when it is asked: the stand-ins share one socket
		}
		t.Run(c.name+", beside", func(t *testing.T) {
			d, _ := besides(t)
			one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			if g := check(t, d); g != nil {
				checkBoth(t, d, g, one)
			} else {
				checkBoth(t, d, one, nil)
			}
		})
	}
}
