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
// outputs valid: the part of a [Graph] whose outputs are missing. It grows by
// [Plan.Add], which nothing else may be called together with.
type Plan struct {
	// Prune, if there is one, is told what was found missing before what that needs
	// is looked at, and returns those of which it need not be: they are in the
	// plan without inputs. Set it before the first Add.
	Prune func(ctx context.Context, missing []ID) ([]ID, error)

	graph *Graph
	store Validator
	in    []bool // by ID
	size  int    // how many are in

	// Sets of outputs are bits, by position; from the 64th on they share the last.
	needed  []uint64 // outputs somebody needs, by ID
	missing []uint64 // those of them that are not valid
	pruned  []bool   // by ID
	queue   []wish   // to be asked about
	fresh   []ID     // in the plan since Add last returned
	seen    []uint32 // in which step a derivation was found missing, by ID
	steps   uint32
	order   []ID
}

// A wish is that for some outputs of a derivation, which may not have been read.
type wish struct {
	id    ID
	names int32 // index in Graph.names; allOutputs for all
}

const allOutputs = -1

// A demand is for outputs about which nothing is known.
type demand struct {
	id      ID
	outputs uint64
}

// NewPlan returns an empty plan, which asks store what is valid.
func (g *Graph) NewPlan(store Validator) *Plan { return &Plan{graph: g, store: store} }

// Missing finds out what must be built so that all outputs of derivations
// are valid, reading what it must of them. A derivation of which every output
// that somebody needs is valid need not be built, nor, for its sake, what it
// depends on. If one that must be built cannot be read there is no plan.
//
// It asks about a thing once, and about many at a time. What becomes valid or
// is collected meanwhile may be seen or not.
func (g *Graph) Missing(ctx context.Context, store Validator, derivations ...StorePath) (*Plan, error) {
	p := g.NewPlan(store)
	fresh, err := p.Add(ctx, derivations...)
	if err != nil {
		return nil, err
	}
	for _, id := range fresh {
		if err := g.Problem(id); err != nil {
			return nil, fmt.Errorf("find what is missing: %w", err)
		}
	}
	if n := p.Len() - len(p.Order()); n > 0 {
		return nil, fmt.Errorf("find what is missing: %d derivations depend on themselves", n)
	}
	return p, nil
}

// Add extends the plan to make all outputs of derivations valid, and returns what
// is new in it, each after something that needs it. A derivation that cannot be read is
// part of the plan, with a [Graph.Problem]. After an error the next Add,
// be it of nothing, takes up where this one stopped.
func (p *Plan) Add(ctx context.Context, derivations ...StorePath) ([]ID, error) {
	ids, err := p.graph.enter(derivations)
	if err != nil {
		return nil, fmt.Errorf("find what is missing: %w", err)
	}
	for _, id := range ids {
		p.queue = append(p.queue, wish{id, allOutputs})
	}
	return p.walk(ctx)
}

// Expand looks at what derivations that were pruned need after all, and returns what is
// new in the plan as Add does.
func (p *Plan) Expand(ctx context.Context, ids ...ID) ([]ID, error) {
	for _, id := range ids {
		if p.Contains(id) && p.pruned[id] {
			p.pruned[id] = false
			p.follow(id)
		}
	}
	return p.walk(ctx)
}

// walk goes from what is wanted to what that needs.
func (p *Plan) walk(ctx context.Context) ([]ID, error) {
	for len(p.queue) > 0 {
		if err := p.step(ctx); err != nil {
			return nil, fmt.Errorf("find what is missing: %w", err)
		}
	}
	fresh := p.fresh
	p.fresh, p.order = nil, nil
	return fresh, nil
}

// extend makes room for what is new in the graph.
func (p *Plan) extend() {
	if more := len(p.graph.nodes) - len(p.in); more > 0 {
		p.in = append(p.in, make([]bool, more)...)
		p.pruned = append(p.pruned, make([]bool, more)...)
		p.needed = append(p.needed, make([]uint64, more)...)
		p.missing = append(p.missing, make([]uint64, more)...)
		p.seen = append(p.seen, make([]uint32, more)...)
	}
}

// step asks about everything in the queue, and puts there what follows. It
// changes nothing before it has all the answers.
func (p *Plan) step(ctx context.Context) error {
	if err := p.read(ctx); err != nil {
		return err
	}
	demands := p.demands()
	missing, err := p.ask(ctx, demands)
	var fresh, pruned []ID
	if err == nil {
		fresh = p.fresher(demands, missing)
		pruned, err = p.prune(ctx, fresh)
	}
	if err != nil {
		for _, d := range demands {
			p.needed[d.id] &^= d.outputs
		}
		return err
	}
	for i, d := range demands {
		p.missing[d.id] |= missing[i]
	}
	p.queue = nil
	p.accept(fresh, pruned)
	return nil
}

// read reads the derivations in the queue.
func (p *Plan) read(ctx context.Context) error {
	var ids []ID
	for _, w := range p.queue {
		if p.graph.nodes[w.id].outputs == nil && p.graph.problems[w.id] == nil {
			ids = append(ids, w.id)
		}
	}
	var err error
	if len(ids) > 0 {
		slices.Sort(ids)
		err = p.graph.load(ctx, slices.Compact(ids), false)
	}
	p.extend()
	return err
}

// demands returns what is new in the queue, and notes that it is needed.
func (p *Plan) demands() (all []demand) {
	for _, w := range p.queue {
		if outputs := p.graph.outputs(w.id, w.names) &^ p.needed[w.id]; outputs != 0 {
			p.needed[w.id] |= outputs
			all = append(all, demand{w.id, outputs})
		}
	}
	return all
}

// ask finds out which of the outputs in each demand are not valid: of a
// derivation that cannot be read, all.
func (p *Plan) ask(ctx context.Context, demands []demand) ([]uint64, error) {
	var paths []StorePath
	for _, d := range demands {
		p.each(d, func(_ uint64, path StorePath) { paths = append(paths, path) })
	}
	missing := make([]uint64, len(demands))
	have := make(map[StorePath]bool, len(paths))
	if len(paths) > 0 {
		valid, err := p.store.ValidPaths(ctx, paths)
		if err != nil {
			return nil, err
		}
		for _, path := range valid {
			have[path] = true
		}
	}
	for i, d := range demands {
		if p.graph.nodes[d.id].outputs == nil {
			missing[i] = d.outputs
		}
		p.each(d, func(bit uint64, path StorePath) {
			if !have[path] {
				missing[i] |= bit
			}
		})
	}
	return missing, nil
}

// each calls f with the outputs in demand.
func (p *Plan) each(d demand, f func(bit uint64, path StorePath)) {
	for i, o := range p.graph.nodes[d.id].outputs {
		if d.outputs&bit(i) != 0 {
			f(bit(i), o.Path)
		}
	}
}

// fresher returns what was found missing and is not in the plan yet.
func (p *Plan) fresher(demands []demand, missing []uint64) (fresh []ID) {
	p.steps++
	for i, d := range demands {
		if missing[i] != 0 && !p.in[d.id] && p.seen[d.id] != p.steps {
			p.seen[d.id] = p.steps
			fresh = append(fresh, d.id)
		}
	}
	return fresh
}

func (p *Plan) prune(ctx context.Context, fresh []ID) ([]ID, error) {
	if p.Prune == nil || len(fresh) == 0 {
		return nil, nil
	}
	return p.Prune(ctx, fresh)
}

// accept puts derivations into the plan, and those that they need into the queue.
func (p *Plan) accept(fresh, pruned []ID) {
	for _, id := range pruned {
		p.pruned[id] = true
	}
	for _, id := range fresh {
		p.in[id] = true
		if !p.pruned[id] {
			p.follow(id)
		}
	}
	p.fresh = append(p.fresh, fresh...)
	p.size += len(fresh)
}

// follow wishes for what building a derivation needs.
func (p *Plan) follow(id ID) {
	for _, e := range p.graph.nodes[id].inputs {
		p.queue = append(p.queue, wish{e.to, int32(e.names)})
	}
}

// outputs returns the set of outputs with some names: of a derivation that
// cannot be read, all.
func (g *Graph) outputs(id ID, names int32) (set uint64) {
	if names == allOutputs || g.nodes[id].outputs == nil {
		return ^uint64(0)
	}
	for i, o := range g.nodes[id].outputs {
		if slices.Contains(g.names[names], o.Name) {
			set |= bit(i)
		}
	}
	return set
}

func bit(i int) uint64 { return 1 << min(i, 63) }

// sort puts in order what can be: from what nothing else waits for downwards, and then reversed.
func (p *Plan) sort() []ID {
	waiting := make([]int32, len(p.in)) // how many others are for it
	for i := range p.in {
		for in := range p.Inputs(ID(i)) {
			waiting[in]++
		}
	}
	order := make([]ID, 0, p.size)
	for i := range p.in {
		if p.in[i] && waiting[i] == 0 {
			order = append(order, ID(i))
		}
	}
	for i := 0; i < len(order); i++ {
		for in := range p.Inputs(order[i]) {
			if waiting[in]--; waiting[in] == 0 {
				order = append(order, in)
			}
		}
	}
	slices.Reverse(order)
	return order
}

// Len returns how many derivations have to be built.
func (p *Plan) Len() int { return p.size }

// Contains reports whether a derivation has to be built.
func (p *Plan) Contains(id ID) bool { return int(id) < len(p.in) && p.in[id] }

// Order returns what has to be built, each derivation after those it needs.
// Those that depend on themselves, which a store cannot hold, are left out with what they need.
// It must not be changed.
func (p *Plan) Order() []ID {
	if p.order == nil {
		p.order = p.sort()
	}
	return p.order
}

// lacks reports whether what an edge leads to is missing.
func (p *Plan) lacks(e edge) bool {
	return p.Contains(e.to) && p.missing[e.to]&p.graph.outputs(e.to, int32(e.names)) != 0
}

// Inputs yields what has to be built before a derivation. One of which
// only other outputs are missing than those that it needs is not among them.
func (p *Plan) Inputs(id ID) iter.Seq[ID] {
	return func(yield func(ID) bool) {
		if !p.Contains(id) || p.pruned[id] {
			return
		}
		for _, e := range p.graph.nodes[id].inputs {
			if p.lacks(e) && !yield(e.to) {
				return
			}
		}
	}
}

// Dependents yields what cannot be built before a derivation is.
func (p *Plan) Dependents(id ID) iter.Seq[ID] {
	return func(yield func(ID) bool) {
		for _, d := range p.graph.nodes[id].dependents {
			if p.Contains(d) && p.needs(d, id) && !yield(d) {
				return
			}
		}
	}
}

// needs reports whether one derivation in the plan waits for another.
func (p *Plan) needs(id, other ID) bool {
	for in := range p.Inputs(id) {
		if in == other {
			return true
		}
	}
	return false
}

// Weights returns by ID the cost of the most expensive way from a derivation,
// itself included, to one that nothing in the plan depends on: how long it is
// still going to take at least once it can begin. A nil cost means that each
// derivation costs 1. Outside of the plan weights are 0.
func (p *Plan) Weights(cost func(ID) float64) []float64 {
	weights := make([]float64, len(p.in))
	for _, id := range slices.Backward(p.Order()) { // weights has the most expensive way above it
		if cost == nil {
			weights[id]++
		} else {
			weights[id] += cost(id)
		}
		for in := range p.Inputs(id) {
			weights[in] = max(weights[in], weights[id])
		}
	}
	return weights
}
