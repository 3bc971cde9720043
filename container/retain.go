package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Retention says which generations stay, with their roots, when a new one is confirmed.
// The current one, the one before it to go back to, and pinned ones always do.
// That a revision was rejected is remembered all the same.
// The zero value keeps all.
type Retention struct {
	Last    int `json:"last,omitempty"`    // this many of the newest
	Healthy int `json:"healthy,omitempty"` // beside them, this many of the newest that were healthy
}

// Pin keeps a generation for good, or no longer.
func (d *Deployment) Pin(number int, pinned bool) error {
	lease, err := d.acquire("", "pin")
	if err != nil {
		return fmt.Errorf("pin generation %d of %s: %w", number, d.Name, err)
	}
	defer lease.Release()
	g, err := d.Generation(number)
	if err == nil {
		err = d.finishLedger()
	}
	if err == nil {
		g.Pinned = pinned
		err = d.writeGeneration(g)
	}
	if err == nil {
		d.note(Revision{}, g, map[bool]Event{true: WasPinned, false: WasUnpinned}[pinned], "")
	}
	return err
}

// Prune removes the generations that need not stay. The ledger keeps their story.
// It returns their numbers.
func (d *Deployment) Prune(ctx context.Context) ([]int, error) {
	lease, err := d.acquire("", "prune")
	if err != nil {
		return nil, fmt.Errorf("prune %s: %w", d.Name, err)
	}
	defer lease.Release()
	if _, err := d.settle(ctx); err != nil {
		return nil, fmt.Errorf("prune %s: %w", d.Name, err)
	}
	return d.prune()
}

// prune is Prune for who holds the lease and knows that nothing is half done.
func (d *Deployment) prune() ([]int, error) {
	if d.Keep == (Retention{}) {
		return nil, nil
	}
	all, err := d.Generations()
	if err != nil {
		return nil, err
	}
	current, err := d.Current()
	if err != nil || current == nil {
		return nil, err
	}
	var gone []int
	r, err := d.readRecord()
	if err != nil {
		return nil, err
	}
	for _, g := range superfluous(all, current.Number, d.Keep) {
		if r != nil && r.Beside != nil && r.Beside.Generation == g.Number {
			continue // it runs
		}
		if g.Rejected != "" { // is remembered, but need not be in the store
			if err := os.Remove(d.generationPath(g.Number, "root")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return gone, err
			}
			continue
		}
		if err := d.remove(g); err != nil {
			return gone, err
		}
		gone = append(gone, g.Number)
	}
	return gone, nil
}

// superfluous picks the generations that keep does not ask for. all is oldest first.
func superfluous(all []*Generation, current int, keep Retention) []*Generation {
	var some []*Generation
	last, healthy, before := keep.Last, keep.Healthy, 1
	for i := len(all) - 1; i >= 0; i-- {
		g := all[i]
		well := g.well()
		switch {
		case g.Number == current || g.Pinned || i == len(all)-1: // the next number is counted from the last
			last--
		case well && g.Number < current && before > 0:
			before--
			last--
		case last > 0:
			last--
		case well && healthy > 0:
			healthy--
		default:
			some = append(some, g)
		}
	}
	return some
}

// remove removes a generation's directory, and its root with it. What says that it is a
// generation goes first, so that half a removal is none.
func (d *Deployment) remove(g *Generation) error {
	aside, err := fs.Glob(os.DirFS(d.generationPath(g.Number)), "log.*")
	if err != nil {
		return err
	}
	for _, name := range append([]string{"generation.json", "root", "log", "hooks.log", "waiting", "confirmed", "withdraws"}, aside...) {
		if err := os.Remove(d.generationPath(g.Number, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := d.removeSnapshot(g.Number); err != nil {
		return err
	}
	if err := removeRunDir(d.generationPath(g.Number, "run")); err != nil {
		return err
	}
	return os.Remove(d.generationPath(g.Number))
}
