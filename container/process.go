package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Process names one process for good: a pid is given to another process
// sooner or later, but not together with the same time of start.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // field 22 of /proc/PID/stat: ticks since boot
}

// errGone is returned for a process that has ended, reaped or not.
var errGone = errors.New("process is gone")

// processStat is what we need of proc_pid_stat(5).
type processStat struct {
	state  byte
	parent int
	flags  uint64 // PF_… of the kernel
	start  uint64
}

// parseStat reads the text of /proc/PID/stat. The command's name, in
// parentheses, may itself hold blanks and parentheses.
func parseStat(text []byte) (processStat, error) {
	i := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[i+1:]))
	if i < 0 || len(fields) < 20 {
		return processStat{}, fmt.Errorf("parse process status %q: too few fields", text)
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return processStat{}, fmt.Errorf("parse process status: parent: %v", err)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return processStat{}, fmt.Errorf("parse process status: start: %v", err)
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	if err != nil {
		return processStat{}, fmt.Errorf("parse process status: flags: %v", err)
	}
	return processStat{state: fields[0][0], parent: parent, flags: flags, start: start}, nil
}

func readStat(pid int) (processStat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return processStat{}, errGone
	}
	if err != nil {
		return processStat{}, err
	}
	return parseStat(text)
}

// identify returns the process that has the pid now, and its parent's pid.
func identify(pid int) (p Process, parent int, err error) {
	st, err := readStat(pid)
	if err != nil {
		return Process{}, 0, err
	}
	if st.state == 'Z' || st.state == 'X' {
		return Process{}, 0, errGone
	}
	return Process{PID: pid, Start: st.start}, st.parent, nil
}

// Alive reports whether the process still runs. One that has ended and waits
// for its parent to notice does not; nor does the zero Process.
func (p Process) Alive() bool {
	if p.PID == 0 {
		return false
	}
	now, _, err := identify(p.PID)
	return err == nil && now == p
}

func (p Process) isZero() bool { return p == Process{} }

// open returns a pidfd of the process, or errGone.
func (p Process) open() (int, error) {
	if p.PID == 0 {
		return -1, errGone
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, errGone
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	// From here on the pid cannot change hands under the descriptor;
	// what must be known is whether it had done so before.
	if st, err := readStat(p.PID); err != nil || st.start != p.Start {
		unix.Close(fd)
		return -1, errGone
	}
	return fd, nil
}

// signal sends sig to the process; to one that is gone, nobody, without error.
func (p Process) signal(sig unix.Signal) error {
	fd, err := p.open()
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", sig, p.PID, err)
	}
	return nil
}

// awaitHearing waits until the process has made arrangements for a signal, by blocking
// it for a signalfd or by a handler. Before that the first process of a pid
// namespace does not even die of it: the kernel drops the signal.
// One that is gone hears everything.
func (p Process) awaitHearing(ctx context.Context, sig unix.Signal) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for p.Alive() && !p.hears(sig) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// hears reports whether the process blocks or catches a signal just now.
func (p Process) hears(sig unix.Signal) bool { return p.has(sig, "SigBlk", "SigCgt") }

// has reports whether a signal is in one of the sets of proc_pid_status(5).
func (p Process) has(sig unix.Signal, sets ...string) bool {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID)) // none: it is gone
	for line := range strings.Lines(string(text)) {
		name, mask, _ := strings.Cut(line, ":")
		if !slices.Contains(sets, name) {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		if err == nil && bits&(1<<(sig-1)) != 0 {
			return true
		}
	}
	return false
}

// dying reports whether the process is still there, but was killed, or is about to end: that takes the first process of a container
// some milliseconds, and on a busy machine more.
func (p Process) dying() bool {
	st, err := readStat(p.PID)
	return err == nil && p.Alive() && (st.flags&exiting != 0 || p.has(unix.SIGKILL, "SigPnd", "ShdPnd"))
}

// exiting is PF_EXITING of the kernel's sched.h.
const exiting = 4

// wait returns nil once the process has ended, or the cause of ctx's end.
// The process need not be a child of ours.
func (p Process) wait(ctx context.Context) error {
	fd, err := p.open()
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that Go's poller takes it
		unix.Close(fd)
		return err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool { return readable(int(fd)) })
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readable reports whether a pidfd says that its process has ended.
func readable(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// root opens the root directory of the process, for use with the …at calls.
func (p Process) root() (int, error) {
	dir, err := unix.Open(fmt.Sprintf("/proc/%d", p.PID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, errGone
	}
	defer unix.Close(dir)
	// The descriptor is of this very process, even if the pid is reused now.
	if !p.Alive() {
		return -1, errGone
	}
	root, err := unix.Openat(dir, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open root of process %d: %w", p.PID, err)
	}
	return root, nil
}

// children returns the living children of the process.
func (p Process) children() []Process {
	var found []Process
	for _, pid := range pids() {
		if child, parent, err := identify(pid); err == nil && parent == p.PID {
			found = append(found, child)
		}
	}
	return found
}

// pids returns the pids that can be seen.
func pids() []int {
	entries, _ := os.ReadDir("/proc") // in part is better than not at all
	var all []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// bootID tells one boot of the machine from another:
// times of start are comparable within one only.
func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // empty where there is none: one boot
	return strings.TrimSpace(string(text))
}

// FindProcess returns the process that has a pid now. The error wraps [fs.ErrNotExist] if
// there is none, or it has ended and is not reaped yet.
func FindProcess(pid int) (Process, error) {
	p, _, err := identify(pid)
	if errors.Is(err, errGone) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	return p, nil
}
