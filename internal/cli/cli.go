// Package cli is what all drivers share: how a GNU program speaks to people.
//
// Data goes to standard output and nothing else does; messages go to standard error
// as "PROGRAM: cause"; a terminal gets a progress display, anything else plain
// lines. Exit codes are those of [ExitCode].
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
)

// The exit codes of all drivers.
const (
	OK      = 0 // everything as wanted
	Red     = 1 // a job, a pull, a probe is red
	Usage   = 2 // wrong usage or configuration
	Failure = 3 // the machinery failed, so the answer is unknown: try again
)

// A UsageError is a mistake in what the user typed or configured.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the mistake.
func (e *UsageError) Unwrap() error { return e.Err }

// A MisuseError is a mistake in the command line: "--help" tells how to do it.
type MisuseError struct{ Err error }

func (e *MisuseError) Error() string { return e.Err.Error() }

// Unwrap returns the mistake.
func (e *MisuseError) Unwrap() error { return e.Err }

// ErrRed is wrapped by errors that are answers: something is red.
var ErrRed = errors.New("red")

// ExitCode returns the status to exit with after err. An error may bring
// its own, as those of package container do.
func ExitCode(err error) int {
	var own interface{ ExitCode() int }
	var usage *UsageError
	var misuse *MisuseError
	switch {
	case err == nil:
		return OK
	case errors.As(err, &own):
		return own.ExitCode()
	case errors.As(err, &usage), errors.As(err, &misuse):
		return Usage
	case errors.Is(err, ErrRed):
		return Red
	}
	return Failure
}

// Hint returns what to do about err, where that can be guessed; else it is empty.
// An error that knows says so by a method Advice.
func Hint(err error) string {
	var knows interface{ Advice() string }
	if errors.As(err, &knows) && knows.Advice() != "" {
		return knows.Advice()
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "the disk is full: free some space and run the same command again, nothing is lost"
	case errors.Is(err, fs.ErrPermission):
		return "name a directory of your own with --state, or run it as the user whose that is"
	case errors.Is(err, context.Canceled):
		return "run the same command again to go on"
	}
	return ""
}

// Main runs a driver until it ends or is told to, by Ctrl-C, SIGTERM or the end of its
// terminal, and exits the process with its status. A second signal ends it at once.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) int) {
	ending := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		ending = append(ending, syscall.SIGHUP)
	}
	// A reader of our output that goes away, such as head, is an error of writing to it: dying
	// of it would leave behind what was started. Ignoring the signal would have children
	// ignore it, too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), ending...)
	context.AfterFunc(ctx, stop) // from then on signals have their default effect
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Complain writes err, and a hint where there is one, for people. A [MisuseError] is told in the
// words of GNU programs, whatever the words of the package that found it.
func Complain(stderr io.Writer, program string, err error) {
	var misuse *MisuseError
	if errors.As(err, &misuse) {
		fmt.Fprintf(stderr, "%s: %s\nTry '%s --help' for more information.\n", program, gnuWords(err), program)
		return
	}
	fmt.Fprintf(stderr, "%s: %v\n", program, err)
	if hint := Hint(err); hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
}

// What pflag says of values that are none.
var (
	cobraValue   = regexp.MustCompile(`invalid argument (".*") for "(?:-., )?(--[a-z-]+)" flag: `)
	numberSyntax = regexp.MustCompile(`: strconv\.\w+: .*`)
)

// gnuWords says what is wrong with a command line as GNU programs do.
func gnuWords(err error) string {
	text := strings.NewReplacer(
		"unknown flag: ", "unrecognized option ", "unknown shorthand flag: ", "unrecognized option ", "flag needs an argument: --", "option requires an argument: --",
		"flag provided but not defined: -", "unrecognized option --",
		"flag needs an argument: -", "option requires an argument: --",
		"for flag -", "for option --", "for -", "for option --", ": parse error", "",
	).Replace(err.Error())
	text = cobraValue.ReplaceAllString(text, `invalid value $1 for option $2: `)
	return numberSyntax.ReplaceAllString(text, "")
}

// Directory is the function of a [flag.FlagSet.Func] for a directory, which is made
// later if it does not exist.
func Directory(name *string) func(string) error {
	return func(value string) error {
		if value == "" {
			return errors.New("it must name a directory")
		}
		if info, err := os.Stat(value); err == nil && !info.IsDir() {
			return errors.New("that is not a directory")
		}
		*name = value
		return nil
	}
}

// StateDir returns the directory in which a program keeps its state unless it is told
// otherwise: below $XDG_STATE_HOME or, without that, ~/.local/state.
func StateDir(program string) string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, program)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/var/lib"
	}
	return filepath.Join(home, ".local", "state", program)
}

// Version returns the text of "--version".
func Version(program string) string {
	version := "(development)"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		version = info.Main.Version
	}
	return fmt.Sprintf("%s (guixci) %s\nLicense Apache-2.0\n", program, version)
}
