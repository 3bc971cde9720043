package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// doing says what each thread of a process is about, one a line, as far as the kernel
// tells: its state, the system call it is in, the functions of the kernel that wait there,
// and the signals it blocks. It is for finding out later why something did not get on.
func (p Process) doing() []string {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.PID))
	if !p.Alive() {
		return nil // they may be somebody else's
	}
	var lines []string
	for _, task := range tasks {
		text := func(name string) string {
			text, _ := os.ReadFile(filepath.Join(task, name)) // the thread may have ended
			return strings.TrimSpace(string(text))
		}
		status := make(map[string]string)
		for line := range strings.Lines(text("status")) {
			name, value, _ := strings.Cut(line, ":")
			status[name] = strings.TrimSpace(value)
		}
		lines = append(lines, fmt.Sprintf("process %d, thread %s, %s: %s, blocks signals %s, system call %s, in %s [%s]",
			p.PID, filepath.Base(task), status["Name"], status["State"], status["SigBlk"],
			text("syscall"), text("wchan"), stackNames(text("stack"))))
	}
	return lines
}

// stackNames takes the functions out of the lines "[<0>] function+0x1f/0x70" of proc_pid_stack(5).
func stackNames(stack string) string {
	var names []string
	for line := range strings.Lines(stack) {
		_, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ = strings.Cut(name, "+")
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// waitsInVain returns the lock that the process waits for although nobody can release it: it has but one thread, which waits,
// without a limit, for a futex that no other process knows of. "" means that it does no such thing, or that this cannot be seen.
// A signal could still end it.
func (p Process) waitsInVain() string {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID))
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", p.PID))
	if len(tasks) != 1 || !p.Alive() {
		return ""
	}
	var call int
	var lock, operation, value, limit uint64
	if _, err := fmt.Sscanf(string(text), "%d %v %v %v %v", &call, &lock, &operation, &value, &limit); err != nil || call != unix.SYS_FUTEX {
		return ""
	}
	private := operation&futexPrivate != 0
	if command := operation &^ (futexPrivate | futexRealtime); !private || limit != 0 || command != futexWait && command != futexWaitBitset {
		return ""
	}
	return fmt.Sprintf("%#x", lock)
}

// These are from futex(2).
const (
	futexWait, futexWaitBitset  = 0, 9
	futexPrivate, futexRealtime = 128, 256
)

// stuck says what a launcher that does not get on is doing, and its children.
func (in *Instance) stuck() string {
	lines := in.Launcher.doing()
	for _, child := range in.Launcher.children() {
		lines = append(lines, child.doing()...)
	}
	return strings.Join(lines, "\n")
}
