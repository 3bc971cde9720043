// Package cgroup makes control groups for processes that are started to be watched,
// limited and, whatever has become of their parents, found and killed together.
//
//	g, err := cgroup.New("guixci-web-7", cgroup.Limits{Memory: 1 << 30})
//	…
//	err = g.Start(cmd)
//	…
//	err = g.Kill()
//	err = g.Remove(ctx)
//
// It takes what the machine has: the unified hierarchy (version 2), those of version 1, or both
// at once, as cgroups(7) describes them. What a [Group] holds can be written down as
// JSON and used by another process.
package cgroup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A Group is a control group, which may be a directory in each of several
// hierarchies that all hold the same processes. The zero Group has none: nothing is
// in it, and killing and removing it do nothing.
type Group struct {
	Dirs []Dir `json:"dirs,omitempty"` // the first one is in charge of killing
}

// A Dir is a group in one hierarchy.
type Dir struct {
	Path    string `json:"path"`
	Unified bool   `json:"unified,omitempty"` // of version 2
}

// New makes a group below the one this process is in. An empty one of that name is
// replaced; one with processes is an error.
// Processes can be tracked where the unified or the freezer's hierarchy is writable.
// A limit that cannot be set is an error: it was asked for because something depends on it.
// On error nothing is left.
func New(name string, l Limits) (*Group, error) {
	t, err := readTable()
	if err != nil {
		return nil, fmt.Errorf("make control group: %w", err)
	}
	g := new(Group)
	err = g.track(t, name)
	if len(l.settings()) > 0 {
		err = g.limit(t, name, l)
	}
	if err != nil {
		g.rmdir()
		return nil, fmt.Errorf("make control group: %w", err)
	}
	return g, nil
}

// track makes the directory that is in charge of killing.
func (g *Group) track(t table, name string) error {
	err := errors.New("no control group file system is mounted")
	for _, parent := range t.trackers() {
		dir := Dir{filepath.Join(parent.Path, name), parent.Unified}
		if err = mkdir(dir.Path); err == nil {
			g.Dirs = append(g.Dirs, dir)
			return nil
		}
	}
	return err
}

// mkdir makes a directory anew: an empty one that is there may have been killed before, and
// kernels are known to kill whatever is started in such a group by clone3.
func mkdir(name string) error {
	err := os.Mkdir(name, 0o755)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := (Dir{Path: name}).rmdir(); err != nil {
		return err
	}
	return os.Mkdir(name, 0o755)
}

func (g *Group) dirs() []Dir {
	if g == nil {
		return nil
	}
	return g.Dirs
}

// Save writes the group down in a file, for [Load] by whoever comes next.
func (g *Group) Save(name string) error {
	text, err := json.Marshal(g)
	if err != nil {
		return err
	}
	f, err := os.Create(name + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Load reads what Save has written. Without the file, and if it was none that was saved, the
// group is nil.
func Load(name string) (*Group, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	g := new(Group)
	if err == nil {
		err = json.Unmarshal(text, g)
	}
	if err != nil {
		return nil, fmt.Errorf("read control group: %w", err)
	}
	if len(g.Dirs) == 0 {
		return nil, nil // there was none to write down
	}
	return g, nil
}
