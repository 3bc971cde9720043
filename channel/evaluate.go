package channel

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// An Evaluator finds the channels of files that are programs, by having a Guix run them
// in a child process of its own. They run with the rights of the user, as for "guix
// pull": only for files one would pull from. The zero Evaluator is ready.
type Evaluator struct {
	Guix    []string      // the command; empty means "guix"
	Timeout time.Duration // 0 means one minute
	Memory  int64         // bytes of address space; 0 means 4 GiB
}

//go:embed evaluate.scm
var evaluateProgram []byte

// An EvaluationError says why a channels file came to nothing.
type EvaluationError struct {
	File   string
	Reason string
	Output string // the end of what the child wrote to standard error
}

func (e *EvaluationError) Error() string {
	text := fmt.Sprintf("evaluate %q: %s", e.File, e.Reason)
	if e.Output != "" {
		text += ":\n" + e.Output
	}
	return text
}

// Read is [ReadDescription] for any channels file: one that is not plain data
// is evaluated. The error is an *[EvaluationError] when that fails.
func (e *Evaluator) Read(ctx context.Context, name string) (List, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := ReadDescription(name, f)
	var program *NotDataError
	if errors.As(err, &program) {
		return e.evaluate(ctx, name)
	}
	return list, err
}

func (e *Evaluator) evaluate(ctx context.Context, name string) (List, error) {
	out, said, err := e.Run(ctx, evaluateProgram, name)
	if err != nil {
		return nil, err
	}
	return evaluated(name, out, said)
}

// Run has a Guix run a program on a file, whose absolute name is its argument. It returns
// what the program wrote, and the last lines of what it and the file said on standard
// error. The error is an *[EvaluationError] if the program failed or exceeded a limit.
func (e *Evaluator) Run(ctx context.Context, program []byte, name string) (out []byte, said string, err error) {
	timeout, memory := e.Timeout, e.Memory
	if timeout == 0 {
		timeout = time.Minute
	}
	if memory == 0 {
		memory = 4 << 30
	}
	dir, err := os.MkdirTemp("", "guixci-evaluate-")
	if err != nil {
		return nil, "", fmt.Errorf("evaluate %q: %w", name, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	script := filepath.Join(dir, "evaluate.scm")
	if err := os.WriteFile(script, program, 0o600); err != nil {
		return nil, "", fmt.Errorf("evaluate %q: %w", name, err)
	}
	absolute, err := filepath.Abs(name)
	if err != nil {
		return nil, "", fmt.Errorf("evaluate %q: %w", name, err)
	}
	limited, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it took longer than %v", timeout))
	defer cancel()
	out, said, err = e.run(limited, memory, script, absolute)
	if err != nil {
		return nil, said, &EvaluationError{File: name, Reason: err.Error(), Output: said}
	}
	return out, said, nil
}

// run runs the child. It and whatever it starts are killed when ctx ends.
func (e *Evaluator) run(ctx context.Context, memory int64, script, file string) ([]byte, string, error) {
	guix := e.Guix
	if len(guix) == 0 {
		guix = []string{"guix"}
	}
	if _, err := exec.LookPath(guix[0]); err != nil {
		return nil, "", fmt.Errorf("there is no Guix to evaluate it: %w", err)
	}
	const limit = `ulimit -v "$0" && exec "$@"`
	args := append([]string{"-c", limit, fmt.Sprint(memory >> 10)}, guix...)
	cmd := exec.CommandContext(ctx, "sh", append(args, "repl", "--", script, file)...)
	cmd.Env = append(os.Environ(), "GUIX_PACKAGE_PATH=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, said := &limitedBuffer{limit: maxDescription}, &limitedBuffer{limit: 64 << 10}
	cmd.Stdout, cmd.Stderr = out, said
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case out.full:
		err = errors.New("it wrote too much")
	case err != nil && strings.Contains(said.String(), "emory"):
		err = fmt.Errorf("it needed more than %d MiB of memory (%w)", memory>>20, err)
	}
	return out.Bytes(), lastLines(said.String(), 20), err
}

func evaluated(name string, out []byte, said string) (List, error) {
	v, err := sexp.NewReader(bytes.NewReader(out)).Next()
	rest, ok := sexp.Tagged(v, "channels")
	if err != nil || !ok {
		return nil, &EvaluationError{File: name, Reason: "its last value is not a list of channels", Output: said}
	}
	list := make(List, len(rest))
	for i, item := range rest {
		if list[i], err = evaluatedChannel(item); err != nil {
			return nil, &EvaluationError{File: name, Reason: err.Error(), Output: said}
		}
	}
	return list, nil
}

// evaluatedChannel reads (NAME URL BRANCH COMMIT (INTRODUCTION SIGNER)); #f is none.
func evaluatedChannel(v sexp.Value) (c Channel, err error) {
	fields, _ := sexp.Items(v)
	if len(fields) != 5 {
		return c, fmt.Errorf("%.60s is not a channel", v)
	}
	var texts [4]string
	for i := range texts {
		texts[i], _ = sexp.Text(fields[i])
	}
	c = Channel{Name: texts[0], URL: texts[1], Branch: texts[2], Commit: Commit(texts[3])}
	if c.Name == "" || c.URL == "" {
		return c, fmt.Errorf("channel %.60s lacks a name or a url", v)
	}
	intro, ok := sexp.Items(fields[4])
	if !ok || len(intro) != 2 {
		return c, nil
	}
	commit, _ := sexp.Text(intro[0])
	signer, _ := sexp.Text(intro[1])
	c.Introduction = &Introduction{}
	if c.Introduction.Commit, err = ParseCommit(commit); err == nil {
		c.Introduction.Signer, err = ParseFingerprint(signer)
	}
	return c, err
}

// A limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct {
	bytes.Buffer
	limit int
	full  bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		b.full = true
		return len(p), nil
	}
	return b.Buffer.Write(p)
}

var _ io.Writer = (*limitedBuffer)(nil)

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
