package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	pending, err := d.readWithdrawal(current.Number)
	if err != nil {
		return nil, err
	}
	all, err := d.Generations()
	if err != nil {
		return nil, err
	}
	var found *Generation
	for _, g := range all {
		same := g.Script == current.Script && g.Bindings() == current.Bindings()
		if g.Number < current.Number && g.well() && !pending.of(g, current.Number) && !same {
			found = g
		}
	}
	if found == nil {
		return nil, decline("no other generation before %d was ever healthy, but for those that were gone back from; name one to go there", current.Number)
	}
	return found, nil
}

// A withdrawal says what is gone back from once a generation is confirmed: all others after After, up to Last, which ran before.
// It is in the directory of that generation until it has been carried out.
type withdrawal struct {
	After int `json:"after"`
	Last  int `json:"last"`
}

func (d *Deployment) withdrawalFile(number int) string { return d.generationPath(number, "withdraws") }

// willWithdraw has the confirmation of a generation be one of a return to generation back, from the one that runs; 0 for none.
func (d *Deployment) willWithdraw(number, back, running int) error {
	if back != 0 {
		return writeJSON(d.withdrawalFile(number), withdrawal{After: back, Last: running})
	}
	if err := os.Remove(d.withdrawalFile(number)); err != nil && !errors.Is(err, fs.ErrNotExist) { // of another time
		return err
	}
	return nil
}

// readWithdrawal returns what the confirmation of a generation takes back, or the zero value.
func (d *Deployment) readWithdrawal(number int) (w withdrawal, err error) {
	err = readJSON(d.withdrawalFile(number), &w)
	if errors.Is(err, fs.ErrNotExist) {
		return withdrawal{}, nil
	}
	return w, err
}

// of reports whether a generation is taken back when number is confirmed.
func (w withdrawal) of(g *Generation, number int) bool {
	return g.Number > w.After && g.Number <= w.Last && g.Number != number
}

// withdraw remembers what was gone back from, once a generation is confirmed.
func (d *Deployment) withdraw(confirmed int) error {
	w, err := d.readWithdrawal(confirmed)
	if err != nil || w == (withdrawal{}) {
		return err
	}
	all, err := d.Generations()
	for _, g := range all {
		if w.of(g, confirmed) && !g.Withdrawn {
			g.Withdrawn = true
			err = errors.Join(err, d.writeGeneration(g))
		}
	}
	if err != nil {
		return err
	}
	return os.Remove(d.withdrawalFile(confirmed))
}
