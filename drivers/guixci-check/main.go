// Guixci-check says whether "guix pull" of some channels still succeeds and whether
// their packages still build. It is for cron jobs, hooks and the impatient.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/internal/cli"
)

const usage = `Usage: guixci-check [OPTION]... --channels=FILE
Lock the channels of FILE, authenticate and pull them, and build their packages;
do only what was not done before.

  --channels=FILE   a channels.scm
  --build=NAMES     build the packages of these channels, separated by commas
                    (default: all but guix)
  --green=JOBS      the lock is green when these jobs succeed (default: all)
  --state=DIR       keep mirrors, profiles, logs and the record in DIR
                    (default: $XDG_STATE_HOME/guixci)
  --max-jobs=N      build N derivations at the same time (default: 1)
  --timeout=TIME    stop a build after TIME, such as 90m (default: as packages say)
  --json            print one event per line, and the report as the last
  --help            display this help and exit
  --version         display version information and exit

Without --json it prints the last green lock, as a channels.scm to pull from.
Exit status: 0 green, 1 something is red, 2 wrong usage or configuration,
3 the machinery failed, so the answer is unknown.
`

type options struct {
	channels, build, green, state string
	json                          bool
	guixci.Options
}

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("guixci-check", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.channels, "channels", "", "")
	flags.StringVar(&o.build, "build", "", "")
	flags.StringVar(&o.green, "green", "", "")
	flags.Func("state", "", cli.Directory(&o.state))
	flags.IntVar(&o.Slots, "max-jobs", 1, "")
	flags.DurationVar(&o.Limits.Timeout, "timeout", 0, "")
	flags.BoolVar(&o.json, "json", false, "")
	version := flags.Bool("version", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return cli.OK
	case err != nil:
	case *version:
		fmt.Fprint(stdout, cli.Version("guixci-check"))
		return cli.OK
	case flags.NArg() > 0:
		err = fmt.Errorf("extraneous argument %q", flags.Arg(0))
	case o.channels == "":
		err = errors.New("no --channels given")
	case o.Slots < 1:
		err = fmt.Errorf("--max-jobs=%d: it takes one job at least", o.Slots)
	}
	if err != nil {
		return cli.Misuse(stderr, "guixci-check", err)
	}
	if err = check(ctx, o, stdout, cli.NewProgress(stderr)); err != nil {
		cli.Complain(stderr, "guixci-check", err)
	}
	return cli.ExitCode(err)
}

func check(ctx context.Context, o options, stdout io.Writer, progress *cli.Progress) (err error) {
	spec, err := specification(o)
	if err != nil {
		return err
	}
	if o.state == "" {
		o.state = cli.StateDir("guixci")
	}
	out := json.NewEncoder(stdout)
	o.Notify = func(e guixci.Event) {
		show(progress, e)
		if o.json {
			out.Encode(e)
		}
	}
	p, err := guixci.Open(o.state, o.Options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	progress.Step(spec.Name)
	report, err := p.Run(ctx, spec)
	progress.Done()
	var wrong *guixci.SpecificationError
	if errors.As(err, &wrong) {
		return &cli.UsageError{Err: wrong.Err}
	}
	if err != nil {
		return err
	}
	conclude(p, progress, report)
	if o.json {
		err = out.Encode(report)
	} else if report.LastGreen != nil {
		_, err = report.LastGreen.WriteTo(stdout)
	}
	if err != nil || report.Green {
		return err
	}
	return notGreen(o, report, spec.Green)
}

// notGreen says why a report is not green: something is red, or not known. What is red
// is so whatever the machinery does.
func notGreen(o options, r *guixci.Report, policy record.Policy) error {
	wanted := func(j record.Job) bool { return len(policy.Jobs) == 0 || slices.Contains(policy.Jobs, j.Name) }
	for _, name := range policy.Jobs {
		if _, ok := r.Job(name); !ok && r.Verdict.Green {
			return fmt.Errorf("%s is %w: there is no job %q, which --green asks for", o.channels, cli.ErrRed, name)
		}
	}
	isRed := func(j record.Job) bool {
		return wanted(j) && (j.Status == record.Failed || j.Status == record.DependencyFailed)
	}
	if r.Verdict.Green && !slices.ContainsFunc(r.Jobs, isRed) {
		return fmt.Errorf("%s: %d jobs could not be built for want of disk, daemon or time: run it again", o.channels, len(r.Undecided()))
	}
	return fmt.Errorf("%s is %w", o.channels, cli.ErrRed)
}

func specification(o options) (guixci.Specification, error) {
	f, err := os.Open(o.channels)
	if err != nil {
		return guixci.Specification{}, &cli.UsageError{Err: err}
	}
	defer f.Close()
	list, err := channel.ReadList(o.channels, f)
	if err != nil {
		return guixci.Specification{}, &cli.UsageError{Err: err}
	}
	// The same file is the same specification, wherever it is called from.
	name, err := filepath.Abs(o.channels)
	if err != nil {
		return guixci.Specification{}, &cli.UsageError{Err: err}
	}
	spec := guixci.Specification{Name: specName(name), Channels: list, Build: words(o.build), Green: record.Policy{Jobs: words(o.green)}}
	var wrong *guixci.SpecificationError
	if err := spec.Check(); errors.As(err, &wrong) {
		return spec, &cli.UsageError{Err: fmt.Errorf("%s: %w", o.channels, wrong.Err)}
	}
	return spec, nil
}

// specName turns a file name into a specification's: /etc/guix/channels.scm becomes
// etc-guix-channels-d6ab133b. The digits tell it from /etc/guix-channels.scm.
func specName(file string) string {
	name := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' {
			return c
		}
		return '-'
	}, strings.TrimSuffix(file, ".scm"))
	return strings.TrimLeft(fmt.Sprintf("%s-%08x", name, crc32.ChecksumIEEE([]byte(file))), "-._")
}

func words(list string) []string {
	return strings.FieldsFunc(list, func(c rune) bool { return c == ',' || c == ' ' })
}

// show tells people what happens.
func show(progress *cli.Progress, e guixci.Event) {
	switch {
	case e.Kind == guixci.Locked:
		progress.Line("lock %.12s… of %d channels", e.Lock.Digest(), len(e.Lock.Channels))
	case e.Verdict != nil:
		progress.Line("%v", e.Verdict)
	case e.Job != nil && e.Job.Err != nil:
		progress.Line("%s has no derivation: %s", e.Job.Name, e.Job.Err.Message())
	case e.Job != nil:
		progress.Detail("evaluating %s", e.Job.Name)
	case e.Build != nil && e.Build.Kind == build.Finished:
		r, took := e.Build.Result, ""
		if !r.Started.IsZero() {
			took = fmt.Sprintf(" in %v", r.Stopped.Sub(r.Started).Round(100*time.Millisecond))
		}
		if r.Cause.Number() == 3 && r.Message != "" {
			took = ": " + r.Message
		}
		progress.Line("%s %s%s", r.Derivation.Name(), r.Cause, took)
	case e.Build != nil && e.Build.Kind == build.Started:
		progress.Detail("building %s", e.Build.Derivation.Name())
	}
}

// conclude tells people what came of it: each job that is not well, and why.
func conclude(p *guixci.Pipeline, progress *cli.Progress, r *guixci.Report) {
	counts := map[record.Status]int{}
	for _, j := range r.Jobs {
		counts[j.Status]++
		if j.Status == record.Succeeded || j.Derivation == "" {
			continue
		}
		because := ""
		if j.Culprit != "" {
			because = ": " + filepath.Base(j.Culprit)
		}
		progress.Line("%s %s%s", j.Name, j.Cause, because)
		if b, err := p.Record().LatestBuild(j.Derivation); err == nil {
			for _, line := range b.Telling {
				progress.Line("  | %s", line)
			}
		}
	}
	if r.Verdict.Hint != "" {
		progress.Line("hint: %s", r.Verdict.Hint)
	}
	what := "checked"
	if r.Unchanged {
		what = "unchanged since evaluation"
	}
	progress.Line("%s %d: %d of %d jobs succeeded", what, r.Evaluation, counts[record.Succeeded], len(r.Jobs))
}
