package channel

import (
	"context"
)

// A Declaration is a place where somebody asks for a channel. Of those that ask for one
// name one wins, and Guix does not say which.
type Declaration struct {
	Channel Channel `json:"channel"`
	By      string  `json:"by,omitempty"` // the channel that asks; empty for the list
	Place   Place   `json:"place"`
	Won     bool    `json:"won"`
	Why     string  `json:"why"` // it won or lost
}

// who names the one that asks, for people.
func (d *Declaration) who() string {
	asks := "the list"
	if d.By != "" {
		asks = "channel " + d.By
	}
	if d.Place.Line != 0 {
		asks += " (" + d.Place.String() + ")"
	}
	return asks
}

func (d *Declaration) win(why string) { d.Won, d.Why = true, why }

func (d *Declaration) lose(to *Declaration) {
	d.Won = false
	if d.Channel.Commit != "" {
		d.Why = to.who() + " asked before, and names a commit too"
		return
	}
	d.Why = to.who() + " asked before"
}

func (d *Declaration) replaced(by *Declaration) {
	d.Won, d.Why = false, by.who()+" names a commit, which this does not"
}

// An Explanation is a lock and how it came to be what it is.
type Explanation struct {
	Lock         *Lock          `json:"lock"`
	Declarations []*Declaration `json:"declarations"` // in the order Guix considers them

	instances map[string]*instance
}

// Explain resolves the channels of a file as [Resolver.Resolve] does, and says for every
// channel which declaration won, which lost, and where each is written. Of a
// .guix-channel the dependencies are resolved; then no channel need be called guix.
func (r *Resolver) Explain(ctx context.Context, f *File) (*Explanation, error) {
	return r.explain(ctx, f.List(), f.Places(), f.metadata == nil, nil)
}

// ExplainList is [Resolver.Explain] for a list that was not read from a file.
func (r *Resolver) ExplainList(ctx context.Context, list List) (*Explanation, error) {
	return r.explain(ctx, list, nil, true, nil)
}

// explain wants a channel called guix in a complete list.
func (r *Resolver) explain(ctx context.Context, list List, places []Place, complete bool, unreadable func(*unreadableError)) (*Explanation, error) {
	m := r.merge(list, places)
	m.unreadable = unreadable
	if err := m.run(ctx); err != nil {
		return nil, err
	}
	e := &Explanation{Lock: m.lock(list), Declarations: m.all, instances: m.instances}
	if _, ok := e.Lock.List().Named(guixName); !ok && complete {
		return nil, lackingGuix()
	}
	return e, nil
}

// Of returns the declarations of one channel, the winner first.
func (e *Explanation) Of(name string) (all []*Declaration) {
	for _, won := range []bool{true, false} {
		for _, d := range e.Declarations {
			if d.Channel.Name == name && d.Won == won {
				all = append(all, d)
			}
		}
	}
	return all
}
