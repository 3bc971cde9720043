package guixci_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/internal/samples"
)

// told are findings in a line each, with the subjects of commits.
func told(t *testing.T, b *bench, r *guixci.Report) (lines []string) {
	t.Helper()
	findings, err := b.History().Findings(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		line := string(f.Change) + " " + strings.TrimSuffix(f.Job, ".x86_64-linux")
		for _, m := range f.Moves {
			line += " " + m.Channel
			for _, c := range m.Commits {
				line += " " + c.Subject
			}
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// broken samples, a commit that repairs them, one that breaks the pull, and that taken back.
func TestFindings(t *testing.T) {
	guixtest.Require(t)
	b := newBench(t)
	first := b.mustRun(t, b.spec())
	want := []string{"newly broken sample-broken", "newly broken sample-needs-broken", "newly broken sample-unlowerable"}
	if diff := cmp.Diff(want, told(t, b, first)); diff != "" {
		t.Errorf("at first (-want +got):\n%s", diff)
	}
	repaired, err := b.set.Repair()
	if err != nil {
		t.Fatal(err)
	}
	second := b.mustRun(t, b.spec())
	want = want[:0]
	for _, job := range []string{"sample-broken", "sample-needs-broken", "sample-unlowerable"} {
		want = append(want, "fixed "+job+" sample-channel Fix the answer.")
	}
	if diff := cmp.Diff(want, told(t, b, second)); diff != "" || !second.Green {
		t.Errorf("after the repair, green %v (-want +got):\n%s", second.Green, diff)
	}
	if _, err := b.set.Break(); err != nil {
		t.Fatal(err)
	}
	third := b.mustRun(t, b.spec())
	if diff := cmp.Diff([]string{"newly broken  sample-channel Add sample-modern."}, told(t, b, third)); diff != "" {
		t.Errorf("with a broken pull (-want +got):\n%s", diff)
	}
	if err := b.set.Repo(samples.Channel).SetBranch("master", repaired); err != nil {
		t.Fatal(err)
	}
	fourth := b.mustRun(t, b.spec())
	if diff := cmp.Diff([]string{"fixed  sample-channel"}, told(t, b, fourth)); diff != "" || fourth.Built != 0 {
		t.Errorf("taken back, %d built (-want +got):\n%s", fourth.Built, diff)
	}
	prunes(t, b, first, second)
}

// prunes lets go of all but the newest evaluation, which has the same lock as the second one.
func prunes(t *testing.T, b *bench, first, second *guixci.Report) {
	if gone, err := b.Prune(t.Context(), guixci.Retention{}); err != nil || gone != (guixci.Pruned{}) {
		t.Errorf("pruned by nothing: %+v %v", gone, err)
	}
	// A deployment of the first lock keeps its profile.
	generation := filepath.Join(b.state, "deployments", "d", "generations", "1")
	if err := os.MkdirAll(generation, 0o755); err != nil {
		t.Fatal(err)
	}
	deployed := []byte(`{"number": 1, "lock": "` + first.Digest + `"}`)
	if err := os.WriteFile(filepath.Join(generation, "generation.json"), deployed, 0o600); err != nil {
		t.Fatal(err)
	}
	roots := func() int {
		entries, err := os.ReadDir(filepath.Join(b.state, "roots"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	// What an evaluation long ago has left.
	if err := os.Symlink("/gnu/store/old", filepath.Join(b.state, "roots", "old")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(b.state, "checkouts", "sample-project-0123", "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	before := roots()
	gone, err := b.Prune(t.Context(), guixci.Retention{Evaluations: 1})
	// Packages that the repair did not touch are in both.
	if want := (guixci.Pruned{Roots: 1, Checkouts: 1}); err != nil || gone != want || roots() != before-1 {
		t.Errorf("pruned %+v %v, want %+v; %d roots of %d are left", gone, err, want, roots(), before)
	}
	for _, j := range second.Jobs {
		drv, err := store.ReadDerivation(store.StorePath(j.Derivation))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range drv.Outputs {
			if _, err := os.Lstat(filepath.Join(b.state, "roots", o.Path.Base())); err != nil {
				t.Errorf("the root of %s is gone", j.Name)
			}
		}
	}
	if err := os.RemoveAll(filepath.Join(b.state, "deployments")); err != nil {
		t.Fatal(err)
	}
	gone, err = b.Prune(t.Context(), guixci.Retention{Evaluations: 1})
	if err != nil || gone.Profiles != 1 {
		t.Errorf("pruned %+v %v, want one profile", gone, err)
	}
	if _, err := os.Lstat(filepath.Join(b.state, "profiles", first.Digest)); err == nil {
		t.Error("the profile of the first lock is there")
	}
	if r := b.mustRun(t, b.spec()); !r.Unchanged || !r.Green {
		t.Errorf("after pruning: %+v", r)
	}
}
