package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/genenetwork/guixci/substitute"
	"github.com/google/go-cmp/cmp"
)

// A toy is a store of derivations with short names, each with the outputs "out"
// and "doc".
type toy struct {
	files fstest.MapFS
	valid map[StorePath]bool
	asked map[StorePath]int
}

// newToy makes derivations from lines such as "app: lib lib2!doc".
func newToy(lines ...string) *toy {
	s := &toy{fstest.MapFS{}, map[StorePath]bool{}, map[StorePath]int{}}
	for _, line := range lines {
		name, needs, _ := strings.Cut(line, ":")
		d := Derivation{Outputs: []Output{{Name: "doc", Path: toyOutput(name, "doc")}, {Name: "out", Path: toyOutput(name, "out")}}}
		for _, need := range strings.Fields(needs) {
			input, output, ok := strings.Cut(need, "!")
			if !ok {
				output = "out"
			}
			d.Inputs = append(d.Inputs, Input{toyPath(input), strings.Split(output, ",")})
		}
		s.files[toyPath(name).Base()] = &fstest.MapFile{Data: []byte(d.String())}
	}
	return s
}

func toyPath(name string) StorePath {
	digits := strings.Map(func(r rune) rune {
		if strings.ContainsRune("0123456789abcdfghijklmnpqrsvwxyz", r) {
			return r
		}
		return '0'
	}, name)
	return StorePath(substitute.StoreDir + "/" + (digits + noHash)[:32] + "-" + name + ".drv")
}

func toyOutput(name, output string) StorePath {
	return StorePath(strings.TrimSuffix(string(toyPath(name)), ".drv") + "-" + output)
}

// ValidPaths is the toy's idea of what is valid.
func (s *toy) ValidPaths(_ context.Context, paths []StorePath) (valid []StorePath, err error) {
	for _, p := range paths {
		s.asked[p]++
		if s.valid[p] {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

func (s *toy) graph(t *testing.T, roots ...string) *Graph {
	t.Helper()
	g := &Graph{Store: s.files}
	for _, root := range roots { // one by one: the graph grows
		if err := g.Add(t.Context(), toyPath(root)); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func toyName(g *Graph, id ID) string { return strings.TrimSuffix(g.Derivation(id).Name(), ".drv") }

func toyNames(g *Graph, ids ...ID) []string {
	names := []string{}
	for _, id := range ids {
		names = append(names, toyName(g, id))
	}
	slices.Sort(names)
	return names
}

func TestMissing(t *testing.T) {
	//  app ─ lib ─ base        other ─ base
	//     └─ tool!doc ─ gcc
	lines := []string{"app: lib tool!doc", "lib: base", "tool: gcc", "other: base", "base", "gcc"}
	for name, test := range map[string]struct {
		valid []StorePath
		roots []string
		want  []string
	}{
		"nothing is valid":   {nil, []string{"app"}, []string{"app", "base", "gcc", "lib", "tool"}},
		"two roots":          {nil, []string{"app", "other"}, []string{"app", "base", "gcc", "lib", "other", "tool"}},
		"all is valid":       {[]StorePath{toyOutput("app", "out"), toyOutput("app", "doc")}, []string{"app"}, []string{}},
		"one output of two":  {[]StorePath{toyOutput("gcc", "out")}, []string{"gcc"}, []string{"gcc"}},
		"valid cuts":         {[]StorePath{toyOutput("lib", "out")}, []string{"app"}, []string{"app", "gcc", "tool"}},
		"other output":       {[]StorePath{toyOutput("tool", "out")}, []string{"app"}, []string{"app", "base", "gcc", "lib", "tool"}},
		"the output needed":  {[]StorePath{toyOutput("tool", "doc")}, []string{"app"}, []string{"app", "base", "lib"}},
		"needed and a root":  {[]StorePath{toyOutput("tool", "doc")}, []string{"app", "tool"}, []string{"app", "base", "gcc", "lib", "tool"}},
		"valid below":        {[]StorePath{toyOutput("base", "out")}, []string{"lib"}, []string{"lib"}},
		"valid, inputs gone": {[]StorePath{toyOutput("lib", "out"), toyOutput("lib", "doc")}, []string{"lib"}, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newToy(lines...)
			for _, p := range test.valid {
				s.valid[p] = true
			}
			g := s.graph(t, test.roots...)
			var roots []StorePath
			for _, r := range test.roots {
				roots = append(roots, toyPath(r))
			}
			plan, err := g.Missing(t.Context(), s, roots...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, toyNames(g, plan.Order()...)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
			for p, n := range s.asked {
				if n > 1 {
					t.Errorf("asked %d times whether %s is valid", n, p)
				}
			}
		})
	}
}

func TestPlan(t *testing.T) {
	// a ─ b ─ d ─ e
	//  └─ c ──┘
	s := newToy("a: b c", "b: d", "c: d", "d: e", "e")
	g := s.graph(t, "e", "a")
	plan, err := g.Missing(t.Context(), s, toyPath("a"))
	if err != nil {
		t.Fatal(err)
	}
	place := map[string]int{}
	for i, id := range plan.Order() {
		place[toyName(g, id)] = i
	}
	for _, pair := range []string{"eca", "eba", "ed", "db", "dc"} {
		for i := 1; i < len(pair); i++ {
			if place[pair[i-1:i]] >= place[pair[i:i+1]] {
				t.Errorf("%c does not come before %c: %v", pair[i-1], pair[i], place)
			}
		}
	}
	d, _ := g.Lookup(toyPath("d"))
	if diff := cmp.Diff([]string{"b", "c"}, toyNames(g, slices.Collect(plan.Dependents(d))...)); diff != "" {
		t.Errorf("dependents of d (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"e"}, toyNames(g, slices.Collect(plan.Inputs(d))...)); diff != "" {
		t.Errorf("inputs of d (-want +got):\n%s", diff)
	}
	cost := func(id ID) float64 {
		if toyName(g, id) == "c" {
			return 10
		}
		return 1
	}
	for name, want := range map[string][2]float64{"a": {1, 1}, "b": {2, 2}, "c": {2, 11}, "d": {3, 12}, "e": {4, 13}} {
		id, _ := g.Lookup(toyPath(name))
		if got := [2]float64{plan.Weights(nil)[id], plan.Weights(cost)[id]}; got != want {
			t.Errorf("weights of %s %v, want %v", name, got, want)
		}
	}
}

func TestGraphErrors(t *testing.T) {
	s := newToy("a: b", "self: self", "x: y", "y: x")
	s.files[toyPath("bad").Base()] = &fstest.MapFile{Data: []byte(`Derive([("out","x`)}
	add := func(name string) error { return (&Graph{Store: s.files}).Add(t.Context(), toyPath(name)) }
	if err := add("a"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), toyPath("b").Base()) {
		t.Errorf("input that is gone: %v", err)
	}
	if err := add("bad"); err == nil || !strings.Contains(err.Error(), "bad.drv: parse derivation: unexpected end") {
		t.Errorf("cut off: %v", err)
	}
	if err := (&Graph{Store: s.files}).Add(t.Context(), "/etc/passwd"); err == nil {
		t.Error("not a store path: no error")
	}
	for _, name := range []string{"self", "x"} {
		g := s.graph(t, name)
		if _, err := g.Missing(t.Context(), s, toyPath(name)); err == nil || !strings.Contains(err.Error(), "depend on themselves") {
			t.Errorf("circle: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&Graph{Store: s.files}).Add(ctx, toyPath("self")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	g := s.graph(t, "self")
	if _, err := g.Missing(t.Context(), s, toyPath("a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is missing cannot be read: %v", err)
	}
}

// manyOutputs: the 64th output and later ones are told apart as far as they must be.
func TestMissingManyOutputs(t *testing.T) {
	d := Derivation{}
	for i := range 70 {
		d.Outputs = append(d.Outputs, Output{Name: fmt.Sprintf("o%02d", i), Path: toyOutput("many", fmt.Sprintf("o%02d", i))})
	}
	s := newToy("app: many!o69")
	s.files[toyPath("many").Base()] = &fstest.MapFile{Data: []byte(d.String())}
	g := s.graph(t, "app")
	plan, err := g.Missing(t.Context(), s, toyPath("app"))
	if err != nil || plan.Len() != 2 {
		t.Errorf("plan of %d, %v, want 2", plan.Len(), err)
	}
}
