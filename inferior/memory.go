package inferior

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/genenetwork/guixci/internal/cgroup"
)

// errMemory is why a child was ended that used more memory than it may.
var errMemory = errors.New("too much memory")

// groups counts the control groups made by this process, to tell them apart.
var groups atomic.Int64

// tidy removes, once, the control groups of processes that have been killed.
var tidy sync.Once

// abandoned reports whether a control group is of a process that is no more.
func abandoned(group string) bool {
	var pid, number int
	if n, _ := fmt.Sscanf(group, "guixci-inferior-%d-%d", &pid, &number); n != 2 {
		return false
	}
	return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// startInGroup starts cmd, in a control group with its limit if there can be
// one; else its memory is to be watched.
func (p *process) startInGroup(cmd *exec.Cmd) (watched bool, err error) {
	fresh := func() *exec.Cmd {
		again := *cmd
		return &again
	}
	name := fmt.Sprintf("guixci-inferior-%d-%d", os.Getpid(), groups.Add(1))
	limits := cgroup.Limits{Memory: p.most}
	p.group, err = cgroup.New(name, limits)
	if err != nil && p.most > 0 { // without the limit perhaps
		watched = true
		p.group, err = cgroup.New(name, cgroup.Limits{})
	}
	if err == nil {
		tidy.Do(func() { p.group.RemoveAbandoned(abandoned) })
		if p.cmd, err = p.group.Start(fresh); err == nil {
			return watched, nil
		}
		p.leaveGroup()
	}
	p.group = nil
	p.cmd = fresh()
	return p.most > 0, p.cmd.Start()
}

// leaveGroup kills what is in the control group, and removes it.
func (p *process) leaveGroup() {
	ctx, cancel := context.WithTimeout(context.Background(), outputDelay)
	defer cancel()
	p.group.Remove(ctx) // what cannot be removed stays behind empty
}

// watchInterval is how often the memory of a child without a limit of the kernel's
// is looked at: Guile fills some hundred megabytes in that time.
const watchInterval = 100 * time.Millisecond

// watch kills the child once it and its descendants occupy more memory than
// they may. The function returned ends the watch, and waits for that.
func (p *process) watch() (end func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if familyMemory(p.cmd.Process.Pid) <= p.most {
					continue
				}
				p.mu.Lock()
				p.starved = true
				p.mu.Unlock()
				p.signal(syscall.SIGKILL)
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-ended
	}
}

// familyMemory returns what a process and its descendants occupy.
func familyMemory(pid int) int64 {
	sum := residentMemory(pid)
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, field := range bytes.Fields(children) {
		if child, err := strconv.Atoi(string(field)); err == nil {
			sum += familyMemory(child)
		}
	}
	return sum
}

// residentMemory returns how many bytes of memory a process occupies,
// 0 if that cannot be told.
func residentMemory(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := bytes.Fields(text)
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// resident returns how many bytes of memory the child of a session occupies.
func (s *Session) resident() int64 {
	if s.child == nil {
		return 0
	}
	return residentMemory(s.child.cmd.Process.Pid)
}
