package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A cgroup is a control group of ours that holds the launcher and whatever it
// starts, so that all can be found and killed, whatever has become of their
// parents. It is of the unified hierarchy (version 2) or else of version 1's freezer.
// Where neither is writable there is none, and the container's pid namespace, which
// dies with its first process, has to do.
type cgroup struct {
	Path    string `json:"path"`
	Unified bool   `json:"unified"`
}

// newCgroup makes a control group below the one this process is in.
func newCgroup(name string) (*cgroup, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	err = errors.New("no control group file system is mounted")
	for _, parent := range cgroupParents(string(mounts), string(own)) {
		c := &cgroup{Path: filepath.Join(parent.Path, name), Unified: parent.Unified}
		if err = os.Mkdir(c.Path, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
			return c, nil
		}
	}
	return nil, err
}

// cgroupParents returns where this process is in the unified and in the
// freezer's hierarchy, as far as they are mounted, in that order.
func cgroupParents(mountinfo, own string) []cgroup {
	var parents []cgroup
	for line := range strings.Lines(mountinfo) {
		point, kind, options, ok := mountOf(line)
		switch {
		case !ok:
		case kind == "cgroup2":
			parents = append(parents, cgroup{filepath.Join(point, ownPath(own, "")), true})
		case kind == "cgroup" && slices.Contains(options, "freezer"):
			parents = append(parents, cgroup{filepath.Join(point, ownPath(own, "freezer")), false})
		}
	}
	slices.SortStableFunc(parents, func(a, b cgroup) int {
		if a.Unified == b.Unified {
			return 0
		}
		if a.Unified {
			return -1
		}
		return 1
	})
	return parents
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

// ownPath returns the path in the hierarchy of a controller, "" being the unified one,
// according to the text of /proc/self/cgroup.
func ownPath(own, controller string) string {
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 && slices.Contains(strings.Split(parts[1], ","), controller) {
			return parts[2]
		}
	}
	return "/"
}

// open returns a directory descriptor for starting a process inside, which
// the unified hierarchy allows.
func (c *cgroup) open() (int, error) {
	return unix.Open(c.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// add moves a process into the group.
func (c *cgroup) add(pid int) error {
	return os.WriteFile(filepath.Join(c.Path, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// pids returns the processes of the group and those below. A group that is gone has none.
func (c *cgroup) pids() []int {
	var all []int
	filepath.WalkDir(c.Path, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil
		}
		text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				all = append(all, pid)
			}
		}
		return nil
	})
	return all
}

// kill kills every process of the group at once: none gets to start another.
func (c *cgroup) kill() error {
	if c.Unified {
		err := os.WriteFile(filepath.Join(c.Path, "cgroup.kill"), []byte("1"), 0)
		if err == nil || errors.Is(err, fs.ErrNotExist) && len(c.pids()) == 0 {
			return nil
		}
	} else {
		os.WriteFile(filepath.Join(c.Path, "freezer.state"), []byte("FROZEN"), 0)
		defer os.WriteFile(filepath.Join(c.Path, "freezer.state"), []byte("THAWED"), 0)
	}
	var err error
	for _, pid := range c.pids() { // before Linux 5.14, and with version 1
		if e := unix.Kill(pid, unix.SIGKILL); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("kill process %d: %w", pid, e))
		}
	}
	return err
}

// remove removes the group and those below once its last process is gone, killing
// any that is left until ctx ends.
func (c *cgroup) remove(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.rmdir()
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		c.kill()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("remove control group: %w", err)
		}
	}
}

// rmdir removes the directories, innermost first. Their files go with them.
func (c *cgroup) rmdir() error {
	var dirs []string
	err := filepath.WalkDir(c.Path, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(dirs)
	for _, dir := range dirs {
		if err := unix.Rmdir(dir); err != nil {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
	return nil
}
