package container

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
)

// A LaunchError is a launcher that ended, or did not get on, before
// its container had a first process, or a container that ended while it was watched.
type LaunchError struct {
	Script string
	Reason string // what it means
	Output string // the last lines the launcher and the container printed
	// Stuck is what the threads of a launcher that did not get on, and of its children, were doing, one a line.
	Stuck string

	booted bool  // the container had a first process
	hung   error // errNoPID or errDeadlock for a launcher that lived, and did not get on
}

// ExitCode returns the status a program should end with: a container that ends by itself is red; what
// kept it from being made may not do so the next time.
func (e *LaunchError) ExitCode() int {
	if e.booted {
		return red
	}
	return NotTried.ExitCode()
}

func (e *LaunchError) Error() string {
	text := "run " + e.Script + ": " + e.Reason
	if e.Output != "" {
		text += "; its last output:\n  " + strings.ReplaceAll(e.Output, "\n", "\n  ")
	}
	if e.Stuck != "" {
		text += "\nit was stuck:\n  " + strings.ReplaceAll(e.Stuck, "\n", "\n  ")
	}
	return text
}

// outputLines and outputBytes bound what of the log goes into an error.
const (
	outputLines = 20
	outputBytes = 16 << 10
)

// output returns the last lines of this run's output.
func (in *Instance) output() string { return lastLines(in.logFile(), in.logStart) }

// lastLines returns the end of what was written to a file from start on.
func lastLines(name string, start int64) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	start = max(start, end-outputBytes)
	text, _ := io.ReadAll(io.NewSectionReader(f, start, end-start))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-outputLines):], "\n")
}

// death returns the error of an end that nobody asked for.
func (in *Instance) death() error {
	in.hearOut(hearOutLimit)
	output := in.output()
	return &LaunchError{Script: in.Generation.Script, Reason: in.reason(output), Output: output, booted: !in.Process.isZero()}
}

// signs are what launchers are known to print, most telling first,
// and what it means to someone who did not write one.
var signs = []struct{ sign, meaning string }{
	{"unrecognized option", "this run-container is of an older Guix and does not know an option: build it with a current one"},
	{"In procedure clone: Operation not permitted", "the kernel forbids user namespaces here: see user.max_user_namespaces, kernel.unprivileged_userns_clone, AppArmor, or leave the chroot"},
	{"In procedure clone: No space left on device", "the kernel has no more user namespaces: raise user.max_user_namespaces"},
	{"No space left on device", "a disk is full"},
	{"In procedure mount", "a mount was refused while the container was being set up"},
	{"waitpid", "the container's first process died while it was being set up, before it could say why: most often a mount that the kernel refuses, a missing user namespace, or a signal"},
	{"no code for module", "the script's Guile modules are not where it looks for them: is its closure complete?"},
}

// reason says in one sentence why the container is not there.
func (in *Instance) reason(output string) string {
	state, err := in.state(context.Background())
	if err != nil {
		in.d.log().Warn("cannot ask the runner", "error", err)
	}
	if text := state.limitText(in.Generation.Environment.Limits); text != "" {
		return text
	}
	if !in.Process.isZero() {
		return "the container ended by itself" // and it may have said anything
	}
	for _, s := range signs {
		if strings.Contains(output, s.sign) {
			return s.meaning
		}
	}
	text := "the launcher ended before the container had a first process"
	if state.Ended != "" {
		text += " (" + state.Ended + ")"
	}
	return text
}

// limitText says which limits were met; empty for none.
func (s UnitState) limitText(l Limits) string {
	var texts []string
	if s.Killed > 0 {
		texts = append(texts, fmt.Sprintf("it reached its limit of %s of memory, and the kernel killed %d of its processes", size(l.Memory), s.Killed))
	}
	if s.Refused > 0 {
		texts = append(texts, fmt.Sprintf("it reached its limit of %d tasks, and was refused another one %d times", l.Tasks, s.Refused))
	}
	return strings.Join(texts, "; ")
}
