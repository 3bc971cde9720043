package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Limits are what all processes of a group may have together. Zero means no limit.
type Limits struct {
	Memory int64 // bytes
	Tasks  int   // processes and threads
}

// A setting enforces one of the limits.
type setting struct {
	controller  string // as the kernel calls it
	file, file1 string // that hold the limit, of version 2 and 1
	value       int64
}

func (l Limits) settings() []setting {
	all := []setting{
		{"memory", "memory.max", "memory.limit_in_bytes", l.Memory},
		{"pids", "pids.max", "pids.max", int64(l.Tasks)},
	}
	return slices.DeleteFunc(all, func(s setting) bool { return s.value <= 0 })
}

// limit sets the limits: in the group's directory of the unified hierarchy, or in further
// directories of version 1.
func (g *Group) limit(t table, name string, l Limits) error {
	for _, s := range l.settings() {
		value := strconv.FormatInt(s.value, 10)
		if len(g.Dirs) > 0 && g.Dirs[0].Unified {
			enable(filepath.Dir(g.Dirs[0].Path), s.controller)
			if g.Dirs[0].write(s.file, value) == nil {
				continue
			}
		}
		parent := t.hierarchy(s.controller)
		if parent == "" {
			return fmt.Errorf("limit %s: no control group here has that controller; delegate it, or leave the limit out", s.controller)
		}
		dir := Dir{Path: filepath.Join(parent, name)}
		if err := mkdir(dir.Path); err != nil {
			return fmt.Errorf("limit %s: %w", s.controller, err)
		}
		g.Dirs = append(g.Dirs, dir)
		if err := dir.write(s.file1, value); err != nil {
			return fmt.Errorf("limit %s: %w", s.controller, err)
		}
	}
	return nil
}

// enable hands a controller of the unified hierarchy down to the groups in a directory, as far
// as it can: a group that has processes itself may not, unless it is the root.
// Whether it is there afterwards is seen when it is used.
func enable(parent, controller string) {
	Dir{Path: parent}.write("cgroup.subtree_control", "+"+controller)
}

// Events are how often limits were met since the group was made.
type Events struct {
	Killed  int // processes killed for want of memory
	Refused int // new processes and threads there was no room for
}

// Events returns the counts that there are.
func (g *Group) Events() Events {
	var e Events
	for _, d := range g.dirs() {
		// The first file is that of version 2, the second has the same line in version 1.
		e.Killed += d.count("memory.events", "oom_kill") + d.count("memory.oom_control", "oom_kill")
		e.Refused += d.count("pids.events", "max")
	}
	return e
}

// count returns the number in a file of lines that are "key number".
func (d Dir) count(file, key string) int {
	text, _ := os.ReadFile(filepath.Join(d.Path, file)) // none: not its hierarchy
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == key {
			n, _ := strconv.Atoi(value)
			return n
		}
	}
	return 0
}
