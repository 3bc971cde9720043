package store

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
)

// A Graph is a set of derivations and how they depend on each other. It is made
// for all of Guix, some hundred thousand of them: of each it keeps the name, the
// outputs and the inputs, and refers to it by a small number, its [ID].
//
//	var g store.Graph
//	plan, err := g.Missing(ctx, pool, jobs...)
//	for _, id := range plan.Order() { // dependencies first
//		pool.Build(ctx, []store.StorePath{g.Derivation(id)}, …)
//	}
//
// A plan has the graph read what is missing and what that needs directly, no more;
// [Graph.Add] reads all that derivations depend on.
//
// The zero value is an empty graph of the store on this machine. Methods that
// only ask may be called concurrently, but not together with Add or a plan's.
type Graph struct {
	// Store has the derivations, by name without directory. Nil means
	// /gnu/store. It must not change after the first call.
	Store fs.FS

	nodes    []node
	index    map[StorePath]ID
	names    [][]string        // sets of output names
	nameSets map[string]uint32 // index of names, by how they are written in derivations
	problems map[ID]error      // why nodes could not be read
	partial  bool              // there are nodes that were not read, other than those
}

// An ID is the number of a derivation in one [Graph]. They begin at 0 and have
// no gaps; those of later derivations are higher.
type ID int32

type node struct {
	derivation StorePath
	outputs    []Output // without Hash; none if it has not been read
	inputs     []edge
	dependents []ID
}

// An edge leads to a derivation of which some outputs are needed.
type edge struct {
	to    ID
	names uint32 // index in Graph.names
}

// Add reads derivations and everything they depend on. The error is that of one that
// cannot be read, for which see [Graph.Problem]; the others have been read nevertheless.
func (g *Graph) Add(ctx context.Context, derivations ...StorePath) error {
	first := len(g.nodes)
	if _, err := g.enter(derivations); err != nil {
		return fmt.Errorf("load derivations: %w", err)
	}
	if g.partial {
		first = 0
	}
	if err := g.load(ctx, g.unread(first), true); err != nil {
		return fmt.Errorf("load derivations: %w", err)
	}
	g.partial = len(g.problems) > 0 // there may be more below
	for _, id := range slices.Sorted(maps.Keys(g.problems)) {
		return fmt.Errorf("load derivations: %w", g.problems[id])
	}
	return nil
}

// enter makes nodes of derivations that have none, to be read later.
func (g *Graph) enter(derivations []StorePath) ([]ID, error) {
	if err := check(derivations...); err != nil {
		return nil, err
	}
	if g.index == nil {
		g.index = map[StorePath]ID{}
		g.nameSets = map[string]uint32{}
		g.problems = map[ID]error{}
	}
	ids := make([]ID, len(derivations))
	for i, d := range derivations {
		ids[i] = g.intern(string(d))
	}
	return ids, nil
}

// unread returns the nodes from first on that have not been read.
func (g *Graph) unread(first int) (ids []ID) {
	for i := first; i < len(g.nodes); i++ {
		if g.nodes[i].outputs == nil {
			ids = append(ids, ID(i))
		}
	}
	return ids
}

// load reads nodes and, if deep, what they depend on and was not known. It returns an
// error only if ctx has ended; nodes that cannot be read have a problem.
func (g *Graph) load(ctx context.Context, ids []ID, deep bool) error {
	g.partial = true
	l := &loader{graph: g, queue: ids, deep: deep}
	l.wake.L = &l.mu
	err := l.run(ctx)
	slices.Sort(l.done)
	for _, id := range l.done {
		for _, e := range g.nodes[id].inputs {
			to := &g.nodes[e.to]
			to.dependents = append(to.dependents, id)
		}
	}
	return err
}

// intern returns the node with the given name, a new one if there is none.
func (g *Graph) intern(path string) ID {
	if id, ok := g.index[StorePath(path)]; ok {
		return id
	}
	id := ID(len(g.nodes))
	p := StorePath(strings.Clone(path))
	g.nodes = append(g.nodes, node{derivation: p})
	g.index[p] = id
	return id
}

// internNames returns the number of a set of output names, given as derivations have it.
func (g *Graph) internNames(list []byte) uint32 {
	if n, ok := g.nameSets[string(list)]; ok {
		return n
	}
	n := uint32(len(g.names))
	g.names = append(g.names, (&atermReader{text: list}).strings())
	g.nameSets[string(list)] = n
	return n
}

// Len returns the number of derivations.
func (g *Graph) Len() int { return len(g.nodes) }

// Lookup returns the number of a derivation.
func (g *Graph) Lookup(derivation StorePath) (ID, bool) {
	id, ok := g.index[derivation]
	return id, ok
}

// Derivation returns the name of a derivation.
func (g *Graph) Derivation(id ID) StorePath { return g.nodes[id].derivation }

// Problem returns why a derivation could not be read, nil if it could or was not to
// be. If it is not in the store the error wraps fs.ErrNotExist.
func (g *Graph) Problem(id ID) error { return g.problems[id] }

// Read reads all of a derivation.
func (g *Graph) Read(id ID) (*Derivation, error) {
	path := g.nodes[id].derivation
	f, err := open(g.Store, path)
	if err != nil {
		return nil, fmt.Errorf("read derivation: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read derivation: %w", err)
	}
	d, err := ParseDerivation(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// Outputs returns the outputs of a derivation, sorted by name: none if it has
// not been read. It must not be changed.
func (g *Graph) Outputs(id ID) []Output { return g.nodes[id].outputs }

// Inputs yields the derivations that one needs directly.
func (g *Graph) Inputs(id ID) iter.Seq[ID] {
	return func(yield func(ID) bool) {
		for _, e := range g.nodes[id].inputs {
			if !yield(e.to) {
				return
			}
		}
	}
}

// Dependents returns the derivations that need one directly. It must not be changed.
func (g *Graph) Dependents(id ID) []ID { return g.nodes[id].dependents }
