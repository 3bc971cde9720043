package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// Start makes the current generation run, and returns once it is healthy: after
// [Deployment.Stop], a crash, or a boot of the machine. If it runs, nothing happens.
func (d *Deployment) Start(ctx context.Context) (*Instance, error) {
	in, err := d.startCurrent(ctx)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", d.Name, err)
	}
	return in, nil
}

func (d *Deployment) startCurrent(ctx context.Context) (*Instance, error) {
	rev := Revision{Why: "start"}
	lease, err := d.acquire(rev.Who, rev.Why)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	was, err := d.settle(ctx)
	if err != nil || was.running != nil {
		return was.running, err
	}
	if was.current == nil {
		return nil, errNothing
	}
	if err := d.preflight(ctx, was.current, was); err != nil {
		return nil, err
	}
	in, err := d.bring(ctx, was.current, 0)
	if err != nil {
		d.tell(rev, was.current, WasNotStable, err)
		if !was.wanted {
			d.complain("forget the failed start", d.removeRecord())
		}
		return nil, err
	}
	d.tell(rev, was.current, WasStarted, nil)
	return in, nil
}

// Stop stops the container and returns with nothing of it left: no process, mount,
// control group or temporary directory. If none runs, nothing happens. It stays
// stopped until [Deployment.Start] or [Deployment.Apply]. When ctx ends the
// services get no more time.
func (d *Deployment) Stop(ctx context.Context) error {
	if err := d.stopRunning(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", d.Name, err)
	}
	return nil
}

func (d *Deployment) stopRunning(ctx context.Context) error {
	rev := Revision{Why: "stop"}
	lease, err := d.acquire(rev.Who, rev.Why)
	if err != nil {
		return err
	}
	defer lease.Release()
	was, err := d.settle(ctx)
	if err != nil || !was.wanted {
		return err
	}
	if was.running != nil {
		if err := was.running.stop(ctx); err != nil {
			return err
		}
	}
	d.tell(rev, was.current, WasStopped, nil)
	return d.removeRecord()
}

// A Status is how a deployment is at one moment.
type Status struct {
	Current   *Generation // the confirmed one; nil before the first
	Running   *Instance   // what runs; nil for nothing
	Confirmed bool        // what runs is Current, and not one on trial
	Wanted    bool        // something ought to run
	Since     time.Time   // when what runs was started
	Services  []Service   // of what runs
	// Trouble is why shepherd could not be asked for Services; nil if it could.
	Trouble error
	Holder  *Holder // who is changing it; nil for nobody
}

// Status looks without touching anything, and may be called while somebody else changes
// the deployment.
func (d *Deployment) Status(ctx context.Context) (*Status, error) {
	s := new(Status)
	var err error
	if s.Current, err = d.Current(); err != nil {
		return nil, err
	}
	if s.Holder, err = d.Holder(); err != nil {
		return nil, err
	}
	if err := d.addRunning(ctx, s); err != nil {
		return nil, err
	}
	return s, nil
}

func (d *Deployment) addRunning(ctx context.Context, s *Status) error {
	r, err := d.readRecord()
	if err != nil || r == nil {
		return err
	}
	s.Wanted = true
	in, err := d.instance(r)
	if err != nil || !in.Alive() {
		return err
	}
	s.Running, s.Since = in, r.Started
	s.Confirmed = s.Current != nil && s.Current.Number == r.Generation
	s.Services, s.Trouble = in.Shepherd().Services(ctx)
	return nil
}

// errStopped is returned where a running container is needed.
var errStopped = errors.New("no container is running")

// Running returns the instance that runs, on trial or confirmed.
func (d *Deployment) Running() (*Instance, error) {
	r, err := d.readRecord()
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errStopped
	}
	in, err := d.instance(r)
	if err == nil && !in.Alive() {
		err = errStopped
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// Stdio is where a command inside a container reads and writes; nil is /dev/null.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exec runs a command inside the running container, as root, and returns its exit status.
// A command that a signal ended has 128 and the signal's number, as in a shell;
// one that does not exist 127. The error is about running it at all.
func (d *Deployment) Exec(ctx context.Context, stdio Stdio, command ...string) (status int, err error) {
	in, err := d.Running()
	if err != nil {
		return 0, fmt.Errorf("run %q in %s: %w", command[0], d.Name, err)
	}
	// nsenter, unlike "guix container exec", keeps the status. Go itself cannot
	// enter a mount namespace: that takes a process of one thread.
	cmd := exec.CommandContext(ctx, "nsenter",
		append([]string{"--all", "--target", strconv.Itoa(in.Process.PID), "--"}, command...)...)
	cmd.Env = execEnvironment()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.In, stdio.Out, stdio.Err
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitStatus(exit), context.Cause(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("run %q in %s: %w", command[0], d.Name, err)
	}
	return 0, nil
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
