package container

import "context"

// A probeFunc is a probe that calls a function.
type probeFunc func() error

func (f probeFunc) String() string { return "of a test" }
func (f probeFunc) Check(context.Context, *Instance, any) (any, error) {
	return nil, f()
}
