package inferior_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// start opens a session on the Guix at hand and closes it after the test.
func start(t *testing.T, o inferior.Options) *inferior.Session {
	t.Helper()
	s, err := inferior.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// expr is the datum written in text.
func expr(t *testing.T, text string) sexp.Value {
	t.Helper()
	v, err := sexp.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestGuixValues(t *testing.T) {
	guixtest.Require(t)
	s := start(t, inferior.Options{})
	if s.Version != [3]int{0, 1, 1} {
		t.Errorf("version %v", s.Version)
	}
	for _, c := range []struct{ in, want string }{
		{`(+ 1 2)`, `3`},
		{`(values 1 "two" 'three)`, `(1 "two" three)`},
		{`(values)`, `()`},
		{`'(1 . 2)`, `(1 . 2)`},
		{`(list 1/3 1.5 #\a #:key #t '())`, `(1/3 1.5 #\a #:key #t ())`},
		{`"a\nb\"λ"`, `"a\nb\"λ"`},
		{`(begin (use-modules (guix packages)) (package? 1))`, `#f`},
		{`(define x 12)`, `#<unspecified>`},
		{`(* x x)`, `144`},
		{`(vector 1 (list "x"))`, `#(1 ("x"))`},
	} {
		v, err := s.Eval(t.Context(), expr(t, c.in))
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
		} else if v.String() != c.want {
			t.Errorf("%s gives %s, want %s", c.in, v, c.want)
		}
	}
}

// A pair that holds a record is written raw, which no reader takes back.
func TestGuixOpaque(t *testing.T) {
	guixtest.Require(t)
	s := start(t, inferior.Options{})
	for in, prefix := range map[string]string{
		`(@ (guix packages) package?)`:                            "#<procedure ",
		`(list (current-module) (cons 1 (current-error-port)) 7)`: "(#<directory (guile-user) ",
		`(begin (use-modules (gnu packages base)) hello)`:         "#<package hello@",
	} {
		v, err := s.Eval(t.Context(), expr(t, in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if !strings.HasPrefix(v.String(), prefix) {
			t.Errorf("%s gives %s", in, v)
		}
	}
	if v, err := s.Eval(t.Context(), sexp.Int(5)); err != nil || v != sexp.Value(sexp.Int(5)) {
		t.Errorf("the session lost its place: %v %v", v, err)
	}
}

func TestGuixException(t *testing.T) {
	guixtest.Require(t)
	s := start(t, inferior.Options{})
	for _, c := range []struct{ in, key, message string }{
		{`(car 5)`, "wrong-type-arg", `Wrong type (expecting pair): 5`},
		{`linux-libre-7.2`, "unbound-variable", "Unbound variable: linux-libre-7.2"},
		{`(error "it is broken:" 'x "y")`, "misc-error", `it is broken: x "y"`},
		{`(throw 'my-key 1 "two" (current-error-port))`, "my-key", ""},
		{`(use-modules (no such module))`, "misc-error", "no code for module (no such module)"},
		{`(exit 3)`, "quit", "3"},
		{`(raise-exception 42)`, "%exception", "42"},
	} {
		_, err := s.Eval(t.Context(), expr(t, c.in))
		var e *inferior.Exception
		if !errors.As(err, &e) {
			t.Errorf("%s: %v, want an exception", c.in, err)
			continue
		}
		if e.Key != c.key || c.message != "" && e.Message() != c.message {
			t.Errorf("%s throws %q %q, want %q %q", c.in, e.Key, e.Message(), c.key, c.message)
		}
		if len(e.Stack) == 0 {
			t.Errorf("%s: no stack", c.in)
		}
	}
	if _, err := s.Eval(t.Context(), sexp.Int(1)); err != nil {
		t.Errorf("after exceptions: %v", err)
	}
}

func TestGuixExceptionKnowsWhere(t *testing.T) {
	guixtest.Require(t)
	s := start(t, inferior.Options{})
	_, err := s.Eval(t.Context(), expr(t, `(begin (use-modules (guix base32)) (nix-base32-string->bytevector "not base 32!"))`))
	var e *inferior.Exception
	if !errors.As(err, &e) {
		t.Fatalf("%v, want an exception", err)
	}
	where, ok := e.Where()
	if !ok || !strings.HasSuffix(where.File, "guix/base32.scm") || where.Line < 2 {
		t.Errorf("thrown at %+v in %+v", where, e.Stack)
	}
}

// What evaluated code and its children print must not get into the protocol.
func TestGuixOutputKeptApart(t *testing.T) {
	guixtest.Require(t)
	var out syncBuffer
	s := start(t, inferior.Options{Stderr: &out})
	for in, want := range map[string]string{
		`(begin (display "(values (value 0))\n") (force-output) 1)`: "1",
		`(begin (system* "sh" "-c" "echo '(values (value 9))'") 2)`: "2",
		`(begin (display "x" (fdopen 1 "w")) 3)`:                    "3",
		`(eof-object? (read))`:                                      "#t",
		`(begin (system* "cat") 5)`:                                 "5",
	} {
		v, err := s.Eval(t.Context(), expr(t, in))
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		if v.String() != want {
			t.Errorf("%s gives %s", in, v)
		}
	}
	s.Close()
	for _, want := range []string{"(values (value 0))", "(values (value 9))"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q did not arrive on standard error: %q", want, out.String())
		}
	}
}

func TestGuixCancelKills(t *testing.T) {
	guixtest.Require(t)
	reason := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	s := start(t, inferior.Options{Stderr: writerFunc(func([]byte) { cancel(reason) })})
	pid := pidOf(t, s)
	_, err := s.Eval(ctx, expr(t, `(begin (display "busy") (force-output) (let loop () (loop)))`))
	if !errors.Is(err, inferior.ErrClosed) || !errors.Is(err, reason) {
		t.Errorf("%v, want ErrClosed because of enough", err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the child is still there: %v", err)
	}
	if _, err := s.Eval(t.Context(), sexp.Int(1)); !errors.Is(err, inferior.ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
}

func TestGuixKilled(t *testing.T) {
	guixtest.Require(t)
	s := start(t, inferior.Options{})
	if _, err := s.Eval(t.Context(), expr(t, `(begin (display "last words" (current-error-port)) (newline (current-error-port)))`)); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pidOf(t, s), syscall.SIGKILL)
	_, err := s.Eval(t.Context(), expr(t, `(sleep 1000)`))
	var broken *inferior.BrokenError
	if !errors.As(err, &broken) || !errors.Is(err, inferior.ErrClosed) {
		t.Fatalf("%v, want a BrokenError", err)
	}
	if broken.Status != "signal: killed" || !strings.Contains(broken.Stderr, "last words") {
		t.Errorf("%+v", broken)
	}
}

// Closing stops a child that will not listen to the end of its input.
func TestGuixCloseWhileBusy(t *testing.T) {
	guixtest.Require(t)
	s := start(t, inferior.Options{StopTimeout: 50 * time.Millisecond})
	pid := pidOf(t, s)
	if _, err := s.Eval(t.Context(), expr(t, `(sigaction SIGTERM SIG_IGN)`)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := s.Eval(context.Background(), expr(t, `(let loop () (loop))`))
		done <- err
	}()
	s.Close()
	if err := <-done; !errors.Is(err, inferior.ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the child is still there: %v", err)
	}
}

func TestGuixEvalAll(t *testing.T) {
	guixtest.Require(t)
	s := start(t, inferior.Options{})
	exprs := func(yield func(sexp.Value) bool) {
		for i := range 100 {
			e := sexp.L(sexp.Symbol("/"), sexp.Int(100), sexp.Int(i%10))
			if !yield(e) {
				return
			}
		}
	}
	n, exceptions := 0, 0
	for v, err := range s.EvalAll(t.Context(), exprs) {
		var e *inferior.Exception
		switch {
		case errors.As(err, &e):
			exceptions++
		case err != nil:
			t.Fatal(err)
		case n%10 == 5 && v.String() != "20":
			t.Errorf("reply %d is %v", n, v)
		}
		n++
	}
	if n != 100 || exceptions != 10 {
		t.Errorf("%d replies, %d exceptions", n, exceptions)
	}
	for range s.EvalAll(t.Context(), exprs) {
		break
	}
	if v, err := s.Eval(t.Context(), expr(t, `"still in step"`)); err != nil || v.String() != `"still in step"` {
		t.Errorf("after leaving early: %v %v", v, err)
	}
}

func TestGuixStartFails(t *testing.T) {
	guixtest.Require(t)
	_, err := inferior.Start(t.Context(), inferior.Options{Args: []string{"--no-such-option"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-option") || !errors.Is(err, inferior.ErrClosed) {
		t.Errorf("%v, want what guix said", err)
	}
}

func pidOf(t *testing.T, s *inferior.Session) int {
	t.Helper()
	v, err := s.Eval(t.Context(), sexp.L(sexp.Symbol("getpid")))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(v.String())
	if err != nil {
		t.Fatal(err)
	}
	return pid
}
