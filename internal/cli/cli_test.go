package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/genenetwork/guixci/internal/cli/clitest"
)

type ownError struct{ code int }

func (e *ownError) Error() string { return "its own" }
func (e *ownError) ExitCode() int { return e.code }

type knowingError struct{ advice string }

func (e *knowingError) Error() string  { return "knowing" }
func (e *knowingError) Advice() string { return e.advice }

func TestExitCode(t *testing.T) {
	tests := []struct {
		err  error
		want int
	}{
		{nil, OK},
		{errors.New("no daemon"), Failure},
		{context.Canceled, Failure},
		{fmt.Errorf("x is %w", ErrRed), Red},
		{fmt.Errorf("x: %w", &UsageError{errors.New("y")}), Usage},
		{fmt.Errorf("x: %w", &ownError{12}), 12},
		// Cleaning up went wrong as well; the answer stays.
		{errors.Join(ErrRed, errors.New("close")), Red},
	}
	for _, test := range tests {
		if got := ExitCode(test.err); got != test.want {
			t.Errorf("%v: exit code %d, want %d", test.err, got, test.want)
		}
	}
}

func TestHint(t *testing.T) {
	tests := []struct {
		err  error
		want string // part of it; empty if there is none
	}{
		{errors.New("x"), ""},
		{fmt.Errorf("x: %w", &knowingError{"do this"}), "do this"},
		{errors.Join(&knowingError{}, syscall.ENOSPC), "free some space"},
		{&fs.PathError{Op: "write", Path: "f", Err: syscall.EDQUOT}, "free some space"},
		{&fs.PathError{Op: "mkdir", Path: "d", Err: syscall.EACCES}, "--state"},
		{fmt.Errorf("x: %w", context.Canceled), "again"},
	}
	for _, test := range tests {
		got := Hint(test.err)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%v: hint %q, want %q", test.err, got, test.want)
		}
		var b bytes.Buffer
		Complain(&b, "prog", test.err)
		if lines := strings.Count(b.String(), "hint: "); lines != min(1, len(test.want)) || !strings.HasPrefix(b.String(), "prog: ") {
			t.Errorf("%v: complaint %q", test.err, &b)
		}
	}
}

func TestMisuse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ arg, want string }{
		{"--frob", "prog: unrecognized option --frob\n"},
		{"--state", "prog: option requires an argument: --state\n"},
		{"--state=", "prog: invalid value \"\" for option --state: it must name a directory\n"},
		{"--state=" + file, "for option --state: that is not a directory\n"},
		{"--json=maybe", "prog: invalid boolean value \"maybe\" for option --json\n"},
		{"--jobs=x", "prog: invalid value \"x\" for option --jobs\n"},
	}
	for _, test := range tests {
		flags := flag.NewFlagSet("prog", flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		var state string
		flags.Func("state", "", Directory(&state))
		flags.Bool("json", false, "")
		flags.Int("jobs", 1, "")
		err := flags.Parse([]string{test.arg})
		if err == nil {
			t.Errorf("%s: no error", test.arg)
			continue
		}
		var b bytes.Buffer
		err = &MisuseError{err}
		Complain(&b, "prog", err)
		if code := ExitCode(err); code != Usage || !strings.Contains(b.String(), test.want) ||
			!strings.HasSuffix(b.String(), "\nTry 'prog --help' for more information.\n") {
			t.Errorf("%s: %d %q, want %q", test.arg, code, &b, test.want)
		}
	}
}

func TestDirectory(t *testing.T) {
	var got string
	for _, name := range []string{t.TempDir(), filepath.Join(t.TempDir(), "not", "yet")} {
		if err := Directory(&got)(name); err != nil || got != name {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
}

func TestStateDir(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/xdg")
	if got := StateDir("guixci"); got != "/xdg/guixci" {
		t.Error(got)
	}
	t.Setenv("XDG_STATE_HOME", "")
	t.Setenv("HOME", "/home/a")
	if got := StateDir("guixci"); got != "/home/a/.local/state/guixci" {
		t.Error(got)
	}
}

// What is no terminal gets the lines and no control characters.
func TestProgressInAFile(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b)
	p.Step("one")
	p.Detail("%d of %d", 1, 2)
	p.Line("done %s", "well")
	p.Done()
	if b.String() != "done well\n" {
		t.Errorf("%q", &b)
	}
	if got := clip(strings.Repeat("ä", 100) + "\nmore"); len([]rune(got)) != 60 || strings.Contains(got, "more") {
		t.Errorf("%q", got)
	}
}

// On a terminal there is what goes on just now, the newest line of what a program prints too, and
// in the end only the lines.
func TestProgressOnATerminal(t *testing.T) {
	terminal := clitest.NewTerminal(t)
	p := NewProgress(terminal.File)
	p.Step("sample")
	terminal.Await("sample: 1 of 2 jobs", func() { p.Detail("%d of %d jobs", 1, 2) })
	terminal.Await("sample: building it", func() {
		io.WriteString(p, "first\n\x1b[K▕███▏\rbuilding\t/gnu/store/09hwjnf10095ajxx8idsyz2wvrw1z8ci-it\n")
	})
	p.Line("done %s", "well")
	p.Done()
	terminal.Await("done well", nil)
}

// TestMain makes the test binary a driver when TestSignals runs it.
func TestMain(m *testing.M) {
	if os.Getenv("CLI_TEST_DRIVER") != "" {
		Main(func(ctx context.Context, _ []string, stdout, stderr io.Writer) int {
			fmt.Fprintln(stderr, "ready")
			<-ctx.Done()
			_, err := fmt.Fprintln(stdout, "nobody reads this")
			fmt.Fprintln(stderr, "cleaned up", errors.Is(err, syscall.EPIPE))
			return Failure
		})
	}
	os.Exit(m.Run())
}

// Whatever ends a driver, it cleans up, even if nobody reads what it prints.
func TestSignals(t *testing.T) {
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
	for _, sig := range signals { // what is caught here, the driver does not ignore, as it would under nohup
		caught := make(chan os.Signal, 1)
		signal.Notify(caught, sig)
		defer signal.Stop(caught)
	}
	for _, sig := range signals {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "CLI_TEST_DRIVER=1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		messages, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.Close()
		lines := bufio.NewScanner(messages)
		lines.Scan()
		if err := cmd.Process.Signal(sig); err != nil {
			t.Error(err)
		}
		lines.Scan()
		if lines.Text() != "cleaned up true" {
			t.Errorf("%v: %q, want that it cleans up", sig, lines.Text())
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != Failure {
			t.Errorf("%v: exit code %d, want %d", sig, code, Failure)
		}
	}
}
