package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/internal/cli"
)

// A change is a deployment with a revision of it that is built.
type change struct {
	*container.Deployment
	container.Revision
	close func() error
}

// build builds what the file declares, unless it names a script. The caller must close.
func (d *driver) build(ctx context.Context, name string) (*change, error) {
	if d.file == "" {
		return nil, usage(errors.New("no --file given"))
	}
	dep, file, err := d.deployment(name)
	if err != nil {
		return nil, err
	}
	c := &change{Deployment: dep, Revision: container.Revision{Who: d.author(), Why: d.why, Force: d.retry, AllowDowngrade: d.downgrade, AllowUnconfirmed: d.unconfirmed}}
	if c.Script = d.script; c.Script == "" {
		c.Script = file.Script
	}
	if c.Script != "" {
		pool := connect(dep)
		c.close = pool.Close
		return c, nil
	}
	return c, d.buildSystem(ctx, c, file)
}

// connect has a deployment keep roots with guix-daemon and ask it about closures.
func connect(dep *container.Deployment) *store.Pool {
	pool := &store.Pool{}
	dep.Root = (&build.Roots{Pool: pool}).Link
	dep.Closures = guixci.Closures{Pool: pool}
	return pool
}

func (d *driver) buildSystem(ctx context.Context, c *change, file *container.File) error {
	if file.Lock == "" {
		return usage(file.ErrorAt("system", errors.New("there is a system and no lock: say which commits it is built from, (lock FILE)")))
	}
	lock, err := readLock(filepath.Join(filepath.Dir(d.file), file.Lock))
	if err != nil {
		return usage(file.ErrorAt("lock", err))
	}
	state, err := d.stateDir()
	if err != nil {
		return err
	}
	var log io.Writer
	if d.verbose {
		log = d.stderr
	}
	p, err := guixci.Open(state, guixci.Options{Guix: d.guix, Logger: c.Logger, Log: log})
	if err != nil {
		return err
	}
	c.close = p.Close
	d.progress.Step("building " + file.System.File)
	c.Script, err = p.Container(ctx, lock, guixci.System(file.System))
	d.progress.Done()
	if err != nil {
		return errors.Join(unbuilt(file, err), p.Close())
	}
	p.Deployment(c.Deployment)
	c.Lock, c.Channels = lock.Digest(), guixci.ChannelsOf(lock)
	c.Descends = guixci.Descends(&channel.Repositories{Dir: filepath.Join(state, "repos"), Logger: c.Logger})
	return nil
}

// unbuilt tells why there is no system to deploy: a mistake in the file, a system that does not build, or
// something that may be better later.
func unbuilt(file *container.File, err error) error {
	var missing *guixci.NotInLockError
	if errors.As(err, &missing) {
		return usage(file.ErrorAt("system", err))
	}
	var failure interface{ Machinery() bool }
	if errors.As(err, &failure) && !failure.Machinery() {
		return red{err}
	}
	return err
}

func readLock(name string) (*channel.Lock, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return channel.ReadLock(name, f)
}

func (d *driver) addBuildFlags(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&d.script, "script", "", "this run-container in the place of what the file declares")
	c.Flags().StringVar(&d.guix, "guix", "", "the guix program that pulls (default: guix in PATH)")
	return d.addInsistence(c)
}

// addInsistence adds the options that have done what would be refused.
func (d *driver) addInsistence(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&d.downgrade, "allow-downgrades", false, "even if channels go back; the ledger says so")
	c.Flags().BoolVar(&d.unconfirmed, "allow-unconfirmed", false, "even if it is not what is confirmed, and runs well, where the environment follows; the ledger says so")
	c.Flags().BoolVar(&d.retry, "retry", false, "try a revision again that was rejected, or that runs")
	return c
}

func (d *driver) planCommand() *cobra.Command {
	return d.addBuildFlags(&cobra.Command{
		Use: "plan NAME", Short: "Say what apply would do, and change nothing", Args: arguments(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) (err error) {
			change, err := d.build(c.Context(), args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, change.close()) }()
			p, err := change.Plan(c.Context(), change.Revision)
			if err != nil {
				return err
			}
			if err := d.print(p, func(w io.Writer) { p.WriteTo(w) }); err != nil {
				return err
			}
			for _, r := range p.Refusals {
				if hint := advice[r.Check]; hint != "" {
					fmt.Fprintf(d.stderr, "hint: %s\n", hint)
				}
			}
			if len(p.Refusals) > 0 {
				return exitStatus(container.Refused)
			}
			return nil
		},
	})
}

func (d *driver) applyCommand() *cobra.Command {
	var generation int
	c := d.addBuildFlags(&cobra.Command{
		Use: "apply NAME", Short: "Make what the file declares the running generation", Args: arguments(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if generation != 0 && (d.script != "" || d.guix != "") {
				return &cli.MisuseError{Err: errors.New("--generation is of what was built before: leave out --script and --guix")}
			}
			if generation != 0 {
				return d.goTo(c.Context(), args[0], generation, false)
			}
			change, err := d.build(c.Context(), args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, change.close()) }()
			err = d.conclude(during(d, "deploying", change.Deployment, func() (*container.Generation, error) {
				return change.Apply(c.Context(), change.Revision)
			}))
			return d.supervised(change.Deployment, args[0], err)
		},
	})
	c.Flags().IntVar(&generation, "generation", 0, "an older generation, as it was, in the place of what the file declares")
	return c
}

func (d *driver) rollbackCommand() *cobra.Command {
	var state bool
	c := &cobra.Command{
		Use: "rollback NAME [GENERATION]", Short: "Go back to the last healthy generation before the current one, or to GENERATION",
		Args: arguments(cobra.RangeArgs(1, 2)),
		RunE: func(c *cobra.Command, args []string) (err error) {
			number := 0
			if len(args) == 2 {
				if number, err = generationNumber(args[1]); err != nil {
					return err
				}
			}
			return d.goTo(c.Context(), args[0], number, state)
		},
	}
	c.Flags().BoolVar(&state, "restore-state", false, "put back the snapshot of state as that generation left it; what was written since is lost")
	return c
}

// generationNumber reads an argument that is one.
func generationNumber(text string) (int, error) {
	number, err := strconv.Atoi(text)
	if err != nil || number < 1 {
		return 0, usage(fmt.Errorf("%q is not the number of a generation", text))
	}
	return number, nil
}

// goTo makes an older generation run again; 0 is the last healthy one before.
func (d *driver) goTo(ctx context.Context, name string, number int, state bool) (err error) {
	dep, err := d.existing(name)
	if err != nil {
		return err
	}
	pool := connect(dep)
	defer func() { err = errors.Join(err, pool.Close()) }()
	err = d.conclude(during(d, "going back in", dep, func() (*container.Generation, error) {
		return dep.RollBack(ctx, number, container.Revision{Who: d.author(), Why: d.why, RestoreState: state})
	}))
	return d.supervised(dep, name, err)
}

func (d *driver) conclude(g *container.Generation, err error) error {
	if err != nil {
		return err
	}
	return d.print(g, func(w io.Writer) {
		fmt.Fprintf(w, "generation %d runs: %s\n", g.Number, g.Script)
		if g.Switched != nil {
			fmt.Fprintf(w, "  %v\n", g.Switched)
		}
	})
}

func (d *driver) diffCommand() *cobra.Command {
	return &cobra.Command{
		Use: "diff NAME OLD NEW", Short: "Say what distinguishes two generations, each NUMBER or ENVIRONMENT:NUMBER or ENVIRONMENT",
		Long: `Say what distinguishes two generations, each NUMBER or ENVIRONMENT:NUMBER or ENVIRONMENT: what they
are given, channels, packages, files of the system that have no version, services, accounts. Packages that were built again as
they are, and files that only refer to other store items, are counted; --json has all of them.`,
		Args: arguments(cobra.ExactArgs(3)),
		RunE: func(c *cobra.Command, args []string) (err error) {
			old, err := d.generation(args[0], args[1])
			if err != nil {
				return err
			}
			new, err := d.generation(args[0], args[2])
			if err != nil {
				return err
			}
			pool := &store.Pool{}
			defer func() { err = errors.Join(err, pool.Close()) }()
			difference, err := container.Diff(c.Context(), guixci.Closures{Pool: pool}, old, new)
			if err != nil {
				return err
			}
			return d.print(difference, func(w io.Writer) { difference.WriteTo(w) })
		},
	}
}

// generation returns the one that an argument of diff means: the current one where there is no number.
func (d *driver) generation(name, text string) (*container.Generation, error) {
	e := *d
	environment, digits, numbered := strings.Cut(text, ":")
	if _, err := strconv.Atoi(text); err == nil {
		digits, numbered = text, true
	} else {
		e.environment, e.file = environment, ""
	}
	number := 0
	if numbered {
		var err error
		if number, err = generationNumber(digits); err != nil {
			return nil, err
		}
	}
	dep, err := e.existing(name)
	if err != nil {
		return nil, err
	}
	if numbered {
		return dep.Generation(number)
	}
	g, err := dep.Current()
	if err == nil && g == nil {
		err = fmt.Errorf("%s: %w", dep.Name, container.ErrNothing)
	}
	return g, err
}
