package store

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"strings"
)

// A Graph is a set of derivations and how they depend on each other. It is made
// for all of Guix, some hundred thousand of them: of each it keeps the name, the
// outputs and the inputs, and refers to it by a small number, its [ID].
//
//	var g store.Graph
//	err := g.Add(ctx, jobs...)             // and all they need
//	plan, err := g.Missing(ctx, pool, jobs...)
//	for _, id := range plan.Order() {      // dependencies first
//		pool.Build(ctx, []store.StorePath{g.Derivation(id)}, …)
//	}
//
// The zero value is an empty graph of the store on this machine. Methods that
// only ask may be called concurrently, but not together with Add.
type Graph struct {
	// Store has the derivations, by name without directory. Nil means
	// /gnu/store. It must not change after the first call.
	Store fs.FS

	nodes    []node
	index    map[StorePath]ID
	names    [][]string        // sets of output names
	nameSets map[string]uint32 // index of names, by the names joined with commas
}

// An ID is the number of a derivation in one [Graph]. They begin at 0 and have
// no gaps; those of later derivations are higher.
type ID int32

type node struct {
	derivation StorePath
	outputs    []Output // without Hash
	inputs     []edge
	dependents []ID
}

// An edge leads to a derivation of which some outputs are needed.
type edge struct {
	to    ID
	names uint32 // index in Graph.names
}

// Add adds derivations and everything they depend on that is not there yet.
// After an error the graph has part of them and can be used no more.
func (g *Graph) Add(ctx context.Context, derivations ...StorePath) error {
	if err := check(derivations...); err != nil {
		return fmt.Errorf("load derivations: %w", err)
	}
	if g.index == nil {
		g.index = map[StorePath]ID{}
		g.nameSets = map[string]uint32{}
	}
	first := len(g.nodes)
	l := &loader{graph: g}
	l.wake.L = &l.mu
	for _, d := range derivations {
		g.intern(string(d))
	}
	l.next = first
	if err := l.run(ctx); err != nil {
		return fmt.Errorf("load derivations: %w", err)
	}
	g.link(first)
	return nil
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

// internNames returns the number of a set of output names.
func (g *Graph) internNames(key string) uint32 {
	if n, ok := g.nameSets[key]; ok {
		return n
	}
	n := uint32(len(g.names))
	key = strings.Clone(key)
	g.names = append(g.names, strings.Split(key, ","))
	g.nameSets[key] = n
	return n
}

// link notes the dependents of what the nodes from first on need.
func (g *Graph) link(first int) {
	for i := first; i < len(g.nodes); i++ {
		for _, e := range g.nodes[i].inputs {
			to := &g.nodes[e.to]
			to.dependents = append(to.dependents, ID(i))
		}
	}
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

// Outputs returns the outputs of a derivation, sorted by name. It must not be changed.
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
