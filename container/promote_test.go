package container

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// c1 → c2 → c3
func descends(_ context.Context, old, new Channel) (bool, error) {
	return old.Commit < new.Commit, nil
}

func TestPromote(t *testing.T) {
	ci, production := testDeployment(t), testDeployment(t)
	ci.Environment.Name, production.Environment.Name = "cd", "production"
	deploy := func(commit string) *Generation {
		t.Helper()
		g, err := ci.Apply(t.Context(), Revision{Script: script(t, ci, "works", "status-works.sexp"),
			Lock: commit, Channels: []Channel{{Name: "guix", Commit: commit}}})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	p := Promotion{From: ci, Descends: descends, Who: "bob"}
	refused := func() *Error {
		t.Helper()
		_, err := production.Promote(t.Context(), p)
		return wantOutcome(t, err, Refused)
	}
	refused() // nothing has been confirmed

	two := deploy("c2")
	// The stand-in's socket is part of its script, so production uses the same.
	if err := ci.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused() // it does not run
	if _, err := ci.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	production.Probes = Probes{Alive{}}
	itself := p
	itself.From = production
	_, err := production.Promote(t.Context(), itself)
	wantOutcome(t, err, Refused)
	g, err := production.Promote(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if g.Script != two.Script || g.Lock != "c2" {
		t.Errorf("generation %+v", g)
	}
	difference, err := Diff(t.Context(), nil, two, g)
	if err != nil || !difference.OnlyBindings() || len(difference.Lines) != 2 || // the environment's name, and its probe
		difference.Lines[1].Kind != OfProbe {
		t.Errorf("%+v, %v", difference, err)
	}

	deploy("c1")
	var downgrade *DowngradeError
	if err := refused(); !errors.As(err, &downgrade) || downgrade.Channels[0] != "guix" {
		t.Errorf("error %v", err)
	}
	p.AllowDowngrade = true
	if _, err := production.Promote(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	history, err := production.History()
	if err != nil || !strings.Contains(history[len(history)-1].Why, "downgrade of guix allowed") {
		t.Errorf("%+v, %v", history, err)
	}
	p.AllowDowngrade = false
	deploy("c3")
	if _, err := production.Promote(t.Context(), p); err != nil {
		t.Error(err)
	}

	// What is unwell there, as its probes did not ask, or cannot be asked, is good for nobody.
	for reply, why := range map[string]string{"status-dies.sexp": "test is unwell: service", "not-found.sexp": "test may be unwell: its shepherd cannot be asked"} {
		applyUnasked(t, ci, reply)
		if err := refused(); !strings.Contains(err.Error(), why) {
			t.Errorf("error %v, want %s", err, why)
		}
	}

	// What was rejected here is promoted again when that is asked for.
	deploy("c4")
	production.Probes, production.Schedule.StartPeriod = Probes{probeFunc(func() error { return errors.New("not here") })}, 1
	_, err = production.Promote(t.Context(), p)
	wantOutcome(t, err, RolledBack)
	var rejected *RejectedError
	if err := refused(); !errors.As(err, &rejected) || strings.Contains(err.Error(), "--") {
		t.Errorf("error %v", err)
	}
	p.Force = true
	_, err = production.Promote(t.Context(), p)
	wantOutcome(t, err, RolledBack)
}

// applyUnasked applies a script whose shepherd tells, to who asks for it, that services are unwell, or nothing. It returns the script.
func applyUnasked(t *testing.T, d *Deployment, reply string) string {
	t.Helper()
	probes := d.Probes
	defer func() { d.Probes = probes }()
	d.Probes = Probes{probeFunc(func() error { // what listened there before was well
		services, err := ShepherdAt(d.socket).Services(t.Context())
		if (err != nil) != (reply == "not-found.sexp") || err == nil && len(Probes{}.unwell(services)) == 0 {
			return errors.New("it does not listen yet")
		}
		return nil
	})}
	works := script(t, d, "works", reply)
	mustApply(t, d, works)
	return works
}
