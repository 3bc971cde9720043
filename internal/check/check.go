// Package check is what guixci-check does: a run over specifications, told to people or
// to programs, and questions about what earlier runs found.
package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/internal/cli"
)

// Options say what to check and how.
type Options struct {
	guixci.Options
	State string // directory; empty means the usual one
	Retry bool   // look again, and build again what is known to fail
	JSON  bool   // events and summaries on standard output, one a line
	Keep  guixci.Retention
}

// state is the directory of the state.
func state(dir string) string {
	if dir == "" {
		return cli.StateDir("guixci")
	}
	return dir
}

// Run checks specifications. What people should know goes to stderr; to stdout go the last green
// lock of a single specification as a channels.scm, or a line for each of several. Errors bring their
// exit status: cli.ErrRed is wrapped if something is red, whatever else there is.
func Run(ctx context.Context, specs []guixci.Specification, o Options, stdout, stderr io.Writer) (err error) {
	screen := newScreen(cli.NewProgress(stderr))
	out := json.NewEncoder(stdout)
	o.Log = screen
	o.Notify = func(e guixci.Event) {
		screen.show(e)
		if o.JSON {
			out.Encode(e)
		}
	}
	p, err := guixci.Open(state(o.State), o.Options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if o.Retry {
		for _, spec := range specs {
			if _, err := p.Retry(ctx, spec.Name); err != nil {
				return err
			}
		}
	}
	screen.begin(specs)
	outcomes := p.RunAll(ctx, specs...)
	screen.end()
	for _, outcome := range outcomes {
		err = errors.Join(err, conclude(ctx, p, outcome, o, screen.Progress, stdout, len(outcomes) == 1))
	}
	if o.Keep != (guixci.Retention{}) && ctx.Err() == nil {
		_, pruneErr := p.Prune(ctx, o.Keep)
		err = errors.Join(err, pruneErr)
	}
	return err
}

// A summary is the last event of a specification.
type summary struct {
	Event string `json:"event"` // "summary"
	*guixci.Report
	Findings []guixci.Finding `json:"findings,omitempty"`
}

// conclude tells what came of a specification and returns what is wrong.
func conclude(ctx context.Context, p *guixci.Pipeline, outcome guixci.Outcome, o Options, progress *cli.Progress, stdout io.Writer, alone bool) error {
	spec, r := outcome.Specification, outcome.Report
	var wrong *guixci.SpecificationError
	if errors.As(outcome.Err, &wrong) {
		return &cli.UsageError{Err: wrong}
	}
	if outcome.Err != nil {
		return outcome.Err
	}
	if r == nil {
		progress.Line("%s is not active", spec.Name)
		return nil
	}
	findings, err := p.History().Findings(ctx, r)
	if err != nil {
		return err
	}
	table(progress.Line, r, findings)
	switch {
	case o.JSON:
		err = json.NewEncoder(stdout).Encode(summary{"summary", r, findings})
	case !alone:
		_, err = fmt.Fprintf(stdout, "%s: %s, evaluation %d\n", spec.Name, Colour(spec, r, o.Until), r.Evaluation)
	case r.LastGreen != nil:
		_, err = r.LastGreen.WriteTo(stdout)
	}
	return errors.Join(err, verdict(spec, r, o.Until))
}

// Colour is "green", "red" or "unknown".
func Colour(spec guixci.Specification, r *guixci.Report, until guixci.Kind) string {
	switch err := verdict(spec, r, until); {
	case err == nil:
		return "green"
	case errors.Is(err, cli.ErrRed):
		return "red"
	}
	return "unknown"
}

// verdict says why a report is not green: something is red, or not known. What is red
// is so whatever the machinery does. Of a run that ended early only what it has
// come to can be wrong.
func verdict(spec guixci.Specification, r *guixci.Report, until guixci.Kind) error {
	if r.Green || r.Verdict.Green && until == guixci.Pulled {
		return nil
	}
	policy := spec.Green
	for _, name := range policy.Jobs {
		if _, ok := r.Job(name); !ok && r.Verdict.Green {
			return fmt.Errorf("%s is %w: there is no job %q, which is to succeed for it to be green", spec.Name, cli.ErrRed, name)
		}
	}
	wanted := func(j record.Job) bool { return len(policy.Jobs) == 0 || slices.Contains(policy.Jobs, j.Name) }
	isRed := func(j record.Job) bool {
		return wanted(j) && (j.Status == record.Failed || j.Status == record.DependencyFailed)
	}
	switch {
	case !r.Verdict.Green || slices.ContainsFunc(r.Jobs, isRed):
		return fmt.Errorf("%s is %w", spec.Name, cli.ErrRed)
	case until != "":
		return nil
	}
	return fmt.Errorf("%s: %d jobs could not be built for want of disk, daemon or time: run it again", spec.Name, len(r.Undecided()))
}
