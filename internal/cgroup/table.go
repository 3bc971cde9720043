package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A table says where control group hierarchies are mounted, and where this process is
// in them. Either is the text of a file of /proc/self.
type table struct{ mounts, own string }

func readTable() (table, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return table{}, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	return table{string(mounts), string(own)}, err
}

// trackers returns where this process is in the hierarchies that can kill a group, the
// unified one first.
func (t table) trackers() []Dir {
	var dirs []Dir
	if point := t.unified(); point != "" {
		dirs = append(dirs, Dir{filepath.Join(point, t.ownPath("")), true})
	}
	if path := t.hierarchy("freezer"); path != "" {
		dirs = append(dirs, Dir{path, false})
	}
	return dirs
}

// unified returns the mount point of version 2, empty if there is none.
func (t table) unified() string {
	for line := range strings.Lines(t.mounts) {
		if point, kind, _, ok := mountOf(line); ok && kind == "cgroup2" {
			return point
		}
	}
	return ""
}

// hierarchy returns where this process is in the version 1 hierarchy of a controller;
// empty if there is none.
func (t table) hierarchy(controller string) string {
	for line := range strings.Lines(t.mounts) {
		point, kind, options, ok := mountOf(line)
		if ok && kind == "cgroup" && slices.Contains(options, controller) {
			return filepath.Join(point, t.ownPath(controller))
		}
	}
	return ""
}

// mountOf reads a line of proc_pid_mountinfo(5): mount point, type, and super
// block options, of a mount of a whole file system.
func mountOf(line string) (point, kind string, options []string, ok bool) {
	left, right, ok := strings.Cut(line, " - ")
	fields, rest := strings.Fields(left), strings.Fields(right)
	if !ok || len(fields) < 5 || len(rest) < 3 || fields[3] != "/" {
		return "", "", nil, false
	}
	return fields[4], rest[0], strings.Split(rest[2], ","), true
}

// ownPath returns the path in the hierarchy of a controller, "" being the unified one.
func (t table) ownPath(controller string) string {
	for line := range strings.Lines(t.own) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 && slices.Contains(strings.Split(parts[1], ","), controller) {
			return parts[2]
		}
	}
	return "/"
}
