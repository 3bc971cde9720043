package container

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// + was healthy, - was rejected, ~ was gone back from, ! is pinned, = is current
func TestSuperfluous(t *testing.T) {
	for _, c := range []struct {
		history string
		keep    Retention
		gone    []int
	}{
		{"+++++=", Retention{Last: 3}, []int{3, 2, 1}},
		{"+++++=", Retention{Last: 1}, []int{4, 3, 2, 1}}, // what to go back to stays
		{"+--+--=-", Retention{Last: 2}, []int{6, 5, 3, 2, 1}},
		{"++--=--", Retention{Last: 2, Healthy: 1}, []int{4, 3}},
		{"+!++=", Retention{Last: 1}, []int{3, 1}},
		{"---", Retention{Last: 1}, []int{2, 1}},
		{"++~=", Retention{Last: 1}, []int{3, 1}},
		{"=", Retention{Last: 1}, nil},
	} {
		var all []*Generation
		current := 0
		for i, kind := range c.history {
			g := &Generation{Number: i + 1, Pinned: kind == '!', Withdrawn: kind == '~'}
			if kind == '-' {
				g.Rejected = "bad"
			} else {
				g.Started = time.Unix(1, 0)
			}
			if kind == '=' {
				current = i + 1
			}
			all = append(all, g)
		}
		var gone []int
		for _, g := range superfluous(all, current, c.keep) {
			gone = append(gone, g.Number)
		}
		if diff := cmp.Diff(c.gone, gone); diff != "" {
			t.Errorf("%s %+v: (-want +got)\n%s", c.history, c.keep, diff)
		}
	}
}

func TestRetention(t *testing.T) {
	d := testDeployment(t)
	d.Keep = Retention{Last: 2}
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	if err := os.WriteFile(d.generationPath(1, "log.1"), nil, 0o600); err != nil { // put aside
		t.Fatal(err)
	}
	if err := d.Pin(1, true); err != nil {
		t.Fatal(err)
	}
	bad := script(t, d, "dies", "waitpid.log")
	_, err := d.Apply(t.Context(), Revision{Script: bad})
	wantOutcome(t, err, RolledBack)
	for range 3 {
		mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	}
	entries, err := os.ReadDir(d.path("generations"))
	if err != nil || len(entries) != 4 {
		t.Errorf("%v, %v", entries, err)
	}
	// It might have been made by a return that was interrupted.
	if err := errors.Join(d.willWithdraw(1, 1, 2), d.Pin(1, false)); err != nil {
		t.Fatal(err)
	}
	if gone, err := d.Prune(t.Context()); err != nil || len(gone) != 1 || gone[0] != 1 {
		t.Errorf("%v, %v", gone, err)
	}
	_, err = d.Apply(t.Context(), Revision{Script: bad})
	wantOutcome(t, err, Refused)
	if history, err := d.History(); err != nil || history[0].Generation != 1 {
		t.Errorf("the ledger forgets: %v", err)
	}
}

// A healthy generation waits for somebody to look at it.
func TestConfirmByHand(t *testing.T) {
	d := testDeployment(t)
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	if err := d.Confirm(t.Context()); err == nil || !strings.Contains(err.Error(), "does not wait") {
		t.Errorf("error %v", err)
	}

	e := *d
	e.ConfirmBy = time.Hour
	done := make(chan error, 1)
	next := script(t, d, "works", "status-works.sexp")
	go func() {
		_, err := e.Apply(t.Context(), Revision{Script: next, Who: "alice"})
		done <- err
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	c := Deployment{Name: d.Name, Dir: d.Dir, Who: "carol", Why: "looked at it"}
	for c.Confirm(t.Context()) != nil {
		select {
		case <-tick.C:
		case err := <-done:
			t.Fatalf("before it is confirmed: %v", err)
		}
		if current, err := d.Current(); err != nil || current.Number != one.Number {
			t.Fatalf("current before it is confirmed: %+v, %v", current, err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	two, err := d.Current()
	if err != nil || two.Script != next {
		t.Fatalf("%+v, %v", two, err)
	}
	checkRuns(t, d, two)
	history, err := d.History()
	if n := len(history); err != nil || n < 3 || history[n-1].Event != Confirmed || history[n-1].Who != "alice" ||
		history[n-2].Event != WasApproved || history[n-2].Who != "carol" || history[n-2].Why != "looked at it" || history[n-2].Generation != two.Number {
		t.Errorf("%+v, %v", history, err)
	}

	e.ConfirmBy = 100 * time.Millisecond
	_, err = e.Apply(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
	wantOutcome(t, err, RolledBack)
	if !errors.Is(err, errUnconfirmed) {
		t.Errorf("error %v", err)
	}
	checkRuns(t, d, two)
}
