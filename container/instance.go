package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// An Instance is a generation that runs, whoever started it.
type Instance struct {
	Generation *Generation
	Launcher   Process // the run-container script
	Process    Process // process 1 of the container: shepherd

	again    bool      // it is started once more after a crash, see errForkCrashed
	well     time.Time // when all probes passed for the first time; zero before
	d        *Deployment
	record   *record
	main     *record  // of what this one runs beside; nil if it is that itself
	logStart int64    // where this run's output begins
	gate     *os.File // what the launcher waits at; nil if it does not
}

// instance returns what a record is about. Of another boot's processes nothing is
// left, and their pids belong to others now.
func (d *Deployment) instance(r *record) (*Instance, error) {
	g, err := d.Generation(r.Generation)
	if err != nil {
		return nil, err
	}
	if r.Boot != bootID() {
		r = &record{Generation: r.Generation, Previous: r.Previous}
	}
	in := &Instance{Generation: g, Launcher: r.Launcher, Process: r.Process, d: d, record: r}
	if r.Boot != "" && !in.Alive() {
		in.followRunner()
	}
	return in, nil
}

// followRunner makes the instance one of the processes that its runner has started
// since they were written down, if it has.
func (in *Instance) followRunner() {
	ctx, cancel := context.WithTimeout(context.Background(), runnerTimeout)
	defer cancel()
	state, err := in.state(ctx)
	if err != nil {
		in.d.log().Warn("cannot ask the runner", "error", err)
	}
	if err != nil || state.Launcher.isZero() || state.Launcher == in.Launcher {
		return
	}
	old := in.Launcher
	in.Launcher = state.Launcher
	if p, ok := in.readPID(); ok {
		in.Process = p
	} else {
		in.Launcher = old // it is only just coming up
	}
}

// runnerTimeout is what a runner may take to say how a unit is, and a shepherd, how its services are.
const runnerTimeout = 10 * time.Second

// Alive reports whether the container's first process runs.
func (in *Instance) Alive() bool { return in.Process.Alive() }

// Shepherd returns the container's shepherd.
func (in *Instance) Shepherd() *Shepherd {
	if in.d.socket != "" {
		return ShepherdAt(in.d.socket)
	}
	return shepherdIn(in.Process, shepherdSockets...)
}

// services asks the container's shepherd for its services. It answers at once, whatever it is doing; one that does not
// is not waited for.
func (in *Instance) services(ctx context.Context) ([]Service, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, runnerTimeout, fmt.Errorf("it does not answer within %v", runnerTimeout))
	defer cancel()
	return in.Shepherd().Services(ctx)
}

// whileAlive returns a context that also ends when the container does, with
// the reason as its cause. release frees what it takes.
func (in *Instance) whileAlive(ctx context.Context) (alive context.Context, release func()) {
	alive, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if in.Process.wait(alive) == nil {
			cancel(in.death())
		}
	}()
	return alive, func() { cancel(nil); <-done }
}

// stop stops the container: SIGTERM to shepherd, which stops its services in order;
// after StopTimeout, or when ctx ends, all is killed. Whatever happens it returns with
// nothing of the container left, or an error that says what.
//
// The launcher would pass the signal on, as (gnu build linux-container) has it, but
// only in Guile's own time: it sits in waitpid, and with Guile 3.0 a relayed
// SIGTERM was seen to arrive after a second, or not at all.
func (in *Instance) stop(ctx context.Context) error {
	return in.halt(ctx)()
}

// willStop writes down that the instance is going to be asked to end, before it is: it
// still runs for a while then, even if this process is killed.
func (in *Instance) willStop() error {
	in.record.Stopping = true
	return in.save()
}

// halt is stop without waiting for what comes after the last process of the container: clear,
// which must be called, does that. A halted container writes nothing, listens nowhere, and has no address.
func (in *Instance) halt(ctx context.Context) (clear func() error) {
	asked := time.Now()
	in.d.log().Info("stopping the container", "generation", in.Generation.Number)
	patience, cancel := context.WithTimeoutCause(ctx, in.handling().StopTimeout, errStubborn)
	defer cancel()
	if err := in.terminate(patience); err != nil {
		in.d.log().Warn("killing the container", "waited", time.Since(asked), "reason", err)
		err := in.kill(context.WithoutCancel(ctx))
		return func() error { return err }
	}
	// Whoever starts next, while this one is cleared away, may have its address.
	in.d.complain("take the wire away", in.disconnect())
	return func() error {
		patience, cancel := context.WithTimeoutCause(ctx, in.handling().StopTimeout, errStubborn)
		defer cancel()
		if err := in.Launcher.wait(patience); err != nil { // it removes its temporary directory
			in.d.log().Warn("killing the launcher", "reason", err)
		}
		in.hearOut(hearOutLimit)
		return in.kill(context.WithoutCancel(ctx))
	}
}

// terminate asks shepherd to end until it has, or ctx does. Asking once is not
// enough: a signal that comes while the system boots is lost, and a process
// that forks blocks all signals for a moment, so it cannot be known beforehand which
// one is heard. Shepherd takes further ones, while it stops its services, for the first.
func (in *Instance) terminate(ctx context.Context) error {
	for {
		err := in.Process.awaitHearing(ctx, unix.SIGTERM)
		if err == nil {
			err = in.Process.signal(unix.SIGTERM)
		}
		if err != nil {
			return err
		}
		again, cancel := context.WithTimeout(ctx, askAgain)
		err = in.Process.wait(again)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// askAgain is the time between two requests to end.
const askAgain = time.Second

var errStubborn = errors.New("it did not stop in time")

// killTimeout limits how long the kernel may take to end what was killed.
const killTimeout = 30 * time.Second

// kill ends all processes of the container and its launcher, if any, and removes what
// they leave behind: control group, wire, temporary directory, pid file.
func (in *Instance) kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, killTimeout, fmt.Errorf("still there %v after SIGKILL", killTimeout))
	defer cancel()
	victims := in.victims()
	left := in.stopUnit(ctx)
	errs := []error{left}
	errs = append(errs, in.removeGate())
	for _, p := range victims {
		errs = append(errs, p.signal(unix.SIGKILL))
	}
	for _, p := range victims {
		if err := p.wait(ctx); err != nil {
			errs = append(errs, fmt.Errorf("process %d: %w", p.PID, err))
		}
	}
	errs = append(errs, in.disconnect())
	if left == nil { // else the runner has there what it must know to stop it
		errs = append(errs, removeRunDir(in.runDir()))
	}
	return errors.Join(errs...)
}

// stopUnit has the runner clear away what it knows of.
func (in *Instance) stopUnit(ctx context.Context) error {
	runner, err := in.d.runner(in.Generation)
	if err != nil {
		return err
	}
	return runner.Stop(ctx, in.unit())
}

// victims returns the processes to kill one by one, the container's first process
// before the others: with it goes its pid namespace. A launcher that was caught before it
// could tell the pid has it as its child; one that was not even recorded is known by
// its pid file.
func (in *Instance) victims() []Process {
	launchers := []Process{in.Launcher}
	if !in.Launcher.Alive() {
		launchers = launchersOf(in.pidFile())
	}
	victims := []Process{in.Process}
	for _, launcher := range launchers {
		if launcher.Alive() {
			launcher.signal(unix.SIGSTOP) // it makes no more children
			victims = append(victims, launcher.children()...)
		}
	}
	return append(victims, launchers...)
}
