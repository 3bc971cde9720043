// Package demo shows guixci doing its whole job on the sample repositories, with
// the Guix of this machine, and checks every step against the real thing.
//
//	results, err := demo.Run(ctx, demo.Options{State: dir})
//
// It is the story of a project whose repository is a channel: a commit is locked,
// authenticated, pulled, evaluated, built, offered as substitutes and run in a
// container; a commit breaks the channel, the next one repairs it; the container is upgraded,
// and a generation that does not come up is taken back.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/internal/filelock"
)

// Options say how the story is told.
type Options struct {
	// State is the directory for everything the demo makes. Required. It must be
	// empty, missing, or an earlier demo's, which is then started over.
	State string
	// Keep leaves the container and the server up until ctx ends.
	Keep bool
	// JSON gets one line for each step, as it ends; nil gets none.
	JSON io.Writer
	// Progress shows people what goes on. Required.
	Progress *cli.Progress
	// Logger gets what the library logs; nil discards.
	Logger *slog.Logger
}

// A Result is how one step went.
type Result struct {
	Step    string
	OK      bool
	Seconds float64
	// Found is what the step found: a struct, whose fields become part of the JSON
	// object, with a String method for people. Nil if it failed early.
	Found fmt.Stringer
	Err   error // why it is not OK
}

// Interrupted reports whether it is not OK only because it was told to end.
func (r Result) Interrupted() bool { return errors.Is(r.Err, context.Canceled) }

// MarshalJSON returns one object: step, ok, seconds, and what was found.
func (r Result) MarshalJSON() ([]byte, error) {
	message := ""
	if r.Err != nil {
		message = r.Err.Error()
	}
	head, err := json.Marshal(struct {
		Step    string  `json:"step"`
		OK      bool    `json:"ok"`
		Seconds float64 `json:"seconds"`
		Error   string  `json:"error,omitempty"`
	}{r.Step, r.OK, float64(int(r.Seconds*1000)) / 1000, message})
	if err != nil || r.Found == nil {
		return head, err
	}
	found, err := json.Marshal(r.Found)
	if err != nil || len(found) <= 2 || found[0] != '{' {
		return head, err
	}
	return append(append(head[:len(head)-1], ','), found[1:]...), nil
}

// mark is the file that tells a demo's state directory from any other.
const mark = ".guixci-demo"

// Run tells the whole story. It returns a result for each step that was begun,
// and an error if one of them was not as it should be or ctx ended. When it returns,
// nothing it started is left, neither process nor mount.
func Run(ctx context.Context, o Options) (results []Result, err error) {
	unlock, err := prepare(o.State)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s := &story{o: o}
	defer func() { err = errors.Join(err, s.end()) }()
	for _, step := range s.steps() {
		r := s.run(ctx, step)
		results = append(results, r)
		if r.Err != nil {
			return results, fmt.Errorf("step %s: %w", r.Step, r.Err)
		}
	}
	if o.Keep {
		s.showAndWait(ctx)
	}
	return results, nil
}

// A step is one part of the story.
type step struct {
	name string
	do   func(context.Context) (fmt.Stringer, error)
}

func (s *story) run(ctx context.Context, st step) Result {
	s.o.Progress.Step(st.name)
	start := time.Now()
	found, err := st.do(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx) // whatever it looks like from inside
	}
	r := Result{Step: st.name, OK: err == nil, Seconds: time.Since(start).Seconds(), Found: found, Err: err}
	s.o.Progress.Done()
	switch {
	case r.OK:
		s.o.Progress.Line("%-13s %6.1f s  %s", r.Step, r.Seconds, r.Found)
	case r.Interrupted():
		s.o.Progress.Line("%-13s %6.1f s  interrupted; cleaning up", r.Step, r.Seconds)
	default:
		s.o.Progress.Line("%-13s %6.1f s  FAILED: %v", r.Step, r.Seconds, r.Err)
	}
	if s.o.JSON != nil {
		json.NewEncoder(s.o.JSON).Encode(r) // a reader that went away is not our failure
	}
	return r
}

// wrong is an error about something that is not as it should be, as against one
// of the machinery: then the demo has an answer, and it is no.
func wrong(format string, args ...any) error {
	return &wrongError{fmt.Sprintf(format, args...)}
}

type wrongError struct{ text string }

func (e *wrongError) Error() string { return e.text }
func (e *wrongError) Unwrap() error { return cli.ErrRed }

// prepare makes an empty state directory, and keeps other demos out of it.
func prepare(dir string) (unlock func(), err error) {
	if dir == "" {
		return nil, &cli.UsageError{Err: errors.New("no state directory given")}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, mark)); err != nil && len(entries) > 0 {
		return nil, &cli.UsageError{Err: fmt.Errorf("state directory %s is neither empty nor a demo's: name another one with --state", dir)}
	}
	if err := os.WriteFile(filepath.Join(dir, mark), nil, 0o600); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	l, err := filelock.Try(filepath.Join(dir, ".lock"))
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fmt.Errorf("state directory %s is in use by another demo: wait for it, or name another one with --state", dir)
	}
	if err != nil {
		return nil, err
	}
	return l.Release, nil
}
