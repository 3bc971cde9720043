package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// A snapshot is state as it was before a generation was tried. It is in the directory of that
// generation, and is one as soon as its description is there.
type snapshot struct {
	// Of is the generation that had left the state so; 0 for none.
	Of     int     `json:"of,omitempty"`
	Mounts []Mount `json:"mounts"`
}

func (d *Deployment) snapshotPath(number int, elem ...string) string {
	return d.generationPath(number, append([]string{"snapshot"}, elem...)...)
}

func (d *Deployment) snapshotFile(number int) string {
	return d.snapshotPath(number, "snapshot.json")
}

// readSnapshot returns nil when there is none.
func (d *Deployment) readSnapshot(number int) (*snapshot, error) {
	s := new(snapshot)
	err := readJSON(d.snapshotFile(number), s)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// snapshotMounts returns the mounts to copy.
func (g *Generation) snapshotMounts() ([]Mount, error) {
	var mounts []Mount
	for _, name := range g.Switch.Snapshot {
		m, err := g.snapshotMount(name)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

func (g *Generation) snapshotMount(name string) (Mount, error) {
	i := slices.IndexFunc(g.Shares, func(m Mount) bool { return m.Name == name })
	if i < 0 {
		return Mount{}, fmt.Errorf("snapshot of %q: there is no writable mount of that name", name)
	}
	return g.Shares[i], nil
}

// takeSnapshot copies the state that g asks for, which nobody writes to. of is the
// generation that ran. On error there is no snapshot, and the state is untouched.
func (d *Deployment) takeSnapshot(ctx context.Context, g *Generation, of int) (size int64, err error) {
	mounts, err := g.snapshotMounts()
	if err != nil || len(mounts) == 0 {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("take snapshot: %w", err), d.removeSnapshot(g.Number))
		}
	}()
	if err := os.MkdirAll(d.snapshotPath(g.Number), 0o700); err != nil {
		return 0, err
	}
	for i, m := range mounts {
		d.log().Info("copying state", "mount", m.Name)
		if err := copyTree(ctx, m.Source, d.snapshotPath(g.Number, strconv.Itoa(i))); err != nil {
			return 0, err
		}
		taken, err := treeSize(m.Source)
		if err != nil {
			return 0, err
		}
		size += taken
	}
	if err := syncTree(d.snapshotPath(g.Number)); err != nil {
		return 0, err
	}
	return size, writeJSON(d.snapshotFile(g.Number), snapshot{Of: of, Mounts: mounts})
}

// putBack makes the state what a snapshot has, which nobody writes to. It can be done any
// number of times, so that one that was cut off is not lost.
func (d *Deployment) putBack(ctx context.Context, number int) error {
	s, err := d.readSnapshot(number)
	if err != nil || s == nil {
		return err
	}
	for i, m := range s.Mounts {
		err := emptyTree(m.Source)
		if err == nil {
			err = copyTree(ctx, d.snapshotPath(number, strconv.Itoa(i)), m.Source)
		}
		if err == nil {
			err = syncTree(m.Source)
		}
		if err != nil {
			return fmt.Errorf("put back the snapshot of %s, which is in %s: %w", m.Source, d.snapshotPath(number), err)
		}
	}
	d.log().Info("state put back", "snapshot", d.snapshotPath(number))
	return nil
}

// undo puts back what was before a generation that has failed, and forgets the snapshot.
func (d *Deployment) undo(ctx context.Context, number int) error {
	if err := d.putBack(ctx, number); err != nil {
		return err
	}
	return d.removeSnapshot(number)
}

// removeSnapshot removes a snapshot, or a part of one. Half a removal is none any more.
func (d *Deployment) removeSnapshot(number int) error {
	if err := os.Remove(d.snapshotFile(number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(d.snapshotPath(number))
}

// forgetSnapshots removes all but the one of the current generation.
func (d *Deployment) forgetSnapshots(current int) error {
	found, err := d.generationsWith("snapshot")
	for _, number := range found {
		if number != current {
			err = errors.Join(err, d.removeSnapshot(number))
		}
	}
	return err
}

// stateOf returns the generation whose snapshot has the state that old left behind, if old was
// the last one before the current, and the names of its mounts.
func (d *Deployment) stateOf(old *Generation) (number int, names []string, err error) {
	current, err := d.Current()
	if err != nil || current == nil {
		return 0, nil, cmp.Or(err, ErrNothing)
	}
	s, err := d.readSnapshot(current.Number)
	if err != nil {
		return 0, nil, err
	}
	if s == nil || s.Of != old.Number {
		return 0, nil, decline("there is no snapshot of the state that generation %d left behind", old.Number)
	}
	for _, m := range s.Mounts {
		if !slices.Contains(old.Shares, m) {
			return 0, nil, decline("the snapshot is of %q, which generation %d did not have as its mount %q", m.Source, old.Number, m.Name)
		}
		names = append(names, m.Name)
	}
	return current.Number, names, nil
}

// checkSnapshot returns why the snapshot could not be taken.
func (d *Deployment) checkSnapshot(g *Generation) error {
	if len(g.Switch.Snapshot) == 0 {
		return nil
	}
	var need int64
	for _, name := range g.Switch.Snapshot {
		size, err := d.snapshotNeeds(g, name)
		if err != nil {
			return d.placing("snapshot "+name, err)
		}
		need += size
	}
	var st unix.Statfs_t
	if err := unix.Statfs(nearest(d.Dir), &st); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	need += d.handlingOf(g).MinFree
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return d.placing("snapshot "+g.Switch.Snapshot[0], fmt.Errorf("a snapshot needs %s in %s, and only %s are free", size(need), d.Dir, size(free)))
	}
	return nil
}

// snapshotNeeds returns the space that the copy of a mount takes.
func (d *Deployment) snapshotNeeds(g *Generation, name string) (int64, error) {
	m, err := g.snapshotMount(name)
	if err != nil {
		return 0, err
	}
	if err := checkNothingMounted(m.Source); err != nil {
		return 0, fmt.Errorf("snapshot: %w", err)
	}
	if sharesData(m.Source, d.Dir) {
		return 0, nil
	}
	size, err := treeSize(m.Source)
	if err != nil {
		return 0, fmt.Errorf("snapshot: %w", err)
	}
	return size, nil
}

// nearest returns a directory, or what there is of those it is to be made in.
func nearest(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
