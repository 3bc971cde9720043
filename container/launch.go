package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// start runs a generation's script until its container has a first process, whose
// services have hardly begun to come up. On error nothing of it is left.
// previous is what to go back to if this process dies before confirming.
func (d *Deployment) start(ctx context.Context, g *Generation, previous int) (*Instance, error) {
	in := &Instance{Generation: g, d: d, record: &record{
		Generation: g.Number, Previous: previous, Boot: bootID(), Started: time.Now(),
	}}
	ctx, cancel := context.WithTimeoutCause(ctx, cmp.Or(d.StartTimeout, defaultStartTimeout), errNoPID)
	defer cancel()
	err := in.launch(ctx)
	if err == nil {
		err = in.awaitPID(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, in.kill(context.WithoutCancel(ctx)))
	}
	return in, nil
}

var errNoPID = errors.New("the container's first process did not appear in time")

// launch starts the launcher. What is recorded before it runs lets a successor find
// it even if this process dies right afterwards.
func (in *Instance) launch(ctx context.Context) error {
	if err := in.makeRunDir(); err != nil {
		return err
	}
	name := fmt.Sprintf("guixci-%s-%d-%d", in.d.Name, in.Generation.Number, os.Getpid())
	c, err := newCgroup(name)
	if err != nil {
		in.d.log().Warn("no control group of our own; the pid namespace has to do", "error", err)
	}
	in.record.Cgroup = c
	if in.record.Limits, err = in.Generation.Environment.Limits.limit(c, name); err != nil {
		return err
	}
	if err := in.d.writeRecord(in.record); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := in.exec(); err != nil {
		return fmt.Errorf("start %s: %w", in.Generation.Script, err)
	}
	return in.d.writeRecord(in.record)
}

// makeRunDir makes the directory of this run: the launcher's temporary
// directory, in which it makes the container's root, its pid file, and the files of the environment.
func (in *Instance) makeRunDir() error {
	if err := removeRunDir(in.runDir()); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(in.runDir(), "tmp"), 0o700); err != nil {
		return err
	}
	if err := in.Generation.Environment.handOver(filepath.Join(in.runDir(), "environment")); err != nil {
		return fmt.Errorf("hand over environment: %w", err)
	}
	return nil
}

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
	errs := []error{os.RemoveAll(filepath.Join(dir, "environment"))}
	leftovers, _ := filepath.Glob(filepath.Join(dir, "tmp", "*"))
	for _, name := range append(leftovers, filepath.Join(dir, "tmp"), filepath.Join(dir, "pid"), dir) {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// exec starts the launcher in a session of its own, out of reach of the terminal's
// keys, with its output going to a file: it outlives this process.
func (in *Instance) exec() error {
	log, err := os.OpenFile(in.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if info, err := log.Stat(); err == nil {
		in.logStart = info.Size()
	}
	cmd, err := in.spawn(log)
	if err != nil {
		return err
	}
	in.record.Launcher, _, err = identify(cmd.Process.Pid)
	if errors.Is(err, errGone) { // and not reaped yet: awaitPID tells why
		in.record.Launcher, err = Process{PID: cmd.Process.Pid}, nil
	}
	in.Launcher = in.record.Launcher
	// Reaping is all the waiting that is needed; the end itself is seen by its pidfd,
	// as it would be by a process that is not the parent.
	in.reaped = make(chan struct{})
	go func() {
		defer close(in.reaped)
		in.exit = cmd.Wait()
	}()
	return err
}

// startCommand starts the launcher inside the control group, if there is one.
func (in *Instance) startCommand(log *os.File) (*exec.Cmd, error) {
	c := in.record.Cgroup
	if c != nil && c.Unified {
		dir, err := c.open()
		if err == nil {
			defer unix.Close(dir)
			cmd := in.command(log)
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, dir
			if err = cmd.Start(); err == nil {
				return cmd, nil
			}
		}
		in.d.log().Debug("cannot start inside the control group", "error", err)
	}
	cmd := in.command(log)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if c != nil {
		if err := c.add(cmd.Process.Pid); err != nil {
			in.d.log().Warn("cannot move the launcher into its control group", "error", err)
		}
	}
	return cmd, nil
}

// limit moves the launcher, which has no children yet, into the groups that limit it.
func (in *Instance) limit(pid int) error {
	for _, c := range in.record.Limits {
		if err := c.add(pid); err != nil {
			return fmt.Errorf("limit the container: %w", err)
		}
	}
	return nil
}

// spawn starts the launcher, limited.
func (in *Instance) spawn(log *os.File) (*exec.Cmd, error) {
	cmd, err := in.startCommand(log)
	if err != nil {
		return nil, err
	}
	if err := in.limit(cmd.Process.Pid); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, err
	}
	return cmd, nil
}

// command returns the launcher's command. Its environment does not reach the container,
// and nothing of ours should matter to it.
func (in *Instance) command(log *os.File) *exec.Cmd {
	args := []string{"--pid-file=" + in.pidFile()}
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
	cmd := exec.Command(in.Generation.Script, args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(in.runDir(), "tmp"), "GUILE_AUTO_COMPILE=0")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// awaitPID waits until the launcher has written the pid of the container's first
// process. The file is written in place, so what it says is believed only
// if that is a child of the launcher.
func (in *Instance) awaitPID(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		dead := !in.Launcher.Alive() // asked first: what it wrote before it died is seen below
		if p, ok := in.readPID(); ok {
			in.Process, in.record.Process = p, p
			return in.d.writeRecord(in.record)
		}
		if dead {
			return in.death()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return in.noPID(context.Cause(ctx))
		}
	}
}

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
	return p, err == nil && parent == in.Launcher.PID
}

// noPID explains why there was no pid, beyond the cause.
func (in *Instance) noPID(cause error) error {
	if !errors.Is(cause, errNoPID) {
		return cause
	}
	if text, err := os.ReadFile(in.pidFile()); err == nil {
		cause = fmt.Errorf("%w: the pid file says %.20q, which is no child of launcher %d", cause, text, in.Launcher.PID)
	}
	return &LaunchError{Script: in.Generation.Script, Reason: cause.Error(), Output: in.output()}
}
