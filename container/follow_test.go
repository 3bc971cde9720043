package container

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// Production follows CD: nothing arrives that is not confirmed there, unless somebody says so.
func TestFollows(t *testing.T) {
	ci, production := testDeployment(t), testDeployment(t)
	ci.Name, production.Follows = "cd", ci
	production.Probes = Probes{Alive{}} // the stand-in's socket is part of its script
	build := func() string { return script(t, ci, "works", "status-works.sexp") }
	apply := func(d *Deployment, script string) {
		t.Helper()
		mustApply(t, d, script)
		awaitSocket(t, ci.socket, d)
	}
	refused := func(rev Revision, why string) {
		t.Helper()
		_, err := production.Apply(t.Context(), rev)
		var refusal *RefusalError
		if wantOutcome(t, err, Refused); !errors.As(err, &refusal) || refusal.Check != "follows" || !strings.Contains(err.Error(), why) {
			t.Errorf("error %v", err)
		}
		p, err := production.Plan(t.Context(), rev)
		if err != nil || !slices.ContainsFunc(p.Refusals, func(r Refusal) bool { return r.Check == "follows" }) {
			t.Errorf("plan %+v, %v", p, err)
		}
	}
	one, two, never := build(), build(), build()
	refused(Revision{Script: one}, "confirmed in cd, which is followed: nothing is")
	apply(ci, one)
	apply(production, one)

	apply(ci, two)
	refused(Revision{Script: never}, "generation 2, "+two+", is")
	// What runs here may be given something else at any time.
	production.Environment.Settings = map[string]string{"A": "1"}
	apply(production, one)

	// What is confirmed there is no example while it does not run, or not well.
	if err := ci.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused(Revision{Script: two}, "cd runs no confirmed generation")
	if _, err := ci.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitSocket(t, ci.socket, ci)
	apply(production, two)
	unwell := applyUnasked(t, ci, "status-dies.sexp")
	refused(Revision{Script: unwell}, "cd is unwell: service")
	if _, err := production.Apply(t.Context(), Revision{Script: unwell, AllowUnconfirmed: true}); err != nil {
		t.Fatal(err)
	}
	if history, err := production.History(); err != nil || history[len(history)-1].Why != "what does not run well in cd allowed" {
		t.Errorf("%+v, %v", history, err)
	}

	if _, err := production.Apply(t.Context(), Revision{Script: never, Why: "a flood", AllowUnconfirmed: true}); err != nil {
		t.Fatal(err)
	}
	history, err := production.History()
	if err != nil || history[len(history)-1].Why != "a flood; what is not confirmed in cd allowed" {
		t.Errorf("%+v, %v", history, err)
	}
	// Going back to what was confirmed here needs nobody's leave, to what never was, it does.
	if _, err := production.RollBack(t.Context(), 1, Revision{}); err != nil {
		t.Error(err)
	}
	_, err = production.Apply(t.Context(), Revision{Script: script(t, ci, "dies", "waitpid.log"), AllowUnconfirmed: true})
	wantOutcome(t, err, RolledBack)
	all, err := production.Generations()
	if err != nil || all[len(all)-1].Rejected == "" {
		t.Fatalf("%+v, %v", all, err)
	}
	_, err = production.RollBack(t.Context(), all[len(all)-1].Number, Revision{})
	wantOutcome(t, err, Refused)
}

func TestReadFollows(t *testing.T) {
	f, err := ReadFile("d.scm", strings.NewReader(`(deployment (script "/x")
 (environment "production" (follows "staging"))
 (environment "staging" (follows "cd"))
 (environment "cd"))`))
	if err != nil {
		t.Fatal(err)
	}
	d, err := f.Environment("production")
	if err != nil || d.Follows == nil || d.Follows.Environment.Name != "staging" || d.Follows.Follows.Environment.Name != "cd" || d.Follows.Follows.Follows != nil {
		t.Fatalf("%+v, %v", d, err)
	}
	d.Follows.Name = "its own" // what is done to one copy is not seen in another
	if other, err := f.Environment("production"); err != nil || other.Follows.Name != "" {
		t.Errorf("%+v, %v", other, err)
	}
	for text, want := range map[string]string{
		`(environment "a" (follows "b"))`:                                 `d.scm:1:53: follows: there is no environment "b"`,
		`(environment "a" (follows "a"))`:                                 `d.scm:1:53: follows: "a" would follow itself`,
		`(environment "a" (follows "b")) (environment "b" (follows "a"))`: `follows: "b" would follow itself`,
		`(environment "a") (follows "a")`:                                 `deployment has no field "follows"`,
	} {
		_, err := ReadFile("d.scm", strings.NewReader(`(deployment (script "/x") `+text+`)`))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
}
