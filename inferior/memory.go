package inferior

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

// errMemory is why a session was ended that used far more memory than it may.
var errMemory = errors.New("too much memory")

// resident returns how many bytes of memory the child of a session occupies,
// 0 if that cannot be told.
func (s *Session) resident() int64 {
	if s.child == nil {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.child.cmd.Process.Pid))
	fields := bytes.Fields(text)
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// guardInterval is how often a session's memory is looked at: Guile fills some
// hundred megabytes in that time.
const guardInterval = 100 * time.Millisecond

// guard cancels once the session occupies more than most bytes. The function
// returned ends the guard, and waits for that.
func (s *Session) guard(most int64, cancel context.CancelCauseFunc) (end func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(guardInterval)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if n := s.resident(); n > most {
					cancel(fmt.Errorf("%w: %d MiB resident, at most %d allowed", errMemory, n>>20, most>>20))
					return
				}
			}
		}
	}()
	return func() {
		close(stop)
		<-ended
	}
}
