package container

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"time"
)

// A Runner runs the launchers of containers, each as a unit, and finds them again: after a
// restart of the program that asked for them, or of its own. A [Supervisor] does
// without any service manager; others hand units to one.
//
// Methods may be called concurrently; of those about the same unit only State.
type Runner interface {
	// Start returns once the unit's program is being executed, whatever becomes of it
	// then. One that runs already is an error that wraps [ErrRunning].
	// On error, which ctx's end is too, nothing of the unit is left.
	Start(ctx context.Context, u Unit) error
	// Stop kills what is left of the unit, and returns with no process, control group
	// or file of it there; it is not started again. Its services have been asked to end
	// before, if there was time for that. A unit that is not there is no error.
	Stop(ctx context.Context, u Unit) error
	// State says how the unit is. One that is not there has the zero state.
	State(ctx context.Context, u Unit) (UnitState, error)
	// Units returns the names of all units there are, of whatever deployment.
	Units(ctx context.Context) ([]string, error)
}

// ErrRunning is why a unit is not started: it runs.
var ErrRunning = errors.New("it runs already")

// A Unit is a launcher as it is to be run.
type Unit struct {
	// Name begins with [UnitPrefix], is unique on this machine, and made of letters,
	// digits, ".", "_" and "-".
	Name string
	// Dir is a directory that is there as long as the unit. A runner may keep
	// files in it whose names begin with "unit".
	Dir string
	// Command is the file name of the program, and its arguments.
	Command []string
	// Environment is NAME=VALUE, and all there is.
	Environment []string
	// Log is the file to whose end output is written; it is made when missing.
	Log string
	// Limits hold for all processes of the unit together.
	Limits Limits
	// StopTimeout is how long the container may take to stop when it is not us who
	// stops it, as at a machine's shutdown.
	StopTimeout time.Duration
}

// UnitPrefix is how the names of units begin.
const UnitPrefix = "guixci-"

// A UnitState is what a runner knows of a unit.
type UnitState struct {
	// Launcher is the process of the unit's program; zero if it does not run.
	Launcher Process
	// Restarts is how often the runner, by itself, has started it again.
	Restarts int
	// Held reports whether all processes of the unit can be found and killed
	// together whatever becomes of their parents.
	Held bool
	// Ended says how the program ended, such as "exit status 1", if it has and that is known.
	Ended string
	// Killed counts the processes that the kernel killed because the unit had reached its
	// limit of memory; Refused the times it was denied one more task.
	Killed, Refused int
}

// runner returns what runs the generation, which its environment names.
func (d *Deployment) runner(g *Generation) (Runner, error) {
	name := g.Environment.Runner
	if r := d.Runners[name]; r != nil {
		return r, nil
	}
	if name == "" {
		return ownSupervisor, nil
	}
	return nil, fmt.Errorf("there is no runner %q here", name)
}

// ownSupervisor runs what no other runner is asked to run.
var ownSupervisor = new(Supervisor)

var notInName = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// unit returns what the instance is to its runner. Deployments of one name
// are told apart by where they keep their state.
func (in *Instance) unit() Unit {
	place := sha256.Sum256([]byte(in.runDir()))
	return Unit{
		Name:        fmt.Sprintf("%s%s-%d-%x", UnitPrefix, notInName.ReplaceAllString(in.d.Name, "_"), in.Generation.Number, place[:3]),
		Dir:         in.runDir(),
		Command:     in.speaking(),
		Environment: launcherEnvironment(filepath.Join(in.runDir(), "tmp")),
		Log:         in.logFile(),
		Limits:      in.Generation.Environment.Limits,
		StopTimeout: in.handling().StopTimeout,
	}
}

// state asks the runner about the instance.
func (in *Instance) state(ctx context.Context) (UnitState, error) {
	r, err := in.d.runner(in.Generation)
	if err != nil {
		return UnitState{}, err
	}
	return r.State(ctx, in.unit())
}
