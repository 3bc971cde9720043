package inferior_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/inferiortest"
	"github.com/genenetwork/guixci/inferior/sexp"
)

func TestMain(m *testing.M) {
	inferiortest.Main(m, map[string]inferiortest.Program{
		"echo":     inferiortest.Script{Answer: echo}.Program(),
		"old":      inferiortest.Script{Greeting: "(repl-version 0 0)", Answer: echo}.Program(),
		"rubbish":  inferiortest.Script{Answer: func(sexp.Value) string { return "what did you say? )" }}.Program(),
		"stranger": inferiortest.Script{Greeting: "Welcome to GNU Guile", Answer: echo}.Program(),
		"silent":   silent,
		"dies":     dies,
		"parts":    parts,
		"stubborn": stubborn,
		"evaluate": scriptedEvaluation,
		"grows":    scriptedGrowth,
		"stale":    scriptedStaleness,
		"eats":     inferiortest.Script{Answer: eats}.Program(),
		"pull":     scriptedPull,
		"system":   scriptedSystem,
	})
}

// echo answers with the expression itself; (throw KEY) throws, (hang) never answers.
func echo(expr sexp.Value) string {
	if rest, ok := sexp.Tagged(expr, "throw"); ok {
		return inferiortest.Exception(rest[0].String(), sexp.Bool(false), sexp.String("thrown: ~S ~a"), sexp.L(sexp.String("x"), sexp.String("y")))
	}
	if _, ok := sexp.Tagged(expr, "hang"); ok {
		return ""
	}
	return inferiortest.Value(expr)
}

// silent never greets.
func silent(_ []string, stdin io.Reader, _, _ io.Writer) int {
	io.Copy(io.Discard, stdin)
	return 0
}

// greet begins a session, and returns what reads the expressions.
func greet(stdin io.Reader, stdout io.Writer) *sexp.Reader {
	fmt.Fprintln(stdout, inferiortest.Greeting)
	r := sexp.NewReader(stdin)
	r.Next()
	r.Next()
	fmt.Fprintln(stdout, inferiortest.Value(sexp.Int(0)))
	return r
}

// dies at the first expression after its greeting, with a message.
func dies(_ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	r := greet(stdin, stdout)
	r.Next()
	fmt.Fprintln(stderr, "out of luck")
	return 9
}

// parts with a message after its first answer.
func parts(_ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	r := greet(stdin, stdout)
	if expr, err := r.Next(); err == nil {
		fmt.Fprintln(stdout, inferiortest.Value(expr))
	}
	fmt.Fprintln(stderr, "out of luck")
	return 9
}

// stubborn ignores the end of its input and SIGTERM.
func stubborn(_ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGTERM)
	inferiortest.Script{Answer: echo}.Serve(stdin, stdout)
	for {
		syscall.Pause()
	}
}

// attach opens a session on a script in memory.
func attach(t *testing.T, s inferiortest.Script) *inferior.Session {
	t.Helper()
	session, err := inferior.Attach(t.Context(), s.Pipe(), inferior.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return session
}

func TestEval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := attach(t, inferiortest.Script{Answer: echo})
		defer s.Close()
		if v, err := s.Eval(t.Context(), sexp.String("λ \"quoted\"")); err != nil || v != sexp.Value(sexp.String("λ \"quoted\"")) {
			t.Errorf("%v %v", v, err)
		}
		_, err := s.Eval(t.Context(), sexp.L(sexp.Symbol("throw"), sexp.Symbol("my-error")))
		var e *inferior.Exception
		if !errors.As(err, &e) || e.Error() != `my-error: thrown: "x" y` {
			t.Errorf("%v", err)
		}
		if err := s.Err(); err != nil {
			t.Errorf("an exception broke the session: %v", err)
		}
	})
}

func TestEvalTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := attach(t, inferiortest.Script{Answer: echo})
		defer s.Close()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if v, err := s.Eval(t.Context(), sexp.Int(i)); err != nil || v != sexp.Value(sexp.Int(i)) {
					t.Errorf("%d: %v %v", i, v, err)
				}
			})
		}
		wg.Wait()
	})
}

// Who gives up while waiting for a turn has not sent anything: the session goes on.
func TestCancelWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, answer := make(chan struct{}), make(chan struct{})
		s := attach(t, inferiortest.Script{Answer: func(expr sexp.Value) string {
			close(begun)
			<-answer
			return inferiortest.Value(expr)
		}})
		defer s.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Eval(t.Context(), sexp.Int(1)); err != nil {
				t.Error(err)
			}
		})
		<-begun
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Eval(ctx, sexp.Int(2)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, inferior.ErrClosed) {
			t.Errorf("%v, want the deadline alone", err)
		}
		close(answer)
		wg.Wait()
		if err := s.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestCancelInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := attach(t, inferiortest.Script{Answer: echo})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, ctx := range []context.Context{ctx, t.Context()} { // the second finds it broken
			_, err := s.Eval(ctx, sexp.L(sexp.Symbol("hang")))
			if !errors.Is(err, inferior.ErrClosed) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want ErrClosed because of the deadline", err)
			}
		}
	})
}

func TestEvalAllOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := attach(t, inferiortest.Script{Answer: echo})
		defer s.Close()
		i := 0
		for v, err := range s.EvalAll(t.Context(), numbers(50)) {
			if err != nil || v != sexp.Value(sexp.Int(i)) {
				t.Errorf("%d: %v %v", i, v, err)
			}
			i++
		}
		if i != 50 {
			t.Errorf("%d replies", i)
		}
	})
}

// The consumer may stop early, and the session is in step afterwards.
func TestEvalAllStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := attach(t, inferiortest.Script{Answer: echo})
		defer s.Close()
		for range s.EvalAll(t.Context(), numbers(50)) {
			break
		}
		if v, err := s.Eval(t.Context(), sexp.Symbol("after")); err != nil || v != sexp.Value(sexp.Symbol("after")) {
			t.Errorf("%v %v", v, err)
		}
	})
}

func numbers(n int) func(func(sexp.Value) bool) {
	return func(yield func(sexp.Value) bool) {
		for i := range n {
			if !yield(sexp.Int(i)) {
				return
			}
		}
	}
}

// An old Guix is not told our version, and its exceptions have another shape.
func TestProtocol00(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		s := attach(t, inferiortest.Script{Greeting: "(repl-version 0 0)", Answer: func(expr sexp.Value) string {
			seen = append(seen, expr.String())
			return `(exception misc-error (value #f) (value "old ~a") (value (style)) (value #f))`
		}})
		defer s.Close()
		_, err := s.Eval(t.Context(), sexp.Symbol("x"))
		var e *inferior.Exception
		if !errors.As(err, &e) || e.Message() != "old style" || len(e.Stack) != 0 {
			t.Errorf("%v", err)
		}
		if s.Version != [3]int{0, 0, 0} || strings.Join(seen, " ") != "x" {
			t.Errorf("version %v, seen %v", s.Version, seen)
		}
	})
}

func TestStartProgram(t *testing.T) {
	for _, name := range []string{"echo", "old"} {
		s, err := inferior.Start(t.Context(), inferior.Options{Program: inferiortest.Path(t, name)})
		if err != nil {
			t.Fatal(err)
		}
		if v, err := s.Eval(t.Context(), sexp.Int(7)); err != nil || v != sexp.Value(sexp.Int(7)) {
			t.Errorf("%s: %v %v", name, v, err)
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		if _, err := s.Eval(t.Context(), sexp.Int(7)); !errors.Is(err, inferior.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func TestStartFails(t *testing.T) {
	_, err := inferior.Start(t.Context(), inferior.Options{Program: "/nonexistent/guix"})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such program: %v", err)
	}
	_, err = inferior.Start(t.Context(), inferior.Options{Program: inferiortest.Path(t, "stranger")})
	if err == nil || !strings.Contains(err.Error(), "no greeting") {
		t.Errorf("another language: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = inferior.Start(ctx, inferior.Options{Program: inferiortest.Path(t, "silent")})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no greeting: %v", err)
	}
}

func TestBroken(t *testing.T) {
	for name, want := range map[string]string{
		"rubbish": "reply \"what\" is neither values nor an exception",
		"dies":    "the inferior ended (exit status 9)\n  out of luck",
	} {
		s, err := inferior.Start(t.Context(), inferior.Options{Program: inferiortest.Path(t, name), StopTimeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Eval(t.Context(), sexp.Int(1))
		if !errors.Is(err, inferior.ErrClosed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want ErrClosed and %s", name, err, want)
		}
		_, again := s.Eval(t.Context(), sexp.Int(1))
		if again != err {
			t.Errorf("%s: %v, then %v", name, err, again)
		}
		s.Close()
	}
}

func TestCloseStubborn(t *testing.T) {
	s, err := inferior.Start(t.Context(), inferior.Options{
		Program: inferiortest.Path(t, "stubborn"), StopTimeout: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	s.Close() // returns only when it is gone
	if _, err := s.Eval(t.Context(), sexp.Int(1)); !errors.Is(err, inferior.ErrClosed) {
		t.Errorf("%v", err)
	}
}
