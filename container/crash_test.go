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
		name, mode, status string
		probe              func() Probe
		period             time.Duration // to come up
		boots              int
		healthy            bool
	}{
		{"once", "crashes", "works", second, time.Hour, 2, true}, // at once
		{"again", "crashes", "works", never, time.Second, 2, false},
		{"it does no harm", "crashes", "works", alive, time.Hour, 1, true},
		{"a service is lost", "crashes", "fails", alive, time.Hour, 2, true},
		{"nothing crashes", "works", "works", second, time.Second, 1, false},
		{"a service fails by itself", "works", "fails", alive, time.Hour, 1, true},
		{"shepherd itself", "crashes and ends", "works", services, time.Hour, 1, false},
	} {
		check := func(t *testing.T, d *Deployment) *Generation {
			d.Probes, d.Schedule.StartPeriod = Probes{c.probe()}, c.period
			g, err := d.Apply(t.Context(), Revision{Script: script(t, d, c.mode, "status-"+c.status+".sexp")})
			toBlame := c.boots == 2 && !c.healthy
			if (err == nil) != c.healthy || errors.Is(err, errForkCrashed) != toBlame {
				t.Errorf("error %v", err)
			}
			generations, e := d.Generations()
			if e != nil {
				t.Fatal(e)
			}
			last := generations[len(generations)-1]
			var failed *Error
			if errors.As(err, &failed) && (failed.Machine != toBlame || (failed.ExitCode() == NotTried.ExitCode()) != toBlame) {
				t.Errorf("status %d of %v", failed.ExitCode(), err)
			}
			if (last.Rejected == "") != (c.healthy || toBlame) {
				t.Errorf("rejected: %q", last.Rejected)
			}
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
		if c.mode == "crashes and ends" || c.status == "fails" {
			continue // it is about who is asked: the stand-ins share one socket
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

// A supervisor, too, starts a container once more in which a crash has cost a service.
func TestForkCrashSupervised(t *testing.T) {
	d := testDeployment(t)
	d.Probes = Probes{Alive{}}
	g := mustApply(t, d, script(t, d, "crashes", "status-fails.sexp"))
	boots := func() int {
		return bytes.Count(readFile(t, d.generationPath(g.Number, "log")), []byte("is running as PID"))
	}
	in := checkRuns(t, d, g)
	if err := errors.Join(in.Process.signal(9), in.Process.wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	before := boots()
	supervise(t, d, quickly)
	awaitRunning(t, d, in)
	if n := boots() - before; n != 2 {
		t.Errorf("it was started %d times", n)
	}
}
