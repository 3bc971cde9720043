// Package inferiortest is an inferior without Guix: it says what a script tells it to.
//
//	func TestMain(m *testing.M) {
//		inferiortest.Main(m, map[string]inferiortest.Program{
//			"polite": inferiortest.Script{Answer: func(expr sexp.Value) string {
//				return inferiortest.Value(sexp.Int(42))
//			}}.Program(),
//		})
//	}
//
//	s, err := inferior.Start(ctx, inferior.Options{Program: inferiortest.Path(t, "polite")})
//
// A program is the test binary itself, started again, so that it is a real
// child that can be killed; [Script.Pipe] is the same in memory, for package testing/synctest.
package inferiortest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A Program is the main function of a stand-in for guix. It gets the
// arguments after its name, and returns the exit status.
type Program func(args []string, stdin io.Reader, stdout, stderr io.Writer) int

// variable names the program that a test binary is to be.
const variable = "GUIXCI_INFERIORTEST_PROGRAM"

// Main runs the tests, unless the test binary was started by one of them as a
// program: then it is that. Call it from TestMain; it does not return.
func Main(m *testing.M, programs map[string]Program) {
	name, ok := os.LookupEnv(variable)
	if !ok {
		os.Exit(m.Run())
	}
	program, ok := programs[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "inferiortest: no program %q\n", name)
		os.Exit(127)
	}
	os.Exit(program(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Path returns the file name of a program given to [Main], to be run in place of guix.
func Path(t testing.TB, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "guix")
	// A program built with the race detector would take a second to end.
	text := fmt.Sprintf("#!/bin/sh\nexport GORACE=atexit_sleep_ms=0\n%s=%s exec %s \"$@\"\n", variable, quote(name), quote(self))
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// quote makes a word of the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// A Script is what an inferior says.
type Script struct {
	// Greeting is the first line; empty means that of protocol 0.1.1.
	Greeting string
	// Answer returns the reply to an expression, a line as [Value] and
	// [Exception] make it, without newline. An empty one is not sent. The
	// expression by which a session redirects output is not shown to it.
	Answer func(expr sexp.Value) string
}

// Greeting is that of Guix since 2020.
const Greeting = "(repl-version 0 1 1)"

// Value is the reply that an expression has the given values.
func Value(values ...sexp.Value) string {
	l := sexp.L(sexp.Symbol("values"))
	for _, v := range values {
		l.Items = append(l.Items, sexp.L(sexp.Symbol("value"), v))
	}
	return l.String()
}

// Exception is the reply that an expression has thrown, in protocol 0.1.1 and without a stack.
func Exception(key string, args ...sexp.Value) string {
	l := sexp.L(sexp.Symbol("arguments"), sexp.Symbol(key))
	for _, a := range args {
		l.Items = append(l.Items, sexp.L(sexp.Symbol("value"), a))
	}
	return sexp.L(sexp.Symbol("exception"), l, sexp.L(sexp.Symbol("stack"))).String()
}

// Serve greets and answers until the end of the input.
func (s Script) Serve(in io.Reader, out io.Writer) error {
	greeting := s.Greeting
	if greeting == "" {
		greeting = Greeting
	}
	if _, err := fmt.Fprintln(out, greeting); err != nil {
		return err
	}
	r := sexp.NewReader(in)
	greeted := false
	for {
		expr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		reply := ""
		switch {
		case isVersion(expr): // answered by nothing
		case !greeted: // where output goes
			reply, greeted = Value(sexp.Bool(true)), true
		default:
			reply = s.Answer(expr)
		}
		if reply == "" {
			continue
		}
		if _, err := fmt.Fprintln(out, reply); err != nil {
			return err
		}
	}
}

// isVersion recognises (() repl-version …).
func isVersion(expr sexp.Value) bool {
	items, _ := sexp.Items(expr)
	return len(items) > 1 && items[1] == sexp.Value(sexp.Symbol("repl-version"))
}

// Program returns a guix that does nothing but follow the script on its standard input and output.
func (s Script) Program() Program {
	return func(_ []string, stdin io.Reader, stdout, stderr io.Writer) int {
		if err := s.Serve(stdin, stdout); err != nil {
			fmt.Fprintln(stderr, "inferiortest:", err)
			return 1
		}
		return 0
	}
}
