package container

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Whatever is done, the ledger says who did it and why.
func TestLedgerSaysWho(t *testing.T) {
	d := testDeployment(t)
	d.Who, d.Why = "carol", "maintenance"
	data := t.TempDir()
	d.Exposes = []Mount{{Source: data, Target: "/data"}}
	g := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	for _, pinned := range []bool{true, false} {
		if err := d.Pin(g.Number, pinned); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(data); err != nil {
		t.Fatal(err)
	}
	other := *d
	other.Who, other.Why = "dave", ""
	for _, by := range []*Deployment{d, d, &other} {
		if _, err := by.Start(t.Context()); err == nil {
			t.Fatal("started without its mount")
		}
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	history, err := d.History()
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range history {
		told = append(told, string(e.Event)+" "+e.Who+": "+e.Why)
		if e.Event == WasRefused && !strings.Contains(e.Detail, "mount source does not exist") {
			t.Errorf("refused for %q", e.Detail)
		}
	}
	want := []string{"began carol: maintenance", "confirmed carol: maintenance", "pinned carol: maintenance", "unpinned carol: maintenance",
		"stopped carol: maintenance", "refused carol: maintenance", "refused dave: start", "started carol: maintenance"}
	if !slices.Equal(told, want) {
		t.Errorf("%q", told)
	}
}

// What was approved and then cut off is interrupted all the same.
func TestLedgerApprovedAndCutOff(t *testing.T) {
	d := testDeployment(t)
	g := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	next := *g
	next.Number++
	for _, event := range []Event{Began, WasApproved} {
		d.note(Revision{}, &next, event, "")
	}
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := events(t, d); all[len(all)-1] != WasCutOff {
		t.Errorf("%v", all)
	}
}
