package container

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A controller enforces one of the [Limits].
type controller struct {
	name  string // as the kernel calls it
	file  string // of version 2, that holds the limit
	file1 string // the same of version 1
	value int64
}

func (l Limits) controllers() []controller {
	all := []controller{
		{"memory", "memory.max", "memory.limit_in_bytes", l.Memory},
		{"pids", "pids.max", "pids.max", int64(l.Tasks)},
	}
	return slices.DeleteFunc(all, func(c controller) bool { return c.value <= 0 })
}

// limit sets the limits of the container that is about to start: in its group of the unified
// hierarchy, or in further groups of version 1, which it returns. A limit that cannot
// be set is an error: it was asked for because something depends on it.
func (l Limits) limit(own *cgroup, name string) (more []*cgroup, err error) {
	for _, c := range l.controllers() {
		if own != nil && own.Unified && c.set(own.Path, c.file) == nil {
			continue
		}
		parent, err := hierarchy(c.name)
		if err != nil {
			return more, err
		}
		group := &cgroup{Path: filepath.Join(parent, name)}
		if err := os.Mkdir(group.Path, 0o755); err != nil && !os.IsExist(err) {
			return more, fmt.Errorf("limit %s: %w", c.name, err)
		}
		more = append(more, group)
		if err := c.set(group.Path, c.file1); err != nil {
			return more, fmt.Errorf("limit %s: %w", c.name, err)
		}
	}
	return more, nil
}

func (c controller) set(dir, file string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0) // never made: it is the kernel's
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatInt(c.value, 10))
	return cmp.Or(err, f.Close())
}

// hierarchy returns this process's group in the version 1 hierarchy of a controller.
func hierarchy(controller string) (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		point, kind, options, ok := mountOf(line)
		if ok && kind == "cgroup" && slices.Contains(options, controller) {
			return filepath.Join(point, ownPath(string(own), controller)), nil
		}
	}
	return "", fmt.Errorf("limit %s: no control group here has that controller; delegate it, or leave the limit out", controller)
}
