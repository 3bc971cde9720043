package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// poise has the launcher of next started while the old container still runs, so that what it takes to get
// there is no part of the gap: it waits at a gate, which bring opens. If nothing runs it is not started.
// On error nothing of it is left, and the old container is as it was.
//
// Until the gate is open it is recorded as what is on trial beside the old one, and cleared away
// likewise if this process is killed.
func (d *Deployment) poise(ctx context.Context, was standing, next *Generation) (*Instance, error) {
	in := d.future(next)
	if was.running == nil {
		return in, nil
	}
	in.main, in.record.Trial = was.running.record, true
	limited, cancel := context.WithTimeoutCause(ctx, in.handling().StartTimeout/2, errNoPID)
	defer cancel()
	err := in.launch(limited, true)
	if err == nil {
		err = was.running.willStop()
	}
	if err != nil {
		was.running.record.Stopping = false
		return nil, errors.Join(err, d.forgetBeside(in.main, in.kill(context.WithoutCancel(ctx))))
	}
	return in, nil
}

// start runs a generation's script until its container has a first process, whose
// services have hardly begun to come up. On error nothing of it is left.
func (in *Instance) start(ctx context.Context) error {
	for again := 0; ; again++ {
		err := in.attempt(ctx)
		if err == nil {
			return nil
		}
		// Hanging costs half of the time there is, a deadlock next to nothing.
		patient := err.hung == errNoPID && again == 0 || err.hung == errDeadlock && again < 4
		if !patient || ctx.Err() != nil {
			return err.error
		}
		// It hangs before there is a container, so nothing of that has run: see launcherEnvironment.
		in.d.log().Warn("starting the container once more", "generation", in.Generation.Number, "because", err.error)
	}
}

// A failedStart says why there is no container.
type failedStart struct {
	error
	hung error // errNoPID or errDeadlock if the launcher lived, and said nothing about a first process
}

// attempt starts the launcher once, or opens its gate, and has half of the time for it. On error nothing of it is left.
func (in *Instance) attempt(ctx context.Context) *failedStart {
	limited, cancel := context.WithTimeoutCause(ctx, in.handling().StartTimeout/2, errNoPID)
	defer cancel()
	var err error
	if in.gate != nil {
		err = in.open()
	} else {
		err = in.launch(limited, false)
	}
	if err == nil {
		err = in.awaitPID(limited)
	}
	if err == nil {
		err = errors.Join(in.removeGate(), in.connect())
	}
	if err == nil {
		return nil
	}
	_, said := os.Stat(in.pidFile())
	failed := &failedStart{error: errors.Join(err, in.kill(context.WithoutCancel(ctx)))}
	if launch := new(LaunchError); errors.As(err, &launch) && errors.Is(said, os.ErrNotExist) {
		failed.hung = launch.hung
	}
	return failed
}

var (
	errNoPID    = errors.New("the container's first process did not appear in time")
	errDeadlock = errors.New("the container's first process waits for a lock that nobody can release")
)

// A notLaunched is why no launcher could be started, which has nothing to do with what it was to launch.
type notLaunched struct{ error }

func (e notLaunched) Unwrap() error { return e.error }

// launch has the launcher started, to wait at its gate if it is gated. An error that is not about the script is a notLaunched.
func (in *Instance) launch(ctx context.Context, gated bool) error {
	if _, err := exec.LookPath(in.Generation.Script); err != nil {
		return err // the shell that executes it would only say so in the log
	}
	if err := in.startLauncher(ctx, gated); err != nil {
		return notLaunched{err}
	}
	return nil
}

// startLauncher records what lets a successor find the launcher, even if this process dies right after it was started.
func (in *Instance) startLauncher(ctx context.Context, gated bool) error {
	runner, err := in.d.runner(in.Generation)
	if err != nil {
		return err
	}
	if err := in.makeRunDir(); err != nil {
		return err
	}
	prepare := in.handOver
	if gated {
		prepare = in.makeGate
	}
	if err := prepare(); err != nil {
		return err
	}
	if err := in.save(); err != nil {
		return err
	}
	if info, err := os.Stat(in.logFile()); err == nil {
		in.logStart = info.Size()
	}
	if err := runner.Start(ctx, in.unit()); err != nil {
		return err
	}
	state, err := in.state(ctx)
	if err != nil {
		return err
	}
	in.Launcher, in.record.Launcher = state.Launcher, state.Launcher
	return in.save()
}

// makeRunDir makes the directory of this run: the launcher's temporary
// directory, in which it makes the container's root, its pid file, the console, and what Guile loads first.
func (in *Instance) makeRunDir() error {
	if err := removeRunDir(in.runDir()); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(in.runDir(), "tmp"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(in.preludeFile(), []byte(prelude), 0o600); err != nil {
		return err
	}
	return in.makeConsole()
}

// handOver makes the files of the environment. It comes right before there is a container, since hooks may have changed those that
// they are made from.
func (in *Instance) handOver() error {
	if err := in.Generation.Environment.handOver(filepath.Join(in.runDir(), "environment")); err != nil {
		return fmt.Errorf("hand over environment: %w", err)
	}
	return nil
}

// makeGate makes what a launcher waits at as long as it is there: a fifo, which is open to write here. If
// this process dies, a launcher that waits there ends; one that comes later waits until it is cleared away.
func (in *Instance) makeGate() (err error) {
	if err := unix.Mkfifo(in.gateFile(), 0o600); err != nil {
		return &fs.PathError{Op: "mkfifo", Path: in.gateFile(), Err: err}
	}
	in.gate, err = os.OpenFile(in.gateFile(), os.O_RDWR|unix.O_NONBLOCK, 0)
	return err
}

// open opens the gate, and writes down what the instance is from then on.
func (in *Instance) open() error {
	if err := in.handOver(); err != nil {
		return err
	}
	_, err := in.gate.WriteString("\n")              // for one that waits there, or is about to
	err = errors.Join(err, os.Remove(in.gateFile())) // for one that has not arrived
	return errors.Join(err, in.save())
}

// removeGate has nothing open any more that a launcher might wait at.
func (in *Instance) removeGate() error {
	if in.gate == nil {
		return nil
	}
	err := in.gate.Close()
	in.gate = nil
	return err
}

func (in *Instance) gateFile() string { return filepath.Join(in.runDir(), "gate") }

func (in *Instance) runDir() string { return in.d.generationPath(in.Generation.Number, "run") }
func (in *Instance) pidFile() string {
	return filepath.Join(in.runDir(), "pid")
}
func (in *Instance) logFile() string { return in.d.generationPath(in.Generation.Number, "log") }

// removeRunDir removes what a run leaves behind. It deletes nothing
// below the directories that the launcher made: they are empty unless something is
// mounted there, and then deleting would reach into other people's data.
func removeRunDir(dir string) error {
	// Nothing can be mounted in the copies made for the container, and they go first.
	errs := []error{os.RemoveAll(filepath.Join(dir, "environment")), sweepFiles(dir)}
	leftovers, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	var names []string
	for _, e := range leftovers {
		names = append(names, filepath.Join(dir, "tmp", e.Name()))
	}
	for _, name := range append(names, filepath.Join(dir, "tmp"), filepath.Join(dir, "pid"), filepath.Join(dir, "console"), filepath.Join(dir, "gate"), filepath.Join(dir, "restarting"), filepath.Join(dir, "prelude.scm"), filepath.Join(dir, "unit.json"), dir) {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// command returns the launcher and its arguments.
func (in *Instance) command() []string {
	args := append(in.launcher(), "--pid-file="+in.pidFile())
	for _, m := range in.Generation.Shares {
		args = append(args, "--share="+m.Source+"="+m.target())
	}
	exposes := slices.Clone(in.Generation.Exposes)
	if e := in.Generation.Environment; !e.isEmpty() {
		exposes = append(exposes, e.mount(in.runDir()))
	}
	for _, m := range exposes {
		args = append(args, "--expose="+m.Source+"="+m.target())
	}
	for _, target := range consoleTargets {
		args = append(args, "--share="+in.console()+"="+target)
	}
	return args
}

// launcher returns how the script is executed: as its first line says, except that Guile first loads
// the prelude.
func (in *Instance) launcher() []string {
	script := in.Generation.Script
	text, _ := readStart(script, 256) // if it cannot be read it cannot be executed either
	line, _, _ := strings.Cut(text, "\n")
	words := strings.Fields(strings.TrimPrefix(line, "#!"))
	if !strings.HasPrefix(line, "#!") || len(words) == 0 || filepath.Base(words[0]) != "guile" {
		return []string{script}
	}
	return append(words, "-l", in.preludeFile(), "-s", script)
}

// prelude has Guile write line by line. To what is no terminal it would write when it has much to say or ends, and
// what the container says before its shepherd is there, that files are missing for example, would
// be lost: shepherd is executed in the same process.
//
// Then it has a signal handled, so that the thread that sees to signals is there, and waits for the next one. Otherwise the
// launcher would have it made right before the container's first process, see launcherEnvironment. Where whoever has started us
// blocks that signal, it never comes; the thread is there after a second, too.
const prelude = `
(setvbuf (current-output-port) 'line)
(setvbuf (current-error-port) 'line)
(let ((handled #f))
  (sigaction SIGUSR2 (lambda (signal) (set! handled #t)))
  (kill (getpid) SIGUSR2)
  (let wait ((tries 1000))
    (unless (or handled (zero? tries))
      (usleep 1000)
      (wait (- tries 1))))
  (sigaction SIGUSR2 SIG_DFL))
`

func (in *Instance) preludeFile() string { return filepath.Join(in.runDir(), "prelude.scm") }

// readStart returns at most so many bytes of a file.
func readStart(name string, most int64) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most))
	return string(text), err
}

// launcherEnvironment is the launcher's. It does not reach the container,
// and nothing of ours should matter to it.
//
// Guile's garbage collector must have no thread of its own, and do nothing: the launcher makes the container's first process by a
// bare clone system call, and what another thread has locked just then stays locked in the new
// process for ever. It waits for it, and the launcher for it. Without threads that mark this was seen twice more, the
// lock being the allocator's, which other threads, too, take when they begin: see prelude. A launcher allocates some 20 MB in its
// life, and then only waits.
func launcherEnvironment(tmp string) []string {
	return append(os.Environ(), "TMPDIR="+tmp, "GUILE_AUTO_COMPILE=0", "GC_MARKERS=1", "GC_DONT_GC=1")
}

// awaitPID waits until the launcher has written the pid of the container's first
// process. The file is written in place, so what it says is believed only
// if that is a child of the launcher.
func (in *Instance) awaitPID(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	look := time.NewTicker(lookForDeadlock)
	defer look.Stop()
	lock := "" // that was waited for in vain when it was looked at last
	for {
		dead := !in.Launcher.Alive() // asked first: what it wrote before it died is seen below
		if p, ok := in.readPID(); ok {
			in.Process, in.record.Process = p, p
			return in.save()
		}
		if dead {
			return in.death()
		}
		select {
		case <-tick.C:
		case <-look.C:
			before := lock
			if lock = in.deadlock(); lock != "" && lock == before {
				return in.noPID(errDeadlock)
			}
		case <-ctx.Done():
			return in.noPID(context.Cause(ctx))
		}
	}
}

// deadlock returns the lock that a child of the launcher waits for in vain, or "".
func (in *Instance) deadlock() string {
	for _, child := range in.Launcher.children() {
		if lock := child.waitsInVain(); lock != "" {
			return lock
		}
	}
	return ""
}

// lookForDeadlock is the time between two looks; what is seen twice is not only for a moment.
const lookForDeadlock = 500 * time.Millisecond

func (in *Instance) readPID() (Process, bool) {
	text, err := os.ReadFile(in.pidFile())
	if err != nil {
		return Process{}, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return Process{}, false
	}
	p, parent, err := identify(pid)
	return p, err == nil && parent == in.Launcher.PID && parent != 0
}

// noPID explains why there was no pid, beyond the cause.
func (in *Instance) noPID(cause error) error {
	if cause != errNoPID && cause != errDeadlock {
		return cause
	}
	reason := cause.Error()
	if text, err := os.ReadFile(in.pidFile()); err == nil {
		reason += fmt.Sprintf(": the pid file says %.20q, which is no child of launcher %d", text, in.Launcher.PID)
	}
	return &LaunchError{Script: in.Generation.Script, Reason: reason, Output: in.output(), Stuck: in.stuck(), hung: cause}
}
