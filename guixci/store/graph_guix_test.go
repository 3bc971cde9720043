package store_test

import (
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/substitute"
	"github.com/google/go-cmp/cmp"
)

// hello is the derivation of a package of Guix, with hundreds below it.
func hello(t testing.TB) store.StorePath {
	t.Helper()
	helloOnce.Do(func() {
		lines := run(t, "guix", "build", "-d", "--no-grafts", "hello")
		helloPath = store.StorePath(lines[len(lines)-1])
	})
	if !helloPath.IsDerivation() {
		t.Fatalf("guix build -d hello printed %q", helloPath)
	}
	return helloPath
}

var (
	helloOnce sync.Once
	helloPath store.StorePath
)

func TestGraphOfHello(t *testing.T) {
	c := dial(t)
	drv := hello(t)
	var g store.Graph
	if err := g.Add(t.Context(), drv); err != nil {
		t.Fatal(err)
	}
	if g.Len() < 100 {
		t.Errorf("%d derivations, want hundreds", g.Len())
	}

	// Guix's own idea of the same.
	var want []string
	for _, p := range run(t, "guix", "gc", "--requisites", string(drv)) {
		if substitute.StorePath(p).IsDerivation() {
			want = append(want, p)
		}
	}
	var got []string
	for id := range store.ID(g.Len()) {
		got = append(got, string(g.Derivation(id)))
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("derivations (-guix +got):\n%s", diff)
	}

	plan, err := g.Missing(t.Context(), c, drv)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Len() == 0 {
		t.Fatal("nothing to build: hello is there already?")
	}
	done := map[store.ID]bool{}
	for _, id := range plan.Order() {
		for in := range plan.Inputs(id) {
			if !done[in] {
				t.Fatalf("%s comes before its input %s", g.Derivation(id), g.Derivation(in))
			}
		}
		done[id] = true
	}
	top, _ := g.Lookup(drv)
	if weights := plan.Weights(nil); weights[top] != 1 || slices.Max(weights) < 10 {
		t.Errorf("weight of hello %v, longest path %v", weights[top], slices.Max(weights))
	}
}

func TestDerivationsPrintAsTheyAre(t *testing.T) {
	dial(t)
	var g store.Graph
	if err := g.Add(t.Context(), hello(t)); err != nil {
		t.Fatal(err)
	}
	for id := range store.ID(g.Len()) {
		path := g.Derivation(id)
		text, err := os.ReadFile(string(path))
		if err != nil {
			t.Fatal(err)
		}
		d, err := store.ReadDerivation(path)
		if err != nil {
			t.Fatal(err)
		}
		if d.String() != string(text) {
			t.Errorf("%s prints differently", path)
		}
		if !slices.EqualFunc(g.Outputs(id), d.Outputs, func(a, b store.Output) bool { return a.Path == b.Path }) {
			t.Errorf("%s: outputs %v in the graph, %v in the derivation", path, g.Outputs(id), d.Outputs)
		}
	}
}
