package inferior

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// ErrClosed says that a session is over: it was closed, or it broke. Which of
// the two, and why, is in the error that wraps it, a [*BrokenError] in the second case.
var ErrClosed = errors.New("inferior session is closed")

// A BrokenError is why a session ended without having been closed.
// It matches [ErrClosed].
type BrokenError struct {
	Cause  error  // what happened: the context's cause, the end of the child, rubbish in the reply
	Status string // how the child ended, such as "exit status 1"; empty if there is none
	Stderr string // the end of what it wrote to standard error
}

// Error gives the cause and the last lines of the child's messages.
func (e *BrokenError) Error() string {
	s := "inferior session broke: " + e.Cause.Error()
	if e.Status != "" {
		s += " (" + e.Status + ")"
	}
	for _, line := range lastLines(e.Stderr, 3) {
		s += "\n  " + line
	}
	return s
}

// Unwrap returns ErrClosed and the cause.
func (e *BrokenError) Unwrap() []error { return []error{ErrClosed, e.Cause} }

// A Session is a running inferior. Methods may be called concurrently;
// evaluations take turns, because the protocol has no request numbers.
type Session struct {
	turn    chan struct{} // holds one token during a request and its reply
	in      *sexp.Reader
	conn    io.ReadWriteCloser
	child   *process // nil if attached
	log     *slog.Logger
	wait    time.Duration
	Version [3]int // of the protocol the other side speaks; {0, 0, 0} for the first one

	mu    sync.Mutex // guards cause, err
	cause error      // first reason to give up, noted before the connection is cut
	err   error      // sticky; not nil once the session is over
}

// ahead is how many expressions [Session.EvalAll] sends before their turn:
// enough to hide the way to and fro, few enough to fit any pipe's buffer.
const ahead = 8

// Eval evaluates expr and returns its value: the one value; of none or several
// values, the list of them. An object that cannot be written is a [sexp.Opaque].
// A Scheme exception is returned as an [*Exception] and leaves the session usable.
// If ctx ends while the reply is awaited the two sides can no longer agree on
// whose turn it is: the child is killed, and this and all later calls return
// an error wrapping [ErrClosed].
func (s *Session) Eval(ctx context.Context, expr sexp.Value) (sexp.Value, error) {
	if err := s.take(ctx); err != nil {
		return nil, err
	}
	defer s.release()
	stop := context.AfterFunc(ctx, func() { s.abort(context.Cause(ctx)) })
	defer stop()

	if err := s.send(expr); err != nil {
		return nil, s.fail(err)
	}
	return s.receive()
}

// EvalAll evaluates exprs in their order and yields one result for each, as
// [Session.Eval] would return it. It sends a few ahead, so that the inferior never
// waits for us; they must therefore be short, a call rather than a program. An
// [*Exception] concerns one expression and the sequence goes on; any other
// error is the last. Nobody else has a turn until the sequence has ended;
// leaving it early waits for what was sent ahead.
func (s *Session) EvalAll(ctx context.Context, exprs iter.Seq[sexp.Value]) iter.Seq2[sexp.Value, error] {
	return func(yield func(sexp.Value, error) bool) {
		if err := s.take(ctx); err != nil {
			yield(nil, err)
			return
		}
		defer s.release()
		stop := context.AfterFunc(ctx, func() { s.abort(context.Cause(ctx)) })
		defer stop()
		s.pipeline(exprs, yield)
	}
}

func (s *Session) pipeline(exprs iter.Seq[sexp.Value], yield func(sexp.Value, error) bool) {
	next, end := iter.Pull(exprs)
	defer end()
	more, wanted, sent := true, true, 0
	var deaf error // it takes no more, but what it has answered is still to be read
	for {
		for more && wanted && deaf == nil && sent < ahead {
			var expr sexp.Value
			if expr, more = next(); !more {
				break
			}
			if deaf = s.send(expr); deaf == nil {
				sent++
			}
		}
		if sent == 0 {
			if deaf != nil && wanted {
				yield(nil, s.fail(deaf))
			}
			return
		}
		v, err := s.receive()
		sent--
		if wanted {
			wanted = yield(v, err)
		}
		if errors.Is(err, ErrClosed) {
			return
		}
	}
}

// take waits for our turn in a session that works.
func (s *Session) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("evaluate expression: %w", context.Cause(ctx))
	}
	err := s.Err()
	if err == nil && ctx.Err() != nil {
		err = fmt.Errorf("evaluate expression: %w", context.Cause(ctx)) // nothing was sent yet
	}
	if err != nil {
		s.release()
	}
	return err
}

func (s *Session) release() { <-s.turn }

func (s *Session) send(expr sexp.Value) error {
	_, err := io.WriteString(s.conn, expr.String()+"\n")
	return err
}

func (s *Session) receive() (sexp.Value, error) {
	reply, err := s.in.Next()
	if err != nil {
		return nil, s.fail(err)
	}
	v, err := decodeReply(reply)
	var exception *Exception
	if err != nil && !errors.As(err, &exception) {
		return nil, s.fail(err)
	}
	return v, err
}

// Err returns nil while the session can be used, then the error,
// wrapping [ErrClosed], that each later call returns.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// abort cuts the connection and kills the child; whoever reads or writes will
// fail, and report cause, unless there was one before: then it is not the first.
func (s *Session) abort(cause error) (first bool) {
	s.mu.Lock()
	if first = s.cause == nil; first {
		s.cause = cause
	}
	s.mu.Unlock()
	if s.child != nil {
		s.child.signal(sigKill)
	}
	s.conn.Close()
	return first
}

// fail ends the session because of err, unless a reason was known before, and
// returns the error that all later calls return. The child is gone after it.
func (s *Session) fail(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) {
		err = errors.New("the inferior ended")
		if s.child != nil { // it closed its output, or its input: let it say how it ended
			s.awaitEnd()
		}
	}
	first := s.abort(err)
	broken := &BrokenError{}
	var starved error
	if s.child != nil {
		broken.Status = s.child.status()
		broken.Stderr = s.child.stderr.String()
		starved = s.child.outOfMemory()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		broken.Cause = s.cause
		if first && starved != nil {
			broken.Cause = starved
		}
		s.err = broken
		s.log.Debug("inferior session broke", "cause", broken.Cause, "status", broken.Status)
	}
	return s.err
}

// awaitEnd gives a child that does not talk any more the time to end by itself.
func (s *Session) awaitEnd() {
	t := time.NewTimer(s.wait)
	defer t.Stop()
	select {
	case <-s.child.exited:
	case <-t.C:
	}
}

// Close ends the session: the inferior reads the end of its input, then is told
// by SIGTERM, then by SIGKILL, each after [Options].StopTimeout. An evaluation that is
// going on ends with it. Close waits for the child, may be called again, and
// always returns nil for a session that is over.
func (s *Session) Close() error {
	s.mu.Lock()
	if s.err == nil {
		s.err = fmt.Errorf("evaluate expression: %w", ErrClosed)
	}
	if s.cause == nil {
		s.cause = ErrClosed
	}
	s.mu.Unlock()
	if s.child == nil {
		s.conn.Close()
		return nil
	}
	s.conn.(*pipes).endInput()
	s.child.stop(s.wait)
	s.conn.Close()
	return nil
}
