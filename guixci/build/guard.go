package build

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// A limitError is the reason a build was stopped: it went on too long in some way.
type limitError struct {
	cause Cause
	limit string
}

func (e *limitError) Error() string { return fmt.Sprintf("%s: stopped after %s", e.cause, e.limit) }

// A guard stands between a builder and its log, and ends the build when a
// limit is reached or the log cannot be kept.
type guard struct {
	log    io.Writer
	limits Limits
	cancel context.CancelCauseFunc

	mu      sync.Mutex // guards the following
	written int64
	telling telling
	silence *time.Timer // nil without limit
	timeout *time.Timer // nil without limit
}

func newGuard(log io.Writer, limits Limits, cancel context.CancelCauseFunc) *guard {
	g := &guard{log: log, limits: limits, cancel: cancel}
	g.silence = g.after(Silent, limits.MaxSilent, "%v without output")
	g.timeout = g.after(TimedOut, limits.Timeout, "%v")
	return g
}

func (g *guard) after(cause Cause, d time.Duration, limit string) *time.Timer {
	if d <= 0 {
		return nil
	}
	return time.AfterFunc(d, func() { g.cancel(&limitError{cause, fmt.Sprintf(limit, d)}) })
}

// Write passes on what the builder prints.
func (g *guard) Write(text []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.silence != nil {
		g.silence.Reset(g.limits.MaxSilent)
	}
	g.written += int64(len(text))
	if g.limits.MaxLog > 0 && g.written > g.limits.MaxLog {
		err := &limitError{LogTooLong, fmt.Sprintf("%d bytes of log", g.limits.MaxLog)}
		g.cancel(err)
		return 0, err
	}
	g.telling.write(text)
	n, err := g.log.Write(text)
	if err != nil {
		g.cancel(&limitError{surroundings(err), fmt.Sprintf("its log could not be written: %v", err)})
	}
	return n, err
}

// stop is called when the builder has ended.
func (g *guard) stop() {
	for _, t := range []*time.Timer{g.silence, g.timeout} {
		if t != nil {
			t.Stop()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.telling.end()
	if g.silence != nil {
		g.silence.Stop() // a late Write may have set it again
	}
}
