// Guixci-demo shows guixci doing its whole job on sample repositories, with a real
// Guix: the machine's own or, where there is none, one in a box that it sets up.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/internal/demo"
	"github.com/genenetwork/guixci/internal/guixbox"
)

const usage = `Usage: guixci-demo [OPTION]...
Show guixci at work on sample repositories, checking each step against a real Guix.

A commit is locked, authenticated, pulled, evaluated, built, offered as substitutes
and run in a container; then the channel is broken, repaired, and the container
upgraded.  This takes root.  A machine without Guix gets one in a box first.

  --state=DIR  work in DIR, which must be empty or an earlier demo's
               (default: $XDG_STATE_HOME/guixci-demo)
  --keep       leave the container and the server up until Ctrl-C
  --json       print one JSON object for each step
  --help       display this help and exit
  --version    display version information and exit

Exit status: 0 all as it should be, 1 a step is not, 2 wrong usage,
3 the machinery failed.
`

// setup is what entering the box took, handed to the process inside as JSON.
type setup struct {
	Seconds float64 // until Guix answered
	Fresh   bool    // the box had to be installed
	Start   time.Time
}

const setupEnv = "GUIXCI_DEMO_SETUP"

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := demo.Options{Progress: cli.NewProgress(stderr)}
	flags := flag.NewFlagSet("guixci-demo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Func("state", "", cli.Directory(&o.State))
	flags.BoolVar(&o.Keep, "keep", false, "")
	asJSON := flags.Bool("json", false, "")
	version := flags.Bool("version", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return cli.OK
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("extraneous argument %q", flags.Arg(0))
	}
	if err != nil {
		err = &cli.MisuseError{Err: err}
		cli.Complain(stderr, "guixci-demo", err)
		return cli.ExitCode(err)
	}
	if *version {
		fmt.Fprint(stdout, cli.Version("guixci-demo"))
		return cli.OK
	}
	if *asJSON {
		o.JSON = stdout
	}
	if err = tell(ctx, o, args, stderr); err != nil {
		cli.Complain(stderr, "guixci-demo", err)
	}
	return cli.ExitCode(err)
}

// tell runs the demo here if there is a Guix, else in the box.
func tell(ctx context.Context, o demo.Options, args []string, stderr io.Writer) (err error) {
	if o.State == "" {
		o.State = cli.StateDir("guixci-demo")
	}
	if o.State, err = filepath.Abs(o.State); err != nil {
		return &cli.UsageError{Err: err}
	}
	if os.Geteuid() != 0 {
		return &cli.UsageError{Err: errors.New("running a system container takes root: run it with sudo")}
	}
	s := setup{Start: time.Now()}
	if text := os.Getenv(setupEnv); text != "" {
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return fmt.Errorf("read %s: %v", setupEnv, err)
		}
	} else if !guixbox.OnHost(ctx) {
		return enterBox(ctx, s, o, args)
	}
	results, err := demo.Run(ctx, o)
	if o.JSON == nil && len(results) > 0 {
		table(stderr, results, s)
	}
	return err
}

func enterBox(ctx context.Context, s setup, o demo.Options, args []string) error {
	box := &guixbox.Box{Progress: func(line string) { o.Progress.Line("%s", line) }}
	status, err := box.Status()
	if err != nil {
		return err
	}
	s.Fresh = status.Root == ""
	if err := box.Up(ctx); err != nil {
		return err
	}
	s.Seconds = time.Since(s.Start).Seconds()
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	// What comes first loses against the user's own.
	return box.ExecSelf([]string{setupEnv + "=" + string(text)}, append([]string{"--state=" + o.State}, args...)...)
}

// table shows how it went, and the figures beside what they should be.
func table(w io.Writer, results []demo.Result, s setup) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "STEP\tRESULT\tSECONDS\tLIMIT\t")
	line := func(name, result string, seconds, limit float64) {
		at := ""
		if limit > 0 {
			at = fmt.Sprintf("%.0f", limit)
			if seconds > limit {
				result += ", slow"
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%.1f\t%s\t\n", name, result, seconds, at)
	}
	all, sum := "ok", s.Seconds // without the time that --keep waits
	for _, r := range results {
		sum += r.Seconds
		limit := 0.0
		if r.Step == "again" {
			limit = 2
		}
		all = outcome(r) // the last step is the one that failed, if any did
		line(r.Step, all, r.Seconds, limit)
	}
	total := 90.0
	if s.Fresh {
		total = 300
		line("(to a Guix)", "ok", s.Seconds, 90)
	}
	line("(in all)", all, sum, total)
	t.Flush()
}

func outcome(r demo.Result) string {
	switch {
	case r.OK:
		return "ok"
	case r.Interrupted():
		return "interrupted"
	}
	return "FAILED"
}
