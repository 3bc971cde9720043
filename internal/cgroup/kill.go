package cgroup

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

// PIDs returns the processes of the group and of those below it, in no order.
// A group that is gone has none; the calling process, which starts others from there, is left out.
func (g *Group) PIDs() []int {
	var all []int
	for _, d := range g.dirs() {
		all = append(all, d.pids()...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (d Dir) pids() []int {
	var all []int
	filepath.WalkDir(d.Path, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil
		}
		text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 && pid != os.Getpid() {
				all = append(all, pid)
			}
		}
		return nil
	})
	return all
}

// Kill sends SIGKILL to every process of the group at once: none gets to start another.
func (g *Group) Kill() error {
	var errs []error
	for _, d := range g.dirs() {
		errs = append(errs, d.kill())
	}
	return errors.Join(errs...)
}

func (d Dir) kill() error {
	if d.Unified {
		err := os.WriteFile(filepath.Join(d.Path, "cgroup.kill"), []byte("1"), 0)
		if err == nil || errors.Is(err, fs.ErrNotExist) && len(d.pids()) == 0 {
			return nil
		}
	}
	d.freeze()
	defer d.thaw()
	var err error
	for _, pid := range d.pids() { // before Linux 5.14, and with version 1
		if e := unix.Kill(pid, unix.SIGKILL); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("kill process %d: %w", pid, e))
		}
	}
	return err
}

// write writes to a file of the kernel's, which is never made.
func (d Dir) write(file, text string) error {
	f, err := os.OpenFile(filepath.Join(d.Path, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Remove removes the group and those below once its last process is gone, killing
// any that is left until ctx ends.
func (g *Group) Remove(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := g.rmdir()
		if err == nil {
			return nil
		}
		g.Kill()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("remove control group: %w", err)
		}
	}
}

func (g *Group) rmdir() error {
	var errs []error
	for _, d := range g.dirs() {
		errs = append(errs, d.rmdir())
	}
	return errors.Join(errs...)
}

// RemoveAbandoned removes the groups beside this one that nobody has any more, as their names tell, if they are empty. Whoever
// is killed leaves such. One younger than a minute is let alone: names may be of processes that cannot be seen here.
func (g *Group) RemoveAbandoned(nobodys func(name string) bool) {
	for _, d := range g.dirs() {
		beside := filepath.Dir(d.Path)
		entries, _ := os.ReadDir(beside) // in part is better than not at all
		for _, e := range entries {
			info, err := e.Info()
			if err == nil && e.IsDir() && nobodys(e.Name()) && time.Since(info.ModTime()) > time.Minute {
				unix.Rmdir(filepath.Join(beside, e.Name())) // one with processes cannot be
			}
		}
	}
}

// rmdir removes the directories, innermost first. Their files go with them.
func (d Dir) rmdir() error {
	var dirs []string
	err := filepath.WalkDir(d.Path, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	slices.Reverse(dirs)
	for _, dir := range dirs {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
