package container

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Alive passes while the container's first process and its launcher run.
type Alive struct{}

// String returns "process".
func (Alive) String() string { return "process" }

// Check implements [Probe].
func (Alive) Check(_ context.Context, in *Instance, _ any) (any, error) {
	switch {
	case !in.Process.Alive():
		return nil, fmt.Errorf("process %d of the container has ended", in.Process.PID)
	case !in.Launcher.Alive():
		return nil, fmt.Errorf("launcher %d has ended and left the container behind", in.Launcher.PID)
	}
	return nil, nil
}

// AllServices passes when every service that shepherd knows is as it should be: running, or
// in the case of one-shot services, run without failure. It fails when, since
// its first success, a service failed to start or was respawned.
//
// A service whose definition could not be loaded is unknown to shepherd, and one that
// somebody must start by hand is never running: name the services that count
// with [Services] when a system has such.
type AllServices struct {
	// Except names services that do not count, each by any of its names.
	Except []string `json:"except,omitempty"`
}

// String returns "services".
func (AllServices) String() string { return "services" }

// Check implements [Probe].
func (p AllServices) Check(ctx context.Context, in *Instance, memory any) (any, error) {
	services, err := in.Shepherd().Services(ctx)
	if err != nil {
		return memory, err
	}
	if len(services) < 2 {
		return memory, errors.New("shepherd has not read its configuration")
	}
	return judgeServices(services, expected(services, p.Except), memory)
}

// Services passes when the services named are as [AllServices] wants them.
type Services struct {
	Names []string `json:"names"`
}

// String returns "services NAME,…".
func (p Services) String() string { return "services " + strings.Join(p.Names, ",") }

// Check implements [Probe].
func (p Services) Check(ctx context.Context, in *Instance, memory any) (any, error) {
	services, err := in.Shepherd().Services(ctx)
	if err != nil {
		return memory, err
	}
	var named []Service
	for _, name := range p.Names {
		s, ok := find(services, name)
		if !ok {
			return memory, fmt.Errorf("shepherd has no service %s", name)
		}
		named = append(named, s)
	}
	return judgeServices(services, named, memory)
}
