package container

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A secret in a directory that others may write to is refused to what is new; what ran before goes on.
func TestRestartTrustsSecrets(t *testing.T) {
	d := testDeployment(t)
	secret := writeSecret(t, "x", 0o600)
	d.Environment.Secrets = []Secret{{Name: "token", File: secret}}
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(secret), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, d, script(t, d, "works", "status-works.sexp"), "environment", "could put another file in its place")
}

// Retention has no part in why a revision was rejected; the time it had does.
func TestRejectedForTime(t *testing.T) {
	d := testDeployment(t)
	g := d.generation(Revision{Script: "/gnu/store/run-container"})
	d.Keep, d.MinFree, d.MayFetch = Retention{Last: 7}, 1<<30, []string{"code"}
	if other := d.generation(Revision{Script: g.Script}); !g.timed().sameWay(other.timed()) || g.sameWay(other) {
		t.Error("retention counts for a rejection, or not for how it is handled")
	}
	d.StartTimeout = time.Hour
	if other := d.generation(Revision{Script: g.Script}); g.timed().sameWay(other.timed()) {
		t.Error("the time to start does not count")
	}
}

// Pinning a generation does not hide that a deployment was cut off.
func TestPinEndsTheInterrupted(t *testing.T) {
	d := testDeployment(t)
	g := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	if err := d.enter(Entry{Event: Began, Generation: 2}); err != nil {
		t.Fatal(err)
	}
	if err := d.Pin(g.Number, true); err != nil {
		t.Fatal(err)
	}
	if all := events(t, d); !slices.Equal(all, []Event{Began, Confirmed, Began, WasCutOff, WasPinned}) {
		t.Errorf("ledger %v", all)
	}
}
