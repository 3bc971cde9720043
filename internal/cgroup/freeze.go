package cgroup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Freeze returns once all processes of the group are stopped, wherever they are. If ctx
// ends first they may be half so: in any case Thaw must follow. A group that can neither
// way be frozen, as one that only limits, is left alone.
func (g *Group) Freeze(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for _, d := range g.dirs() {
		if d.freeze() != nil {
			continue
		}
		for !d.isFrozen() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("freeze control group: %w", context.Cause(ctx))
			}
		}
	}
	return nil
}

// Thaw lets the processes of the group go on.
func (g *Group) Thaw() error {
	for _, d := range g.dirs() {
		if err := d.thaw(); err != nil && d.isFrozen() {
			return fmt.Errorf("thaw control group: %w", err)
		}
	}
	return nil
}

func (d Dir) freeze() error {
	if d.Unified {
		return d.write("cgroup.freeze", "1")
	}
	return d.write("freezer.state", "FROZEN")
}

func (d Dir) thaw() error {
	if d.Unified {
		return d.write("cgroup.freeze", "0")
	}
	return d.write("freezer.state", "THAWED")
}

func (d Dir) isFrozen() bool {
	if d.Unified {
		return d.count("cgroup.events", "frozen") == 1
	}
	text, _ := os.ReadFile(filepath.Join(d.Path, "freezer.state"))
	return strings.TrimSpace(string(text)) == "FROZEN"
}
