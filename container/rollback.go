package container

import (
	"context"
	"errors"
	"fmt"
)

// RollBack makes an older generation run again, with the mounts, environment and probes it
// had then, by the same way as any other: it becomes a new generation. Number 0 is the
// last healthy one before the current that is not the same thing, and that nobody has gone back from
// already. Nobody needs to confirm it again, unless somebody has gone back from it. Of the revision only who, why, and
// RestoreState count.
func (d *Deployment) RollBack(ctx context.Context, number int, rev Revision) (*Generation, error) {
	current, err := d.Current()
	if err != nil {
		return nil, d.failed(NotTried, err)
	}
	old, err := d.older(number, current)
	if err != nil {
		return nil, d.failed(notBegun(err), err)
	}
	then := *d
	then.Shares, then.Exposes, then.Environment = old.Shares, old.Exposes, old.Environment
	then.Probes, then.Schedule, then.Switch = old.Probes, old.Schedule, old.Switch
	then.handle(old, current)
	then.places = nil // those are of what the file says now
	if !old.Started.IsZero() {
		then.Follows = nil // it was confirmed here
	}
	then.proven = old.well()
	if rev.RestoreState {
		if rev.snapshotOf, then.Switch.Snapshot, err = d.stateOf(old); err != nil {
			return nil, d.failed(notBegun(err), err)
		}
	}
	if rev.Why == "" {
		rev.Why = fmt.Sprintf("back to generation %d", old.Number)
	}
	rev.back = old.Number
	rev.Script, rev.Lock, rev.Channels = old.Script, old.Lock, old.Channels
	rev.Descends = nil             // back is where it goes
	rev.Force = old.Rejected != "" // naming it is asking for it
	return then.Apply(ctx, rev)
}

func (d *Deployment) older(number int, current *Generation) (*Generation, error) {
	if number != 0 {
		return d.Generation(number)
	}
	if current == nil {
		return nil, ErrNothing
	}
	all, err := d.Generations()
	if err != nil {
		return nil, err
	}
	var found *Generation
	for _, g := range all {
		same := g.Script == current.Script && g.Bindings() == current.Bindings()
		if g.Number < current.Number && g.well() && !same {
			found = g
		}
	}
	if found == nil {
		return nil, decline("no other generation before %d was ever healthy, but for those that were gone back from; name one to go there", current.Number)
	}
	return found, nil
}

// withdraw remembers, once generation now is confirmed, which ones were gone back from: all after generation
// back up to the one that ran.
func (d *Deployment) withdraw(back, ran, now int) error {
	if back == 0 {
		return nil
	}
	all, err := d.Generations()
	for _, g := range all {
		if g.Number > back && g.Number <= ran && g.Number != now && !g.Withdrawn {
			g.Withdrawn = true
			err = errors.Join(err, d.writeGeneration(g))
		}
	}
	return err
}
