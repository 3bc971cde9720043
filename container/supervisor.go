package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/genenetwork/guixci/internal/cgroup"
	"golang.org/x/sys/unix"
)

// A Supervisor is the [Runner] that needs nothing but the kernel: it starts launchers as
// children, in sessions and control groups of their own, so that they outlive it. What it
// must know to find them again is in the directory of the unit.
// The zero Supervisor is ready for use.
type Supervisor struct {
	// Logger is told what is missing on this machine; nil discards.
	Logger *slog.Logger

	mu       sync.Mutex        // guards children
	children map[string]*child // by Unit.Dir: those that this process is the parent of
}

// A child is a launcher that this process must reap. Its end is otherwise seen by its
// pidfd, as it would be by a process that is not the parent.
type child struct {
	pid    int
	reaped chan struct{} // closed once it is
	end    error         // what Wait said; valid from then on
}

// held is what a supervisor writes down about a unit.
type held struct {
	Name     string        `json:"name"`
	Boot     string        `json:"boot"`     // bootID
	Launcher Process       `json:"launcher"` // zero until it is started
	Group    *cgroup.Group `json:"group,omitempty"`
}

func heldFile(u Unit) string { return filepath.Join(u.Dir, "unit.json") }

// recall returns what was written down about a unit: nothing if there is none, and of
// another boot neither, whose pids belong to others now and whose groups are gone.
func recall(u Unit) (held, error) {
	var h held
	err := readJSON(heldFile(u), &h)
	if errors.Is(err, fs.ErrNotExist) || err == nil && h.Boot != bootID() {
		return held{}, nil
	}
	return h, err
}

// Start starts the launcher. What is written down before it runs lets a successor
// clear away even if this process dies right afterwards.
func (s *Supervisor) Start(ctx context.Context, u Unit) error {
	h, err := recall(u)
	if err != nil {
		return err
	}
	if h.Launcher.Alive() || len(h.Group.PIDs()) > 0 {
		return fmt.Errorf("start %s: %w", u.Name, ErrRunning)
	}
	err = context.Cause(ctx)
	if err == nil {
		err = s.start(u)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", u.Command[0], err), s.Stop(context.WithoutCancel(ctx), u))
	}
	return nil
}

func (s *Supervisor) start(u Unit) error {
	h := held{Name: u.Name, Boot: bootID()}
	var err error
	h.Group, err = cgroup.New(u.Name, cgroup.Limits(u.Limits))
	if err != nil && u.Limits != (Limits{}) {
		return err
	}
	if err != nil {
		s.log().Warn("no control group of our own; the pid namespace has to do", "error", err)
	}
	if err := writeJSON(heldFile(u), h); err != nil {
		return errors.Join(err, h.Group.Remove(context.Background()))
	}
	log, err := os.OpenFile(u.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, err := h.Group.Start(func() *exec.Cmd { return u.exec(log) })
	if err != nil {
		return err
	}
	h.Launcher, _, err = identify(cmd.Process.Pid)
	if errors.Is(err, errGone) { // and not reaped yet: nobody else has its pid
		h.Launcher, err = Process{PID: cmd.Process.Pid}, nil
	}
	s.adopt(u, cmd)
	return errors.Join(err, writeJSON(heldFile(u), h))
}

// exec returns the launcher's command: in a session of its own, out of reach of the
// terminal's keys, its output going to a file, because it outlives this process.
func (u Unit) exec(log *os.File) *exec.Cmd {
	cmd := exec.Command(u.Command[0], u.Command[1:]...)
	cmd.Dir, cmd.Env = "/", u.Environment
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// adopt sees to it that the child is reaped.
func (s *Supervisor) adopt(u Unit, cmd *exec.Cmd) {
	c := &child{pid: cmd.Process.Pid, reaped: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.children == nil {
		s.children = make(map[string]*child)
	}
	s.children[u.Dir] = c
	go func() { // Stop waits for it
		defer close(c.reaped)
		c.end = cmd.Wait()
	}()
}

// child returns the unit's launcher if it is, or was, a child of this process.
func (s *Supervisor) child(u Unit) *child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.children[u.Dir]
}

// Stop kills all of the unit, and forgets it.
func (s *Supervisor) Stop(ctx context.Context, u Unit) error {
	h, err := recall(u)
	if err != nil {
		return err
	}
	if h.Group == nil { // it may have been made and not been written down
		h.Group, _ = cgroup.New(u.Name, cgroup.Limits(u.Limits))
	}
	errs := []error{h.Group.Kill(), h.Launcher.signal(unix.SIGKILL), h.Launcher.wait(ctx), h.Group.Remove(ctx)}
	if c := s.child(u); c != nil {
		<-c.reaped
		s.mu.Lock()
		delete(s.children, u.Dir)
		s.mu.Unlock()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop %s: %w", u.Name, err)
	}
	if err := os.Remove(heldFile(u)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Freeze stops the unit's processes by its control group; without one nothing happens.
func (s *Supervisor) Freeze(ctx context.Context, u Unit) error {
	h, err := recall(u)
	if err != nil {
		return err
	}
	if err := h.Group.Freeze(ctx); err != nil {
		return errors.Join(fmt.Errorf("freeze %s: %w", u.Name, err), h.Group.Thaw())
	}
	return nil
}

// Thaw lets them go on, whoever has stopped them.
func (s *Supervisor) Thaw(u Unit) error {
	h, err := recall(u)
	if err != nil {
		return err
	}
	return h.Group.Thaw()
}

// State returns what the kernel says of the unit now.
func (s *Supervisor) State(_ context.Context, u Unit) (UnitState, error) {
	h, err := recall(u)
	if err != nil {
		return UnitState{}, err
	}
	events := h.Group.Events()
	state := UnitState{Held: h.Group != nil, Killed: events.Killed, Refused: events.Refused}
	if h.Launcher.Alive() {
		state.Launcher = h.Launcher
		return state, nil
	}
	if c := s.child(u); c != nil && c.pid == h.Launcher.PID { // else it is a successor's
		<-c.reaped
		var exit *exec.ExitError
		if errors.As(c.end, &exit) {
			state.Ended = exit.String()
		}
	}
	return state, nil
}

// Units returns those whose launchers run, whoever started them: all that this process may see.
func (s *Supervisor) Units(context.Context) ([]string, error) {
	var names []string
	for _, pid := range pids() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may have gone
		for argument := range bytes.SplitSeq(line, []byte{0}) {
			file, ok := strings.CutPrefix(string(argument), "--pid-file=")
			h, err := recall(Unit{Dir: filepath.Dir(file)})
			if ok && err == nil && h.Launcher.PID == pid {
				names = append(names, h.Name)
			}
		}
	}
	return names, nil
}

func (s *Supervisor) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}
