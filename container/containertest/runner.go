// Package containertest has tests that all implementations of interfaces of package
// container must pass.
package containertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/container"
)

// A Suite tests a runner.
type Suite struct {
	Runner container.Runner
	// Again is another value for the same runner, such as another process would have.
	Again container.Runner
	// Restarts says that the runner by itself starts again what ends.
	Restarts bool
	// Limits says that the machine can limit units.
	Limits bool
}

// Run runs all tests.
func (s Suite) Run(t *testing.T) {
	t.Run("start, find, stop", s.testLife)
	t.Run("whole tree is killed", s.testTree)
	t.Run("missing program", s.testMissing)
	t.Run("program that ends", s.testEnd)
	t.Run("context has ended", s.testCancelled)
	if s.Restarts {
		t.Run("restart", s.testRestart)
		t.Run("restart alone", s.testRestartAlone)
	}
	if s.Limits {
		t.Run("limits", s.testLimits)
	}
}

var number atomic.Int64 // of the last unit

// unit returns a unit that runs a shell script, stopped at the end of the test.
func (s Suite) unit(t *testing.T, script string) container.Unit {
	t.Helper()
	dir := t.TempDir()
	u := container.Unit{
		Name:        container.UnitPrefix + fmt.Sprintf("test-%d-%d", os.Getpid(), number.Add(1)),
		Dir:         dir,
		Command:     []string{"/bin/sh", "-c", script, "sh", "--pid-file=" + dir + "/pid", "a b", "$HOME", "%n"},
		Environment: []string{"PATH=" + os.Getenv("PATH"), "WORD=some \"words\" and $HOME %n", "DIR=" + dir},
		Log:         filepath.Join(dir, "log"),
		StopTimeout: 10 * time.Minute, // Stop is not to wait for it
	}
	t.Cleanup(func() {
		if err := s.Runner.Stop(context.Background(), u); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "unit*")); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})
	return u
}

func (s Suite) mustStart(t *testing.T, u container.Unit) container.UnitState {
	t.Helper()
	if err := s.Runner.Start(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	return s.mustRun(t, s.Runner, u)
}

func (s Suite) mustRun(t *testing.T, r container.Runner, u container.Unit) container.UnitState {
	t.Helper()
	state, err := r.State(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	if !state.Launcher.Alive() {
		t.Fatalf("it does not run: %+v", state)
	}
	return state
}

// await waits until done; within three minutes, even on a slow machine, it must be.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(3 * time.Minute); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within three minutes", what)
		}
	}
}

func textOf(name string) string {
	text, _ := os.ReadFile(name)
	return string(text)
}

// A unit runs as it was described, is found by others, is not started twice, and
// can be stopped and started again.
func (s Suite) testLife(t *testing.T) {
	u := s.unit(t, `for a; do echo "[$a]"; done; echo "$WORD" >&2; pwd; while :; do sleep 1000; done`)
	if state, err := s.Runner.State(t.Context(), u); err != nil || state != (container.UnitState{}) {
		t.Errorf("before: %+v, %v", state, err)
	}
	if err := os.WriteFile(u.Log, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := s.mustStart(t, u)
	if !first.Held {
		t.Error("nothing holds it together")
	}
	want := "before\n[--pid-file=" + u.Dir + "/pid]\n[a b]\n[$HOME]\n[%n]\nsome \"words\" and $HOME %n\n/\n"
	await(t, "log", func() bool { return textOf(u.Log) == want })
	if found := s.mustRun(t, s.Again, u); found != first {
		t.Errorf("somebody else sees %+v, not %+v", found, first)
	}
	if err := s.Again.Start(t.Context(), u); !errors.Is(err, container.ErrRunning) {
		t.Errorf("second start: %v", err)
	}
	if now := s.mustRun(t, s.Runner, u); now != first {
		t.Errorf("the second start has changed %+v to %+v", first, now)
	}
	names, err := s.Again.Units(t.Context())
	if err != nil || !slices.Contains(names, u.Name) {
		t.Errorf("units %q, %v", names, err)
	}
	for range 2 { // the second finds nothing
		if err := s.Again.Stop(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		if first.Launcher.Alive() {
			t.Error("it runs on")
		}
	}
	if names, err := s.Runner.Units(t.Context()); err != nil || slices.Contains(names, u.Name) {
		t.Errorf("units %q, %v", names, err)
	}
	if second := s.mustStart(t, u); second.Launcher == first.Launcher || second.Restarts != 0 {
		t.Errorf("%+v after %+v", second, first)
	}
}

// Children in sessions of their own, whose parents have gone, are killed too, and
// Stop returns when they are.
func (s Suite) testTree(t *testing.T) {
	u := s.unit(t, `(setsid sh -c 'trap "" TERM HUP INT; echo $$ > "$DIR/child"; while :; do sleep 1000; done' &); trap "" TERM; while :; do sleep 1000; done`)
	s.mustStart(t, u)
	var child container.Process
	await(t, "child", func() bool {
		pid, err := strconv.Atoi(strings.TrimSpace(textOf(filepath.Join(u.Dir, "child"))))
		if err == nil {
			child, err = container.FindProcess(pid)
		}
		return err == nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := s.Runner.Stop(ctx, u); err != nil {
		t.Fatal(err)
	}
	if child.Alive() {
		t.Error("a child is left")
	}
}

func (s Suite) testMissing(t *testing.T) {
	u := s.unit(t, "")
	u.Command = []string{filepath.Join(u.Dir, "missing"), "--pid-file=" + u.Dir + "/pid"}
	err := s.Runner.Start(t.Context(), u)
	if err == nil || !strings.Contains(err.Error(), u.Name) && !strings.Contains(err.Error(), u.Command[0]) {
		t.Errorf("error %v", err)
	}
	s.mustBeNothing(t, u)
}

func (s Suite) mustBeNothing(t *testing.T, u container.Unit) {
	t.Helper()
	state, err := s.Runner.State(t.Context(), u)
	if err != nil || state != (container.UnitState{}) {
		t.Errorf("%+v, %v", state, err)
	}
	if names, err := s.Runner.Units(t.Context()); err != nil || slices.Contains(names, u.Name) {
		t.Errorf("units %q, %v", names, err)
	}
}

// How a program has ended can be asked while it is not started again.
func (s Suite) testEnd(t *testing.T) {
	u := s.unit(t, "exit 7")
	if err := s.Runner.Start(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	await(t, "its end", func() bool {
		state, err := s.Runner.State(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		return state.Launcher == (container.Process{}) && strings.Contains(state.Ended, "exit status 7")
	})
}

func (s Suite) testCancelled(t *testing.T) {
	u := s.unit(t, "exec sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Runner.Start(ctx, u); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	s.mustBeNothing(t, u)
}

// What is killed is started again, as often as it takes, but not once it is stopped.
func (s Suite) testRestart(t *testing.T) {
	u := s.unit(t, `echo here; exec sleep 1000`)
	state := s.mustStart(t, u)
	for i := range 2 {
		await(t, "log", func() bool { return textOf(u.Log) == strings.Repeat("here\n", i+1) })
		p, err := os.FindProcess(state.Launcher.PID)
		if err == nil {
			err = p.Signal(unix.SIGKILL)
		}
		if err != nil {
			t.Fatal(err)
		}
		await(t, "restart", func() bool {
			now, err := s.Again.State(t.Context(), u)
			if err != nil {
				t.Fatal(err)
			}
			again := now.Launcher.Alive() && now.Launcher != state.Launcher
			if again {
				state = now
			}
			return again
		})
		if state.Restarts != i+1 {
			t.Errorf("restart %d: %+v", i+1, state)
		}
	}
	if err := s.Runner.Stop(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	s.mustBeNothing(t, u)
}

// Before it is started again, what was left of it is killed: two runs would do the
// same work at once.
func (s Suite) testRestartAlone(t *testing.T) {
	u := s.unit(t, `(setsid sh -c 'echo $$ > "$DIR/new"; mv "$DIR/new" "$DIR/child-of-'$$'"; while :; do sleep 1000; done' &); while :; do sleep 1000; done`)
	first := s.mustStart(t, u)
	childOf := func(p container.Process) (child container.Process) {
		await(t, "child", func() bool {
			pid, err := strconv.Atoi(strings.TrimSpace(textOf(fmt.Sprintf("%s/child-of-%d", u.Dir, p.PID))))
			if err == nil {
				child, err = container.FindProcess(pid)
			}
			return err == nil
		})
		return child
	}
	child := childOf(first.Launcher)
	if err := unix.Kill(first.Launcher.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var second container.UnitState
	await(t, "restart", func() bool {
		var err error
		second, err = s.Runner.State(t.Context(), u)
		return err == nil && second.Launcher.Alive() && second.Launcher != first.Launcher
	})
	if childOf(second.Launcher); child.Alive() {
		t.Error("a child of the first run is there beside the second")
	}
}

// A unit cannot have more than its limits, and it is counted how often it tried.
func (s Suite) testLimits(t *testing.T) {
	u := s.unit(t, `head -c 300M /dev/zero | tail >/dev/null
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do (sleep 1000 &); done
exec sleep 1000`)
	u.Limits = container.Limits{Memory: 64 << 20, Tasks: 16}
	s.mustStart(t, u)
	await(t, "limits", func() bool {
		state, err := s.Runner.State(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		return state.Killed > 0 && state.Refused > 0
	})
}
