package container

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// What would take a channel back is not tried, whether it is planned, applied, or what was kept to return to. Rolling back is.
func TestDowngrade(t *testing.T) {
	d := testDeployment(t)
	d.Probes = Probes{Alive{}}
	of := func(commit string) Revision {
		return Revision{Script: script(t, d, "works", "status-works.sexp"), Descends: descends,
			Channels: []Channel{{Name: "guix", Commit: commit}, {Name: "gn", Commit: "c1"}}}
	}
	apply := func(rev Revision) *Generation {
		t.Helper()
		g, err := d.Apply(t.Context(), rev)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	apply(of("c2"))
	apply(of("c2"))
	back := of("c1")
	p, err := d.Plan(t.Context(), back)
	if err != nil || len(p.Refusals) != 1 || p.Refusals[0].Check != "downgrade" {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = d.Apply(t.Context(), back)
	wantOutcome(t, err, Refused)
	var downgrade *DowngradeError
	if !errors.As(err, &downgrade) || strings.Join(downgrade.Channels, " ") != "guix" || !strings.Contains(err.Error(), "nobody has allowed") {
		t.Errorf("error %v", err)
	}
	last := func() Entry {
		t.Helper()
		history, err := d.History()
		if err != nil {
			t.Fatal(err)
		}
		return history[len(history)-1]
	}
	if e := last(); e.Event != WasRefused || !strings.Contains(e.Detail, "guix") {
		t.Errorf("%+v", e)
	}
	back.AllowDowngrade, back.Why = true, "c2 is slow"
	apply(back)
	if e := last(); e.Event != Confirmed || e.Why != "c2 is slow; downgrade of guix allowed" {
		t.Errorf("%+v", e)
	}
	three := apply(of("c3"))
	if _, err := d.RollBack(t.Context(), three.Number-1, of("c0")); err != nil {
		t.Error(err)
	}

	// Nobody can tell: nothing is done, and it may be known later.
	unknown := of("c4")
	unknown.Descends = func(context.Context, Channel, Channel) (bool, error) { return false, errors.New("no network") }
	_, err = d.Apply(t.Context(), unknown)
	wantOutcome(t, err, NotTried)
	if _, err := d.Plan(t.Context(), unknown); err == nil || !strings.Contains(err.Error(), "no network") {
		t.Errorf("error %v", err)
	}
}
