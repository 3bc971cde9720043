package store

import (
	"context"
	"fmt"
	"iter"
	"slices"
)

// A Validator knows which store items are valid. [Client] and [Pool] do.
type Validator interface {
	ValidPaths(ctx context.Context, paths []StorePath) ([]StorePath, error)
}

// A Plan is what has to be built, and in which order, to make derivations'
// outputs valid: the part of a [Graph] whose outputs are missing.
type Plan struct {
	graph *Graph
	in    []bool // by ID
	order []ID
}

// Missing finds out what must be built so that all outputs of derivations,
// which must be in the graph, are valid. A derivation of which every output
// that somebody needs is valid need not be built, nor, for its sake, what it
// depends on.
//
// It asks about a thing once, and about many at a time. What becomes valid or
// is collected meanwhile may be seen or not.
func (g *Graph) Missing(ctx context.Context, store Validator, derivations ...StorePath) (*Plan, error) {
	w := &walk{
		graph:  g,
		needed: make([]uint64, len(g.nodes)),
		in:     make([]bool, len(g.nodes)),
	}
	for _, d := range derivations {
		id, ok := g.Lookup(d)
		if !ok {
			return nil, fmt.Errorf("find what is missing: %s is not in the graph", d)
		}
		w.need(id, ^uint64(0))
	}
	for len(w.queue) > 0 {
		if err := w.step(ctx, store); err != nil {
			return nil, fmt.Errorf("find what is missing: %w", err)
		}
	}
	p := &Plan{graph: g, in: w.in}
	if err := p.sort(); err != nil {
		return nil, fmt.Errorf("find what is missing: %w", err)
	}
	return p, nil
}

// A walk goes from what is wanted to what that needs.
// Sets of outputs are bits, by position; from the 64th on they share the last.
type walk struct {
	graph  *Graph
	needed []uint64 // outputs known to be needed, by ID
	in     []bool   // must be built, by ID
	queue  []demand // to be asked about
}

type demand struct {
	id      ID
	outputs uint64
}

// need notes that outputs of a derivation are needed, if that is news.
func (w *walk) need(id ID, outputs uint64) {
	outputs &^= w.needed[id]
	if outputs == 0 {
		return
	}
	w.needed[id] |= outputs
	if !w.in[id] {
		w.queue = append(w.queue, demand{id, outputs})
	}
}

// step asks about everything in the queue, and puts there what follows.
func (w *walk) step(ctx context.Context, store Validator) error {
	queue := w.queue
	w.queue = nil
	var ask []StorePath
	for _, d := range queue {
		w.each(d, func(p StorePath) { ask = append(ask, p) })
	}
	valid, err := store.ValidPaths(ctx, ask)
	if err != nil {
		return err
	}
	have := make(map[StorePath]bool, len(valid))
	for _, p := range valid {
		have[p] = true
	}
	for _, d := range queue {
		missing := false
		w.each(d, func(p StorePath) { missing = missing || !have[p] })
		if missing && !w.in[d.id] {
			w.in[d.id] = true
			w.follow(d.id)
		}
	}
	return nil
}

// each calls f with the paths of the outputs that are demanded.
func (w *walk) each(d demand, f func(StorePath)) {
	for i, o := range w.graph.nodes[d.id].outputs {
		if d.outputs&bit(i) != 0 {
			f(o.Path)
		}
	}
}

// follow notes what building a derivation needs.
func (w *walk) follow(id ID) {
	for _, e := range w.graph.nodes[id].inputs {
		var outputs uint64
		for i, o := range w.graph.nodes[e.to].outputs {
			if slices.Contains(w.graph.names[e.names], o.Name) {
				outputs |= bit(i)
			}
		}
		w.need(e.to, outputs)
	}
}

func bit(i int) uint64 { return 1 << min(i, 63) }

// sort fills p.order.
func (p *Plan) sort() error {
	waiting := make([]int32, len(p.in)) // for so many inputs
	var ready []ID
	total := 0
	for i := range p.in {
		if !p.in[i] {
			continue
		}
		total++
		for range p.Inputs(ID(i)) {
			waiting[i]++
		}
		if waiting[i] == 0 {
			ready = append(ready, ID(i))
		}
	}
	for i := 0; i < len(ready); i++ {
		for d := range p.Dependents(ready[i]) {
			if waiting[d]--; waiting[d] == 0 {
				ready = append(ready, d)
			}
		}
	}
	if len(ready) < total {
		return fmt.Errorf("%d derivations depend on themselves", total-len(ready))
	}
	p.order = ready
	return nil
}

// Len returns how many derivations have to be built.
func (p *Plan) Len() int { return len(p.order) }

// Contains reports whether a derivation has to be built.
func (p *Plan) Contains(id ID) bool { return int(id) < len(p.in) && p.in[id] }

// Order returns what has to be built, each derivation after those it needs.
// It must not be changed.
func (p *Plan) Order() []ID { return p.order }

// Inputs yields what has to be built before a derivation.
func (p *Plan) Inputs(id ID) iter.Seq[ID] {
	return func(yield func(ID) bool) {
		for _, e := range p.graph.nodes[id].inputs {
			if p.in[e.to] && !yield(e.to) {
				return
			}
		}
	}
}

// Dependents yields what cannot be built before a derivation is.
func (p *Plan) Dependents(id ID) iter.Seq[ID] {
	return func(yield func(ID) bool) {
		for _, d := range p.graph.nodes[id].dependents {
			if p.Contains(d) && !yield(d) {
				return
			}
		}
	}
}

// Weights returns by ID the cost of the most expensive way from a derivation,
// itself included, to one that nothing in the plan depends on: how long it is
// still going to take at least once it can begin. A nil cost means that each
// derivation costs 1. Outside of the plan weights are 0.
func (p *Plan) Weights(cost func(ID) float64) []float64 {
	weights := make([]float64, len(p.in))
	for _, id := range slices.Backward(p.order) {
		longest := 0.0
		for d := range p.Dependents(id) {
			longest = max(longest, weights[d])
		}
		own := 1.0
		if cost != nil {
			own = cost(id)
		}
		weights[id] = longest + own
	}
	return weights
}
