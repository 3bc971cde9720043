package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A Plan is what [Deployment.Apply] would do.
type Plan struct {
	// Next is the generation it would make, without a number yet.
	Next *Generation `json:"next"`
	// Current is what it would replace; nil for nothing.
	Current *Generation `json:"current,omitempty"`
	// Nothing is true when Next is just what runs.
	Nothing bool `json:"nothing"`
	// Adopts is true when Next is what runs, but for its probes, its schedule, or the way to
	// switch: that goes on, and takes them over.
	Adopts bool `json:"adopts,omitempty"`
	// Difference is from Current; without one, it is what the first generation is given, and its services.
	Difference *Difference `json:"difference,omitempty"`
	// Refusals are why it would be refused; empty if it would be tried.
	Refusals []Refusal `json:"refusals,omitempty"`
}

// A Refusal is a [RefusalError], or another reason, as text.
type Refusal struct {
	Check  string `json:"check"`
	Reason string `json:"reason"`
}

// Plan says what Apply would do, and changes nothing.
func (d *Deployment) Plan(ctx context.Context, rev Revision) (*Plan, error) {
	p, err := d.plan(ctx, rev)
	if err != nil {
		return nil, fmt.Errorf("plan %s: %w", d.Name, err)
	}
	return p, nil
}

func (d *Deployment) plan(ctx context.Context, rev Revision) (*Plan, error) {
	was, err := d.look()
	if err != nil {
		return nil, err
	}
	next := d.next(rev, was)
	p := &Plan{Next: next, Current: was.current}
	if was.runs(next) && !rev.Force {
		p.Next = d.generation(rev).onSideOf(was.current)
		p.Adopts = !p.Next.sameWay(was.current)
		p.Nothing = !p.Adopts
		if p.Adopts {
			p.refuse(errors.Join(d.checkWay(p.Next)...))
		}
		p.Difference = &Difference{SameScript: true, Lines: diffBindings(was.current, p.Next)}
		return p, nil
	}
	if _, err := d.weigh(ctx, rev, was.current); p.refuseWhatItIs(err) != nil {
		return nil, err
	}
	p.refuse(d.preflight(ctx, next, was))
	p.refuse(d.permit(rev, next))
	closures := d.Closures
	if checkScript(next.Script) != nil {
		closures = nil // refused, and not there to be looked at
	}
	p.Difference, err = distinguish(ctx, closures, p.Current, next)
	return p, err
}

// look is [Deployment.settle] for somebody who may not touch anything.
func (d *Deployment) look() (standing, error) {
	current, err := d.Current()
	if err != nil || current == nil {
		return standing{}, err
	}
	r, err := d.readRecord()
	if err != nil || r == nil {
		return standing{current: current}, err
	}
	in, err := d.instance(r)
	if err != nil || !in.Alive() || r.Stopping || current.Number != r.Generation {
		return standing{current: current, wanted: !r.Unwanted}, err
	}
	was := standing{current: current, running: in, wanted: true}
	was.beside, err = d.kept()
	return was, err
}

// refuse takes the reasons apart.
func (p *Plan) refuse(err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			p.refuse(e)
		}
		return
	}
	r := Refusal{Check: "revision", Reason: err.Error()}
	var refusal *RefusalError
	var rejected *RejectedError
	switch {
	case errors.As(err, &refusal):
		r.Check = refusal.Check
	case errors.As(err, &rejected):
		r.Check = "rejected"
	}
	p.Refusals = append(p.Refusals, r)
}

// WriteTo prints the plan for people.
func (p *Plan) WriteTo(w io.Writer) (int64, error) {
	var text strings.Builder
	switch {
	case p.Nothing:
		fmt.Fprintf(&text, "generation %d is just that, and runs: nothing to do\n", p.Current.Number)
	case p.Adopts:
		fmt.Fprintf(&text, "generation %d runs on, and takes over:\n", p.Current.Number)
		p.Difference.WriteTo(&text)
	case p.Current == nil:
		fmt.Fprintf(&text, "the first generation: %s\n", p.Next.Script)
		p.Difference.WriteTo(&text)
	default:
		fmt.Fprintf(&text, "replace generation %d by %s\n", p.Current.Number, p.Next.Script)
		p.Difference.WriteTo(&text)
	}
	if !p.Nothing && !p.Adopts {
		p.Next.Switch.print(&text)
	}
	for _, r := range p.Refusals {
		fmt.Fprintf(&text, "! %s: %s\n", r.Check, r.Reason)
	}
	n, err := io.WriteString(w, text.String())
	return int64(n), err
}
