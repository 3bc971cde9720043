// Command guixci-deploy runs Guix System containers, and takes bad deployments back.
//
//	guixci-deploy plan gn --file deployment.scm --environment production
//	guixci-deploy apply gn --file deployment.scm --environment production --why "release 7"
//
// It is a thin face of package container, which also describes the deployment file;
// "guixci-deploy help" lists the verbs.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/container/shepherd"
	"github.com/genenetwork/guixci/container/systemd"
	"github.com/genenetwork/guixci/internal/cli"
)

const program = "guixci-deploy"

func main() {
	// Containers outlive us. What our caller has open, such as the lock of flock(1), is not for them to hold.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) // an older kernel has no such call
	cli.Main(run)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	d := &driver{stdout: stdout, stderr: stderr, progress: cli.NewProgress(stderr)}
	root := d.command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var status exitStatus
	if err != nil && !errors.As(err, &status) {
		cli.Complain(stderr, program, advised{err})
	}
	return cli.ExitCode(err)
}

// A driver is one run of the program.
type driver struct {
	stdout, stderr io.Writer
	progress       *cli.Progress // on stderr

	file, environment, state string
	script, guix, who, why   string
	json, verbose            bool
	retry, downgrade         bool
	unconfirmed              bool
}

// exitStatus is the status of a command in the container, which has said what it had to.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("status %d", int(s)) }

// A red is an answer that is not as it should be.
type red struct{ error }

// Unwrap returns what is said of it.
func (r red) Unwrap() error { return r.error }

// ExitCode returns the status.
func (red) ExitCode() int { return cli.Red }

// ExitCode returns the status.
func (s exitStatus) ExitCode() int { return int(s) }

// An advised error says which option makes that be done which was refused.
type advised struct{ error }

func (a advised) Unwrap() error { return a.error }

// Advice returns the advice, or that of the error itself.
func (a advised) Advice() string {
	var rejected *container.RejectedError
	var downgrade *container.DowngradeError
	var refusal *container.RefusalError
	switch {
	case errors.As(a.error, &rejected):
		return advice["rejected"]
	case errors.As(a.error, &downgrade):
		return advice["downgrade"]
	case errors.As(a.error, &refusal) && advice[refusal.Check] != "":
		return advice[refusal.Check]
	}
	return cli.Hint(a.error)
}

// advice is for what was refused, by the check that did.
var advice = map[string]string{
	"rejected":  "if the cause is gone, have it tried again with --retry",
	"downgrade": "if that is what you want, allow it with --allow-downgrades; the ledger will say so",
	"follows":   "promote brings what is confirmed there, once it runs well; if you want this all the same, allow it with --allow-unconfirmed, and the ledger will say so",
}

func (d *driver) command() *cobra.Command {
	root := &cobra.Command{
		Use:   program,
		Short: "Run Guix System containers, and take bad deployments back",
		Long: `Run Guix System containers, and take bad deployments back.

NAME is the deployment's; with --environment, each environment is one of its own.
"help deployment-file" describes the file.

Exit status: 0 as wanted, 1 what was looked at is not as it should be, or the system does
not build, 2 wrong usage or a mistake in the file, 3 the machinery failed: try again, 10
refused and nothing changed, 11 failed and what ran was kept, 12 rolled back, 13 rolling
back failed too. "exec" has the status of the command.`,
		Version:       "-",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			return misuse(args)
		},
	}
	root.SetVersionTemplate(cli.Version(program))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &cli.MisuseError{Err: err} })
	flags := root.PersistentFlags()
	flags.StringVarP(&d.file, "file", "f", "", "the deployment file")
	flags.StringVarP(&d.environment, "environment", "e", "", "the environment of that file")
	flags.StringVar(&d.state, "state", "", "keep state in this directory (default $XDG_STATE_HOME/guixci)")
	flags.StringVar(&d.who, "who", "", "who does it, for the ledger (default: you)")
	flags.StringVar(&d.why, "why", "", "why, for the ledger")
	flags.BoolVar(&d.json, "json", false, "print the answer as JSON")
	flags.BoolVarP(&d.verbose, "verbose", "v", false, "say what is being done")
	root.AddCommand(d.planCommand(), d.applyCommand(), d.rollbackCommand(), d.diffCommand(),
		d.runCommand(), d.statusCommand(), d.logsCommand(), d.execCommand(), d.startCommand(), d.stopCommand(),
		d.restartCommand(), d.superviseCommand(), d.historyCommand(), d.confirmCommand(), d.pinCommand(), d.doctorCommand(),
		d.promoteCommand(), d.exportCommand(), d.importCommand(), fileTopic())
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

func usage(err error) error { return &cli.UsageError{Err: err} }

// misuse is the error for arguments that do not begin with a verb.
func misuse(args []string) error {
	if len(args) == 0 {
		return &cli.MisuseError{Err: errors.New("say what to do")}
	}
	return &cli.MisuseError{Err: fmt.Errorf("there is no verb %q", args[0])}
}

// arguments makes a wrong number of arguments a misuse.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return &cli.MisuseError{Err: fmt.Errorf("%w; usage: %s", err, c.UseLine())}
		}
		return nil
	}
}

// stateDir is absolute.
func (d *driver) stateDir() (string, error) {
	if d.state == "" {
		d.state = cli.StateDir("guixci")
	}
	return filepath.Abs(d.state)
}

// read reads the deployment file.
func (d *driver) read() (*container.File, error) {
	if d.file == "" {
		return nil, usage(errors.New("no --file given"))
	}
	f, err := os.Open(d.file)
	if err != nil {
		return nil, usage(fmt.Errorf("read deployment: %w", err))
	}
	defer f.Close()
	file, err := container.ReadFile(d.file, f)
	if err != nil {
		return nil, usage(err)
	}
	return file, nil
}

// deployment returns the deployment of that name. Without a file it is good for looking
// and for what needs only its state.
func (d *driver) deployment(name string) (*container.Deployment, *container.File, error) {
	dep := &container.Deployment{}
	var file *container.File
	if d.file != "" {
		var err error
		if file, err = d.read(); err != nil {
			return nil, nil, err
		}
		if dep, err = file.Environment(d.environment); err != nil && d.environment == "" {
			err = fmt.Errorf("no --environment given: %w", err)
		}
		if err != nil {
			return nil, nil, usage(err)
		}
	}
	err := d.place(dep, name)
	return dep, file, err
}

// place gives a deployment its name and its place.
func (d *driver) place(dep *container.Deployment, name string) error {
	if name != filepath.Base(name) || name[0] == '.' || d.environment != "" && d.environment != filepath.Base(d.environment) {
		return usage(fmt.Errorf("deployment %q, environment %q: not names for a directory", name, d.environment))
	}
	state, err := d.stateDir()
	if err != nil {
		return err
	}
	dep.Name = name
	if d.environment != "" {
		dep.Name += "-" + d.environment
	}
	dep.Dir = filepath.Join(state, "deployments", dep.Name)
	dep.Runners = runners()
	dep.Who, dep.Why = d.author(), d.why
	if dep.Follows != nil {
		followed := *d
		followed.environment = dep.Follows.Environment.Name
		if err := followed.place(dep.Follows, name); err != nil {
			return err
		}
	}
	dep.Logger = slog.New(teller{d.progress})
	dep.Waiting = func(generation int, until time.Time) {
		d.progress.Line("%s: generation %d of %s is healthy, and is taken back at %s unless \"confirm\" comes before",
			program, generation, dep.Name, until.Format(time.RFC3339))
	}
	if d.verbose {
		dep.Logger = slog.New(slog.NewTextHandler(d.stderr, nil))
	}
	return nil
}

// A teller shows people on a terminal what is being done, and tells them of what could not be, such as that the ledger
// was not written.
type teller struct{ progress *cli.Progress }

func (t teller) Enabled(context.Context, slog.Level) bool { return true }
func (t teller) WithAttrs([]slog.Attr) slog.Handler       { return t }
func (t teller) WithGroup(string) slog.Handler            { return t }
func (t teller) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		t.progress.Line("%s: %s", program, textOf(r, "error"))
		return nil
	}
	t.progress.Detail("%s", textOf(r, "generation", "command", "mount", "probe", "error"))
	return nil
}

// textOf returns what a record says, with those of its attributes.
func textOf(r slog.Record, keys ...string) string {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if slices.Contains(keys, a.Key) {
			text += ": " + a.Value.String()
		}
		return true
	})
	return text
}

// during shows what is being done to a deployment while it goes on.
func during[T any](d *driver, doing string, dep *container.Deployment, do func() (T, error)) (T, error) {
	d.progress.Step(doing + " " + dep.Name)
	defer d.progress.Done()
	return do()
}

// runners are what the field "runner" of a deployment file may name.
func runners() map[string]container.Runner {
	return map[string]container.Runner{"systemd": new(systemd.Runner), "shepherd": new(shepherd.Runner)}
}

// existing is deployment for verbs that make no sense before the first apply.
func (d *driver) existing(name string) (*container.Deployment, error) {
	dep, _, err := d.deployment(name)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dep.Dir); err != nil {
		return nil, usage(fmt.Errorf("no deployment %q here%s: %w", dep.Name, d.environmentsOf(name), err))
	}
	return dep, nil
}

// environmentsOf says in which environments there is a deployment, for who has named none that there is.
func (d *driver) environmentsOf(name string) string {
	all, _ := d.all() // without it the message is shorter
	var there []string
	for _, dep := range all {
		if environment, ok := strings.CutPrefix(dep.Name, name+"-"); ok {
			there = append(there, environment)
		}
	}
	if len(there) == 0 {
		return ""
	}
	return fmt.Sprintf(", but in --environment %s", strings.Join(there, ", or "))
}

// print prints an answer: as JSON, or for people.
func (d *driver) print(answer any, people func(io.Writer)) error {
	if !d.json {
		people(d.stdout)
		return nil
	}
	out := json.NewEncoder(d.stdout)
	out.SetIndent("", "  ")
	return out.Encode(answer)
}

// author is who does it.
func (d *driver) author() string {
	if d.who != "" {
		return d.who
	}
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}
