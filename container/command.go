package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command passes when a command that is run in the container ends with status 0.
type Command struct {
	Arguments []string `json:"arguments"` // the program, absolute or in the system's profile, and its arguments
}

// String returns "command ARGUMENT…".
func (p Command) String() string { return "command " + strings.Join(p.Arguments, " ") }

// Check implements [Probe].
func (p Command) Check(ctx context.Context, in *Instance, _ any) (any, error) {
	if len(p.Arguments) == 0 {
		return nil, errors.New("no command to run")
	}
	var out tail
	status, err := enter(ctx, in.Process, Stdio{Out: &out, Err: &out}, p.Arguments...)
	if err != nil {
		return nil, err
	}
	if status != 0 {
		return nil, fmt.Errorf("status %d: %s", status, strings.TrimSpace(string(out)))
	}
	return nil, nil
}

// A tail is a writer that keeps the last of what is written.
type tail []byte

const tailBytes = 1 << 10

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	if more := len(*t) - tailBytes; more > 0 {
		*t = append((*t)[:0], (*t)[more:]...)
	}
	return len(p), nil
}

// enter runs a command in the namespaces of a container's first process, as root, and returns its
// exit status as [Deployment.Exec] does. When ctx ends the command is killed.
func enter(ctx context.Context, p Process, stdio Stdio, command ...string) (status int, err error) {
	// nsenter, unlike "guix container exec", keeps the status. Go itself cannot
	// enter a mount namespace: that takes a process of one thread.
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--all", "--target", strconv.Itoa(p.PID), "--"}, command...)...)
	cmd.Env = execEnvironment()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.In, stdio.Out, stdio.Err
	if !isTerminal(stdio.In) { // which would stop whom it does not know
		// The command is a child of nsenter, and is to end with it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	}
	cmd.WaitDelay = time.Second // somebody else may have got hold of its output
	if !p.Alive() {
		return 0, errStopped
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitStatus(exit), context.Cause(ctx)
	}
	if errors.Is(err, exec.ErrWaitDelay) { // the command has ended well, and left somebody behind
		err = nil
	}
	return 0, err
}

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// execEnvironment is that of root on a Guix System; only the terminal's type is the
// caller's.
func execEnvironment() []string {
	return []string{
		"HOME=/root", "TERM=" + os.Getenv("TERM"),
		"PATH=/run/privileged/bin:/run/setuid-programs:/run/current-system/profile/bin:/run/current-system/profile/sbin",
	}
}

// exitStatus returns the status as a shell does.
func exitStatus(exit *exec.ExitError) int {
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}
