package container

import (
	"context"
	"fmt"
)

// A Promotion says how [Deployment.Promote] follows another deployment.
type Promotion struct {
	// From is what is followed: production follows CD.
	From *Deployment
	// Descends reports whether the commit of new has that of old, another one of the same
	// channel, in its history. Nil takes every other commit for a downgrade.
	Descends func(ctx context.Context, old, new Channel) (bool, error)
	// AllowDowngrade promotes all the same; the ledger says so.
	AllowDowngrade bool
	// AllowUnconfirmed promotes although what is followed, as Follows of the deployment has it, is not From and has
	// something else confirmed, or runs it badly; the ledger says so.
	AllowUnconfirmed bool
	// Force tries again what was rejected before, see [Revision].
	Force    bool
	Who, Why string
}

// Promote makes the very store item that is current, and so confirmed, in another deployment the
// running generation of this one, in the environment of this one. It is refused when
// there is none, when that one does not run or has services that are not as they should be, or when a channel would go back.
func (d *Deployment) Promote(ctx context.Context, p Promotion) (*Generation, error) {
	rev, err := d.promotion(ctx, p)
	if err != nil {
		return nil, d.failed(notBegun(err), err)
	}
	return d.Apply(ctx, rev)
}

// promotion returns the revision to apply.
func (d *Deployment) promotion(ctx context.Context, p Promotion) (Revision, error) {
	if p.From.Dir == d.Dir {
		return Revision{}, decline("%s cannot be promoted to itself", d.Name)
	}
	g, err := p.From.exemplary(ctx)
	if err != nil {
		return Revision{}, err
	}
	rev := Revision{Script: g.Script, Lock: g.Lock, Channels: g.Channels, Who: p.Who, Descends: p.Descends, AllowDowngrade: p.AllowDowngrade,
		AllowUnconfirmed: p.AllowUnconfirmed, Force: p.Force,
		Why: because(p.Why, fmt.Sprintf("promotes generation %d of %s", g.Number, p.From.Name))}
	if rev.Descends == nil {
		rev.Descends = func(context.Context, Channel, Channel) (bool, error) { return false, nil }
	}
	return rev, nil
}

// exemplary returns the generation that others may take over: it is confirmed, runs, and is well just now.
func (d *Deployment) exemplary(ctx context.Context) (*Generation, error) {
	s, err := d.Status(ctx)
	switch {
	case err != nil:
		return nil, err
	case s.Running == nil || !s.Confirmed:
		return nil, decline("%s runs no confirmed generation", d.Name)
	case s.Trouble != nil:
		return nil, decline("%s may be unwell: its shepherd cannot be asked: %w", d.Name, s.Trouble)
	case len(s.Unwell) > 0:
		return nil, decline("%s is unwell: %w", d.Name, s.Unwell[0])
	}
	return s.Current, nil
}
