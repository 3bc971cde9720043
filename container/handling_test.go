package container

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bare returns the deployment as somebody knows it who has no deployment file.
func bare(d *Deployment) *Deployment {
	return &Deployment{Name: d.Name, Dir: d.Dir, Logger: d.Logger, unprivileged: d.unprivileged, socket: d.socket}
}

// Who stops a container without having the deployment file waits as long as that has said.
func TestHandledWithoutFile(t *testing.T) {
	d := testDeployment(t)
	d.StopTimeout, d.StartTimeout, d.MinFree, d.MayFetch = 50*time.Millisecond, 7*time.Minute, 1, []string{"code"}
	g := mustApply(t, d, script(t, d, "is stubborn", "status-works.sexp"))
	in := checkRuns(t, bare(d), g)
	if diff := cmp.Diff(d.handling(), in.handling()); diff != "" {
		t.Error(diff)
	}
	begin := time.Now()
	if err := bare(d).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took >= defaultStopTimeout {
		t.Errorf("stopped after %v", took)
	}
	checkNothingLeft(t, d, in)
}

// What ran is not kept from running again by a disk that has become fuller.
func TestStartOnFullerDisk(t *testing.T) {
	d := testDeployment(t)
	g := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	fuller := *d
	fuller.MinFree = 1 << 60
	if _, err := fuller.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRuns(t, d, g)
	_, err := fuller.Apply(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
	wantOutcome(t, err, Refused)
}

// After going back changes wait to be confirmed as the last one did, and as many generations are kept.
func TestRollBackWithoutFile(t *testing.T) {
	d := testDeployment(t)
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	d.Keep = Retention{Last: 5}
	two := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	d.ConfirmBy = 100 * time.Millisecond
	if g := mustApply(t, d, two.Script); g.Number != two.Number || g.Handling.ConfirmBy != d.ConfirmBy {
		t.Errorf("not adopted: %+v", g)
	}
	three, err := bare(d).RollBack(t.Context(), 0, Revision{})
	if err != nil || three.Handling.Keep != d.Keep || three.Handling.ConfirmBy != d.ConfirmBy {
		t.Fatalf("%+v, %v", three, err)
	}
	checkRuns(t, d, three)
}

// A plan says what would be handled otherwise, and running it again has it so.
func TestHandlingAdopted(t *testing.T) {
	d := testDeployment(t)
	g := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	d.StopTimeout = time.Hour
	plan, err := d.Plan(t.Context(), Revision{Script: g.Script})
	if err != nil || !plan.Adopts {
		t.Fatalf("%+v, %v", plan, err)
	}
	want := Line{Kind: OfBinding, Name: "stop timeout", Old: "30s", New: "1h0m0s"}
	if !slices.Contains(plan.Difference.Lines, want) {
		t.Errorf("%+v", plan.Difference)
	}
	mustApply(t, d, g.Script)
	if in, err := bare(d).Running(); err != nil || in.handling().StopTimeout != time.Hour {
		t.Errorf("%+v, %v", in, err)
	}
}

// A generation that an older version has written down is read, runs on, and is bound to the same things.
func TestHandlingOfOlderVersion(t *testing.T) {
	const text = `{"number": 1, "script": "/gnu/store/x-run-container", "shares": [{"name": "state", "source": "/srv/state"}],
 "environment": {"name": "production", "settings": {"PORT": "8080"}, "ports": [8080]}, "schedule": {}, "created": "2026-11-01T00:00:00Z"}`
	const bindings = "adafda29bd7b2dbddda16ede167e0b7cfc92f6029bd00ade4301748c5884a493"
	d := testDeployment(t)
	if err := errors.Join(os.MkdirAll(d.generationPath(1), 0o700), os.WriteFile(d.generationPath(1, "generation.json"), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	g, err := d.Generation(1)
	if err != nil || g.Bindings() != bindings {
		t.Errorf("%+v, bindings %s, %v", g, g.Bindings(), err)
	}
	d.StopTimeout = time.Minute
	if h := d.handlingOf(g); h.StopTimeout != time.Minute || h.StartTimeout != defaultStartTimeout || h.MinFree != defaultMinFree {
		t.Errorf("%+v", h)
	}
	if g.Handling = d.handling(); g.Bindings() != bindings {
		t.Error("the digest of the bindings has changed")
	}
}
