package container

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"
)

// crashSign is what shepherd's crash handler prints, which whatever shepherd forks has, too, until it executes
// something.
const crashSign = "Shepherd crashed!"

// errForkCrashed is about a container that is not healthy after processes have crashed between shepherd's fork
// of them and the execution of what they were to be.
//
// Guile 3.0.10 and 3.0.11 do that on a busy machine to what is forked first. Before they fork, they end
// their thread for finalizers, and then the one for signals. If this one has not yet had a turn when the other ends, the
// other takes itself for the last one and has it stop (on_thread_exit of threads.c). Then nobody waits
// until it has, and in each child that is forked before, it is half stopped for ever: the child
// aborts (start_signal_delivery_thread of scmsigs.c).
//
// Shepherd starts services again that run as soon as they are forked. One whose pid file it waits for has
// failed for good, and so has a one-shot one. The system is not to blame for it. Booting once more heals it, and takes less time than to
// wait whether it was one of those; only what is well all the same runs on. If that crashes, too, it gets its time.
var errForkCrashed = errors.New("what shepherd forked crashed before it executed anything")

// forkCrashed reports whether that happened since the container was started. What is forked first crashes, so it
// is in the beginning of what was printed.
func (in *Instance) forkCrashed() bool {
	f, err := os.Open(in.logFile())
	if err != nil {
		return false
	}
	defer f.Close()
	text, _ := io.ReadAll(io.NewSectionReader(f, in.logStart, outputBytes))
	return bytes.Contains(text, []byte(crashSign)) && in.Alive() // else shepherd itself has
}

// lostByCrash reports whether a crash has cost a service, even one that no probe asks for: whether not all are well when
// shepherd answers.
func (in *Instance) lostByCrash(ctx context.Context) bool {
	if !in.forkCrashed() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, runnerTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		services, err := in.Shepherd().Services(ctx)
		if err == nil {
			return slices.ContainsFunc(expected(services, nil), func(s Service) bool { return s.problem(services) != "" })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}
