// Command guixci-channels resolves, checks, explains and authenticates lists of Guix
// channels.
//
//	guixci-channels lock channels.scm > lock.scm
//	guixci-channels sync --from lock.scm ../project
//
// It is a thin face of package channel; "guixci-channels help" lists the verbs.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/cli"
)

const program = "guixci-channels"

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	d := &driver{stdout: stdout, stderr: stderr}
	root := d.command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return cli.OK
	}
	if !d.said {
		cli.Complain(stderr, program, err)
	}
	return cli.ExitCode(verdict(err))
}

// verdict marks as red the errors that are an answer: a channel that is not to
// be believed, a list that cannot be right however often one tries.
func verdict(err error) error {
	var refused *channel.AuthError
	var repository *channel.RepositoryError
	var syntax *sexp.SyntaxError // in a channel; one in what the user gave is a usage error
	if errors.As(err, &refused) || errors.Is(err, channel.ErrNoGuix) ||
		errors.As(err, &repository) && repository.Final || errors.As(err, &syntax) {
		return errors.Join(cli.ErrRed, err)
	}
	return err
}

// A driver is one run of the program.
type driver struct {
	stdout, stderr io.Writer
	json           bool
	state          string
	verbose        bool
	said           bool // the error has been reported
}

func (d *driver) command() *cobra.Command {
	root := &cobra.Command{
		Use:   program,
		Short: "Resolve, check, explain and authenticate lists of Guix channels",
		Long: `Resolve, check, explain and authenticate lists of Guix channels.

A FILE is a channels.scm, what "guix describe" prints in any of its formats but
"human", or a lock in JSON.

Exit status: 0 as wanted, 1 something is wrong with the channels, 2 wrong usage,
3 the answer could not be found out (no network, no disk): try again.`,
		Version:       "-",
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(c *cobra.Command, args []string) error {
			return misuse(args)
		},
		Args: cobra.ArbitraryArgs,
	}
	root.SetVersionTemplate(cli.Version(program))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &cli.MisuseError{Err: err} })
	flags := root.PersistentFlags()
	flags.BoolVar(&d.json, "json", false, "print the answer as JSON")
	flags.StringVar(&d.state, "state", "", "keep mirrors and caches in this directory (default $XDG_STATE_HOME/guixci)")
	flags.BoolVarP(&d.verbose, "verbose", "v", false, "say what is being done")
	root.AddCommand(d.lockCommand(), d.checkCommand(), d.explainCommand(), d.syncCommand(), d.authenticateCommand(), d.watchCommand())
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
			return &cli.MisuseError{Err: err}
		}
		return nil
	}
}
