package store

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// A plan reads what is missing and what that needs, and not what is below.
func TestPlanReadsWhatItMust(t *testing.T) {
	s := newToy("app: lib tool", "lib: base", "tool", "base: deep", "deep")
	s.valid[toyOutput("lib", "out")] = true
	opened := opens{MapFS: s.files, times: map[string]int{}, mu: new(sync.Mutex)}
	g := &Graph{Store: opened}
	plan, err := g.Missing(t.Context(), s, toyPath("app"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"app", "tool"}, toyNames(g, plan.Order()...)); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	want := map[string]int{toyPath("app").Base(): 1, toyPath("lib").Base(): 1, toyPath("tool").Base(): 1}
	if diff := cmp.Diff(want, opened.times); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	if err := g.Add(t.Context(), toyPath("app")); err != nil { // the rest, once
		t.Fatal(err)
	}
	want[toyPath("base").Base()], want[toyPath("deep").Base()] = 1, 1
	if diff := cmp.Diff(want, opened.times); diff != "" {
		t.Errorf("read after all (-want +got):\n%s", diff)
	}
	base, _ := g.Lookup(toyPath("base"))
	if diff := cmp.Diff([]string{"lib"}, toyNames(g, g.Dependents(base)...)); diff != "" {
		t.Errorf("dependents of base (-want +got):\n%s", diff)
	}
}

// opens counts how often files are opened.
type opens struct {
	fstest.MapFS
	mu    *sync.Mutex // guards times
	times map[string]int
}

func (o opens) Open(name string) (fs.File, error) {
	o.mu.Lock()
	o.times[name]++
	o.mu.Unlock()
	return o.MapFS.Open(name)
}

// What only other outputs are missing of is not waited for.
func TestPlanIsExactAboutOutputs(t *testing.T) {
	s := newToy("app: lib", "other: lib!doc", "lib")
	s.valid[toyOutput("lib", "out")] = true
	g := &Graph{Store: s.files}
	plan, err := g.Missing(t.Context(), s, toyPath("app"), toyPath("other"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{"app": {}, "other": {"lib"}} {
		id, _ := g.Lookup(toyPath(name))
		var got []ID
		for in := range plan.Inputs(id) {
			got = append(got, in)
		}
		if diff := cmp.Diff(want, toyNames(g, got...)); diff != "" {
			t.Errorf("%s waits for (-want +got):\n%s", name, diff)
		}
	}
}

func TestPlanGrows(t *testing.T) {
	//  app ─ lib ─ base        other ─ base, gone
	s := newToy("app: lib", "lib: base", "base", "other: base gone")
	g := &Graph{Store: s.files}
	plan := g.NewPlan(s)
	add := func(want []string, names ...string) {
		t.Helper()
		var drvs []StorePath
		for _, n := range names {
			drvs = append(drvs, toyPath(n))
		}
		fresh, err := plan.Add(t.Context(), drvs...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, toyNames(g, fresh...)); diff != "" {
			t.Errorf("new with %v (-want +got):\n%s", names, diff)
		}
	}
	add([]string{"base", "lib"}, "lib")
	add([]string{}, "base")
	add([]string{"app"}, "app")
	add([]string{"gone", "other"}, "other")
	gone, _ := g.Lookup(toyPath("gone"))
	if g.Problem(gone) == nil || plan.Len() != 5 || len(plan.Order()) != 5 {
		t.Errorf("problem %v, %d in the plan, %d in order", g.Problem(gone), plan.Len(), len(plan.Order()))
	}
}

// flaky fails every other time.
type flaky struct {
	*toy
	times int
}

var errFlaky = errors.New("not now")

func (f *flaky) ValidPaths(ctx context.Context, paths []StorePath) ([]StorePath, error) {
	if f.times++; f.times%2 == 1 {
		return nil, errFlaky
	}
	return f.toy.ValidPaths(ctx, paths)
}

// After an error planning takes up where it stopped, and nothing is lost or told twice.
func TestPlanResumes(t *testing.T) {
	s := &flaky{toy: newToy("app: lib tool", "lib: base", "tool: base", "base")}
	g := &Graph{Store: s.files}
	plan := g.NewPlan(s)
	told := map[ID]int{}
	plan.Prune = func(_ context.Context, missing []ID) ([]ID, error) {
		if len(missing) == 2 && told[missing[0]] == 0 {
			told[missing[0]]++
			return nil, errFlaky
		}
		return nil, nil
	}
	fresh, err := plan.Add(t.Context(), toyPath("app"))
	failures := 0
	for ; err != nil; fresh, err = plan.Add(t.Context()) {
		if failures++; !errors.Is(err, errFlaky) || failures > 10 {
			t.Fatal(err)
		}
	}
	if failures != 5 {
		t.Errorf("%d failures, want one for each of 3 levels, one of Prune, and one when asked again after that", failures)
	}
	if diff := cmp.Diff([]string{"app", "base", "lib", "tool"}, toyNames(g, fresh...)); diff != "" {
		t.Errorf("new (-want +got):\n%s", diff)
	}
}

func TestPlanPrunes(t *testing.T) {
	s := newToy("app: lib tool", "lib: base", "tool", "base")
	g := &Graph{Store: s.files}
	plan := g.NewPlan(s)
	plan.Prune = func(_ context.Context, missing []ID) (pruned []ID, err error) {
		for _, id := range missing {
			if toyName(g, id) == "lib" {
				pruned = append(pruned, id)
			}
		}
		return pruned, nil
	}
	fresh, err := plan.Add(t.Context(), toyPath("app"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"app", "lib", "tool"}, toyNames(g, fresh...)); diff != "" {
		t.Errorf("new (-want +got):\n%s", diff)
	}
	lib, _ := g.Lookup(toyPath("lib"))
	if fresh, err = plan.Expand(t.Context(), lib); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"base"}, toyNames(g, fresh...)); diff != "" {
		t.Errorf("new after expansion (-want +got):\n%s", diff)
	}
	if again, err := plan.Expand(t.Context(), lib); err != nil || len(again) != 0 {
		t.Errorf("expanded again: %v, %v", again, err)
	}
}
