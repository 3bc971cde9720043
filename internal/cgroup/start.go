package cgroup

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start starts the command that the function makes, inside the group: nothing of it is
// ever outside, except for a moment where a kernel before 5.7 has only version 2. The function
// may be called twice, as a command can be started only once. The group must
// have been made by this process.
func (g *Group) Start(command func() *exec.Cmd) (*exec.Cmd, error) {
	var cmd *exec.Cmd
	err := within(g.old(), func() (err error) {
		cmd, err = g.startUnified(command)
		return err
	})
	if err != nil && cmd != nil {
		cmd.Process.Kill()
		cmd.Wait()
	}
	if err != nil {
		return nil, err
	}
	return cmd, nil
}

// startUnified starts the command inside the directory of version 2, if there is one.
// What it returns has been started, even with an error.
func (g *Group) startUnified(command func() *exec.Cmd) (*exec.Cmd, error) {
	unified := len(g.dirs()) > 0 && g.Dirs[0].Unified
	if unified {
		if cmd := startInside(command(), g.Dirs[0]); cmd != nil {
			return cmd, nil
		}
	}
	cmd := command()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if unified {
		return cmd, g.Dirs[0].write("cgroup.procs", strconv.Itoa(cmd.Process.Pid))
	}
	return cmd, nil
}

// old returns the directories of version 1.
func (g *Group) old() []Dir {
	var old []Dir
	for _, d := range g.dirs() {
		if !d.Unified {
			old = append(old, d)
		}
	}
	return old
}

// startInside starts the command by clone3, which old kernels and some sandboxes
// do not have; then it returns nil.
func startInside(cmd *exec.Cmd, dir Dir) *exec.Cmd {
	fd, err := unix.Open(dir.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
	if cmd.Start() != nil {
		return nil
	}
	return cmd
}

// within calls the function on a thread that is in directories of version 1, where its
// children are born too. Version 1, unlike 2, lets threads of a process
// be in different groups.
func within(dirs []Dir, f func() error) error {
	if len(dirs) == 0 {
		return f()
	}
	done := make(chan error)
	go func() { done <- onThread(dirs, f) }()
	return <-done
}

func onThread(dirs []Dir, f func() error) error {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The first thread stands for its process in lists: another one must do it.
		defer runtime.UnlockOSThread()
		return within(dirs, f)
	}
	err := enter(dirs)
	if err == nil {
		err = f()
	}
	back := leave(dirs)
	if back == nil {
		runtime.UnlockOSThread() // else the thread ends with its goroutine, and is out of the way so
	}
	return errors.Join(err, back)
}

func enter(dirs []Dir) error {
	for _, d := range dirs {
		if err := d.write("tasks", strconv.Itoa(unix.Gettid())); err != nil {
			return fmt.Errorf("enter control group: %w", err)
		}
	}
	return nil
}

// leave goes back to where the process is, which is where it makes groups.
func leave(dirs []Dir) error {
	var errs []error
	for _, d := range dirs {
		parent := Dir{Path: filepath.Dir(d.Path)}
		if err := parent.write("tasks", strconv.Itoa(unix.Gettid())); err != nil {
			errs = append(errs, fmt.Errorf("leave control group: %w", err))
		}
	}
	return errors.Join(errs...)
}
