package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/internal/cli"
)

// history opens the history of a state directory.
func history(dir string) (*guixci.History, error) {
	h, err := guixci.OpenHistory(state(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &cli.UsageError{Err: fmt.Errorf("nothing was checked yet with state directory %q", state(dir))}
	}
	return h, err
}

// chosen returns the specification of a name, or all of them if it is empty.
func chosen(h *guixci.History, name string) ([]guixci.Specification, error) {
	specs, err := h.Specifications()
	if err != nil || name == "" {
		return specs, err
	}
	var names []string
	for _, s := range specs {
		if s.Name == name {
			return []guixci.Specification{s}, nil
		}
		names = append(names, s.Name)
	}
	return nil, &cli.UsageError{Err: fmt.Errorf("there is no specification %q in the record, only %s", name, strings.Join(names, ", "))}
}

// one is chosen where there can be only one.
func one(h *guixci.History, name string) (guixci.Specification, error) {
	specs, err := chosen(h, name)
	if err != nil {
		return guixci.Specification{}, err
	}
	if len(specs) != 1 {
		var names []string
		for _, s := range specs {
			names = append(names, s.Name)
		}
		return guixci.Specification{}, &cli.UsageError{Err: fmt.Errorf("say --spec=NAME with one of: %s", strings.Join(names, ", "))}
	}
	return specs[0], nil
}

// Status tells of each specification, or of the named one, what its newest evaluation has
// found, with a table of what is broken, or JSON summaries.
func Status(ctx context.Context, dir, spec string, asJSON bool, stdout io.Writer) error {
	h, err := history(dir)
	if err != nil {
		return err
	}
	defer h.Close()
	specs, err := chosen(h, spec)
	if err != nil {
		return err
	}
	for _, s := range specs {
		r, err := h.Report(s)
		if errors.Is(err, record.ErrNotFound) {
			if err := noVerdict(stdout, s, asJSON); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		findings, err := h.Findings(ctx, r)
		if err != nil {
			return err
		}
		if asJSON {
			err = json.NewEncoder(stdout).Encode(summary{"summary", r, findings})
		} else {
			err = status(stdout, s, r, findings)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// noVerdict says that nothing is known of a specification: in JSON its verdict is null.
func noVerdict(stdout io.Writer, s guixci.Specification, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(stdout).Encode(summary{"summary", &guixci.Report{Specification: s.Name}, nil})
	}
	_, err := fmt.Fprintf(stdout, "%s: no evaluation has come to a verdict\n", s.Name)
	return err
}

// status writes a specification's state for people: each job, and then the table.
func status(stdout io.Writer, s guixci.Specification, r *guixci.Report, findings []guixci.Finding) error {
	fmt.Fprintf(stdout, "%s: %s, evaluation %d of lock %.12s…\n%v\n", s.Name, Colour(s, r, ""), r.Evaluation, r.Digest, r.Verdict)
	rows := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	for _, j := range r.Jobs {
		fmt.Fprintf(rows, "  %s\t%s\t%s\n", j.Name, j.Status, j.Weather)
	}
	if err := rows.Flush(); err != nil {
		return err
	}
	table(func(format string, args ...any) { fmt.Fprintf(stdout, format+"\n", args...) }, r, findings)
	return nil
}

// Log writes the log of a job of the newest evaluation, as far as it is if it is being built.
// The name may leave out the system, as in "hello" for "hello.x86_64-linux".
func Log(dir, spec, job string, stdout io.Writer) error {
	h, err := history(dir)
	if err != nil {
		return err
	}
	defer h.Close()
	s, err := one(h, spec)
	if err != nil {
		return err
	}
	r, err := h.Report(s)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(r.Jobs, func(j record.Job) bool { return j.Name == job })
	if i < 0 {
		i = slices.IndexFunc(r.Jobs, func(j record.Job) bool { return strings.TrimSuffix(j.Name, "."+j.System) == job })
	}
	if i < 0 {
		return &cli.UsageError{Err: fmt.Errorf("evaluation %d of %s has no job %q", r.Evaluation, s.Name, job)}
	}
	if r.Jobs[i].Derivation == "" {
		_, err := fmt.Fprintln(stdout, r.Jobs[i].Error)
		return err
	}
	text, err := h.Log(r.Jobs[i])
	if errors.Is(err, record.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s was not built here: there is no log", r.Jobs[i].Name)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(stdout, text)
	return errors.Join(err, text.Close())
}

// Green writes the last lock of a specification that was green, as a channels.scm: when
// the named jobs have succeeded or, without names, by the specification's own policy. The error wraps
// [cli.ErrRed] if there is none.
func Green(dir, spec string, jobs []string, asJSON bool, stdout io.Writer) error {
	h, err := history(dir)
	if err != nil {
		return err
	}
	defer h.Close()
	s, err := one(h, spec)
	if err != nil {
		return err
	}
	policy := s.Green
	if len(jobs) > 0 {
		policy = record.Policy{Jobs: jobs}
	}
	if slices.Equal(jobs, []string{"all"}) {
		policy = record.Policy{}
	}
	lock, err := h.LastGreen(s.Name, policy)
	if errors.Is(err, record.ErrNotFound) {
		return fmt.Errorf("%s was never green, it is %w", s.Name, cli.ErrRed)
	}
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(stdout).Encode(lock)
	}
	_, err = lock.WriteTo(stdout)
	return err
}
