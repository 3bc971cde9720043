package inferior

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/genenetwork/guixci/internal/cgroup"
)

// A process is a child in a process group of its own, and in a control group of
// its own where we may make one. One goroutine waits for it from start on; whatever
// the child leaves behind in its groups is killed when it ends.
type process struct {
	cmd    *exec.Cmd
	group  *cgroup.Group // nil if none could be made
	most   int64         // how much memory it may have; 0 means any
	stderr *tail
	exited chan struct{} // closed when the child is reaped and its output read
	err    error         // of Wait; valid once exited is closed

	mu      sync.Mutex // guards gone, starved
	gone    bool       // the child has ended: its number must not be signalled
	starved bool       // it was killed because of its memory
}

// outputDelay bounds how long the output of a child that has ended is read:
// a grandchild that left the group may hold it open for ever.
const outputDelay = 2 * time.Second

// startProcess starts cmd in its own process group. The end of its standard
// error is kept; also, which may be nil, gets all of it. If the child and its
// descendants have more than most bytes of memory together they are killed; 0 means
// that they may.
func startProcess(cmd *exec.Cmd, also io.Writer, most int64) (*process, error) {
	p := &process{most: most, stderr: &tail{}, exited: make(chan struct{})}
	cmd.Stderr = p.stderr
	if also != nil {
		cmd.Stderr = io.MultiWriter(p.stderr, also)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = outputDelay
	watched, err := p.startInGroup(cmd)
	if err != nil {
		return nil, err
	}
	go p.reap(watched)
	return p, nil
}

// reap waits for the child and ends what it leaves behind.
func (p *process) reap(watched bool) {
	stop := func() {}
	if watched {
		stop = p.watch()
	}
	awaitExit(p.cmd.Process.Pid)
	stop()
	p.mu.Lock()
	p.gone = true
	// The child is a zombie until Wait, so its number still names the group.
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	p.starved = p.starved || p.group.Events().Killed > 0
	p.mu.Unlock()
	p.group.Kill() // else a grandchild may hold the output open
	p.err = p.cmd.Wait()
	p.leaveGroup() // not before: the child itself may be what is left in it
	if errors.Is(p.err, exec.ErrWaitDelay) {
		p.err = nil // the child itself ended well
	}
	close(p.exited)
}

// outOfMemory returns an error matching errMemory if the child was ended for having
// used too much memory, and nil otherwise.
func (p *process) outOfMemory() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.starved {
		return nil
	}
	return fmt.Errorf("%w: at most %d MiB allowed", errMemory, p.most>>20)
}

// signal sends sig to the child and all in its group, if it still runs.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return
	}
	syscall.Kill(-p.cmd.Process.Pid, sig)
	if sig == syscall.SIGKILL {
		p.group.Kill()
	}
}

// stop ends the child: each rung waits for the time given before the next
// one is tried. The first rung, told by the caller, was the end of input.
func (p *process) stop(wait time.Duration) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t := time.NewTimer(wait)
		select {
		case <-p.exited:
			t.Stop()
			return
		case <-t.C:
			p.signal(sig)
		}
	}
	<-p.exited
}

// status says how the child ended, for people; it waits for that.
func (p *process) status() string {
	<-p.exited
	if p.err == nil {
		return "exit status 0"
	}
	return p.err.Error()
}

// awaitExit blocks until the child has ended, and leaves it to be reaped.
func awaitExit(pid int) {
	const (
		pPID    = 1         // P_PID
		wExited = 4         // WEXITED
		wNoWait = 0x1000000 // WNOWAIT
	)
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, pPID, uintptr(pid), 0, wExited|wNoWait, 0, 0)
		if errno != syscall.EINTR {
			return
		}
	}
}

// A tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex // guards buf, cut
	buf []byte
	cut bool // something was dropped
}

// tailSize is how much of a child's messages is kept: enough for any
// backtrace, little enough for a thousand children.
const tailSize = 64 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if extra := len(t.buf) - tailSize; extra > 0 {
		t.buf = slices.Delete(t.buf, 0, extra)
		t.cut = true
	}
	return len(b), nil
}

// String returns what was kept, from the start of a line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := string(t.buf)
	if t.cut {
		if _, rest, ok := strings.Cut(s, "\n"); ok {
			s = rest
		}
	}
	return s
}

// Variables that make a Guix run other code than its own.
var misleading = []string{"GUIX_PACKAGE_PATH", "GUIX_PULL_URL", "GUIX_UNINSTALLED",
	"GUILE_LOAD_PATH", "GUILE_LOAD_COMPILED_PATH"}

// environment returns env, or ours if it is nil, without what would make Guix
// run other code than its own, and with set, in the form NAME=VALUE.
func environment(env []string, set ...string) []string {
	if env == nil {
		env = os.Environ()
	}
	unset := misleading
	for _, s := range set {
		name, _, _ := strings.Cut(s, "=")
		unset = append(unset[:len(unset):len(unset)], name)
	}
	env = slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return slices.Contains(unset, name)
	})
	return append(env, set...)
}

// lastLines returns up to n last lines of text that are not blank.
func lastLines(text string, n int) []string {
	lines := strings.FieldsFunc(text, func(c rune) bool { return c == '\n' || c == '\r' })
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" })
	return lines[max(0, len(lines)-n):]
}

// program returns the name to run, and an error that says what is missing.
func program(name string) (string, error) {
	if name == "" {
		name = "guix"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find Guix: %w", err)
	}
	return path, nil
}

// terminate ends a child that need not be asked twice.
func (p *process) terminate(wait time.Duration) {
	p.signal(syscall.SIGTERM)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-p.exited:
	case <-t.C:
		p.signal(syscall.SIGKILL)
		<-p.exited
	}
}
