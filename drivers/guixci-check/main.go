// Guixci-check says whether "guix pull" of some channels still succeeds and whether
// their packages still build. It is for cron jobs, hooks and the impatient.
package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/internal/check"
	"github.com/genenetwork/guixci/internal/cli"
)

const program = "guixci-check"

const help = `Usage: guixci-check [OPTION]... SPEC...
  or:  guixci-check [OPTION]... --channels=FILE
  or:  guixci-check status [SPECIFICATION] | log JOB | green [JOB]...
Lock, authenticate and pull the channels of the specifications in the files SPEC,
build what they ask for, and say what broke; do only what was not done before.
A SPEC has "specification" records as for "cuirass register", or the same in JSON.

  --channels=FILE   check a channels.scm in place of specifications
  --build=MODE      with --channels: build MODE, which is what field "build" of a
                    specification can be, such as 'all', '(channels NAME...)',
                    '(packages NAME...)' or '(manifests FILE...)'
                    (default: the packages of all channels but guix)
  --green=JOBS      with --channels: the lock is green when these jobs, separated by
                    commas, succeed (default: all)
  --state=DIR       keep mirrors, profiles, logs and the record in DIR
                    (default: $XDG_STATE_HOME/guixci)
  --max-jobs=N      build N derivations at the same time (default: 1)
  --cores=N         use N processor cores for each build (default: as guix-daemon says)
  --timeout=TIME    stop a build after TIME, such as 90m (default: as packages say)
  --no-substitutes  build also what substitute servers have (default: fetch it)
  --substitute-urls=URLS
                    fetch substitutes from URLS (default: as guix-daemon does)
  --pull-only       stop after "guix pull"
  --evaluate-only   stop when all derivations are known
  --retry           look again, and build again what failed before
  --keep=N          let go of what was made for any but the N newest evaluations of
                    each specification, the last green one and what is deployed; 0
                    keeps all (default: 10)
  --json            print one event per line, a summary of each specification last
  --help            display this help and exit
  --version         display version information and exit

The verbs read the record, also while a check is going on: "status" says what the
newest evaluation found, "log" prints the log of one of its jobs, "green" prints the
last lock for which all was green, or the given JOBs were. With several
specifications in the state directory, choose one by --spec=NAME.

Without --json a check of one specification prints its last green lock, as a
channels.scm to pull from, and one of several a line for each.
Exit status: 0 green, 1 something is red, 2 wrong usage or configuration,
3 the machinery failed, so the answer is unknown.
`

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := command(stdout, stderr)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil {
		cli.Complain(stderr, program, err)
	}
	return cli.ExitCode(err)
}

func command(stdout, stderr io.Writer) *cobra.Command {
	var o check.Options
	var channels, build, green, spec string
	var pullOnly, evaluateOnly, noSubstitutes bool
	root := &cobra.Command{Use: program, Version: "-", SilenceErrors: true, SilenceUsage: true, Args: cobra.ArbitraryArgs}
	root.SetVersionTemplate(cli.Version(program))
	root.SetHelpFunc(func(*cobra.Command, []string) { fmt.Fprint(stdout, help) })
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &cli.MisuseError{Err: err} })
	root.CompletionOptions.HiddenDefaultCmd = true
	all := root.PersistentFlags()
	all.Func("state", "", cli.Directory(&o.State))
	all.BoolVar(&o.JSON, "json", false, "")
	flags := root.Flags()
	flags.StringVar(&channels, "channels", "", "")
	flags.StringVar(&build, "build", "", "")
	flags.StringVar(&green, "green", "", "")
	flags.IntVar(&o.Slots, "max-jobs", 1, "")
	flags.IntVar(&o.Cores, "cores", 0, "")
	flags.DurationVar(&o.Limits.Timeout, "timeout", 0, "")
	flags.BoolVar(&noSubstitutes, "no-substitutes", false, "")
	flags.Func("substitute-urls", "", func(urls string) error { o.SubstituteURLs = strings.Fields(urls); return nil })
	flags.BoolVar(&pullOnly, "pull-only", false, "")
	flags.BoolVar(&evaluateOnly, "evaluate-only", false, "")
	flags.BoolVar(&o.Retry, "retry", false, "")
	flags.IntVar(&o.Keep.Evaluations, "keep", 10, "")
	root.RunE = func(c *cobra.Command, files []string) (err error) {
		switch {
		case len(files) == 0 && channels == "":
			return misuse("no SPEC and no --channels given")
		case len(files) > 0 && channels != "":
			return misuse("extraneous argument %q with --channels", files[0])
		case channels == "" && build+green != "":
			return misuse("--build and --green go with --channels; specifications have fields for that")
		case o.Slots < 1:
			return misuse("--max-jobs=%d: it takes one job at least", o.Slots)
		case o.Cores < 0 || o.Keep.Evaluations < 0:
			return misuse("--cores=%d --keep=%d: neither may be negative", o.Cores, o.Keep.Evaluations)
		}
		o.UseSubstitutes = !noSubstitutes
		if evaluateOnly {
			o.Until = guixci.Enumerated
		}
		if pullOnly {
			o.Until = guixci.Pulled
		}
		specs := make([]guixci.Specification, 1)
		if channels != "" {
			jobs := strings.FieldsFunc(green, func(c rune) bool { return c == ',' || c == ' ' })
			specs[0], err = check.OfChannels(channels, build, jobs)
		} else {
			specs, err = check.Load(c.Context(), files)
		}
		if err != nil {
			return err
		}
		return check.Run(c.Context(), specs, o, stdout, stderr)
	}
	statusVerb := &cobra.Command{Use: "status", Args: most(0, 1), RunE: func(c *cobra.Command, args []string) error {
		return check.Status(c.Context(), o.State, strings.Join(args, ""), o.JSON, stdout)
	}}
	logVerb := &cobra.Command{Use: "log", Args: most(1, 1), RunE: func(_ *cobra.Command, args []string) error {
		return check.Log(o.State, spec, args[0], stdout)
	}}
	greenVerb := &cobra.Command{Use: "green", RunE: func(_ *cobra.Command, args []string) error {
		return check.Green(o.State, spec, args, o.JSON, stdout)
	}}
	for _, verb := range []*cobra.Command{logVerb, greenVerb} {
		verb.Flags().StringVar(&spec, "spec", "", "")
	}
	root.AddCommand(statusVerb, logVerb, greenVerb)
	return root
}

func misuse(format string, args ...any) error {
	return &cli.MisuseError{Err: fmt.Errorf(format, args...)}
}

// most takes from least to most arguments.
func most(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return misuse("%s takes %d to %d arguments, and got %d", c.Name(), least, most, len(args))
		}
		return nil
	}
}
