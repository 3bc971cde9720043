package container

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

// A brokenRunner is one that cannot be reached.
type brokenRunner struct{ Supervisor }

func (*brokenRunner) Units(context.Context) ([]string, error) { return nil, errors.New("out of order") }

// What cannot be run is refused before anything is stopped for it.
func TestRunnerIsThere(t *testing.T) {
	d := testDeployment(t)
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	good, err := d.Current()
	if err != nil {
		t.Fatal(err)
	}
	other := *d
	other.Runners = map[string]Runner{"broken": new(brokenRunner)}
	for name, want := range map[string]string{"nobody": `there is no runner "nobody" here`, "broken": `runner "broken" does not answer: out of order`} {
		other.Environment.Runner = name
		_, err := other.Apply(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
		wantOutcome(t, err, Refused)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %v", err)
		}
	}
	checkRuns(t, d, good)
}

// Another runner is a change like any other: the old one stops what it ran.
func TestRunnerChanges(t *testing.T) {
	d := testDeployment(t)
	d.Runners = map[string]Runner{"other": new(Supervisor)}
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	first, err := d.Running()
	if err != nil {
		t.Fatal(err)
	}
	d.Environment.Runner = "other"
	g, err := d.Apply(t.Context(), Revision{Script: first.Generation.Script})
	if err != nil {
		t.Fatal(err)
	}
	if first.Alive() || first.Launcher.Alive() || g.Number == first.Generation.Number {
		t.Errorf("%+v still runs", first)
	}
	checkRuns(t, d, g)
}

// orphaned runs a unit that nobody knows.
type orphaned struct{ Supervisor }

func (*orphaned) Units(context.Context) ([]string, error) {
	return []string{"guixci-lost-1-abcdef"}, nil
}

func TestDoctorShowsUnknownUnits(t *testing.T) {
	d := testDeployment(t)
	d.Runners = map[string]Runner{"other": new(orphaned), "broken": new(brokenRunner)}
	found := Doctor(d)
	i := slices.IndexFunc(found, func(f Finding) bool { return f.Unit == "guixci-lost-1-abcdef" })
	if i < 0 || len(found[i].Missing) != 1 || found[i].Missing[0] != "an orphan: other runs it, and no deployment here knows it" {
		t.Errorf("%+v", found)
	}
}
