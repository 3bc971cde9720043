package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/substitute"
)

func (d *driver) promoteCommand() *cobra.Command {
	var from, to string
	c := &cobra.Command{
		Use: "promote NAME --from ENVIRONMENT --to ENVIRONMENT", Args: arguments(cobra.ExactArgs(1)),
		Short: "Run in one environment the very store item that is confirmed in another",
		RunE: func(c *cobra.Command, args []string) (err error) {
			switch {
			case from == "" || to == "" || d.file == "":
				return usage(errors.New("promote needs --file, --from and --to"))
			case from == to:
				return usage(fmt.Errorf("environment %q cannot be promoted to itself", to))
			}
			p, dep, err := d.promotion(args[0], from, to)
			if err != nil {
				return err
			}
			pool := connect(dep)
			defer func() { err = errors.Join(err, pool.Close()) }()
			p.AllowDowngrade, p.AllowUnconfirmed, p.Force = d.downgrade, d.unconfirmed, d.retry
			target := *d
			target.environment = to
			err = d.conclude(during(d, "deploying", dep, func() (*container.Generation, error) { return dep.Promote(c.Context(), p) }))
			return target.supervised(dep, args[0], err)
		},
	}
	c.Flags().StringVar(&from, "from", "", "the environment that is followed, such as cd")
	c.Flags().StringVar(&to, "to", "", "the environment that follows, such as production")
	return d.addInsistence(c)
}

// promotion returns what is to be promoted, and where to.
func (d *driver) promotion(name, from, to string) (container.Promotion, *container.Deployment, error) {
	source, target := *d, *d
	source.environment, target.environment = from, to
	followed, err := source.existing(name)
	if err != nil {
		return container.Promotion{}, nil, err
	}
	dep, _, err := target.deployment(name)
	if err != nil {
		return container.Promotion{}, nil, err
	}
	state, err := d.stateDir()
	repos := &channel.Repositories{Dir: filepath.Join(state, "repos"), Logger: dep.Logger}
	return container.Promotion{From: followed, Descends: guixci.Descends(repos), Who: d.author(), Why: d.why}, dep, err
}

func (d *driver) exportCommand() *cobra.Command {
	var bare bool
	c := d.on("export NAME FILE", "Write all it takes to go on with the deployment on another machine", cobra.ExactArgs(2),
		func(c *cobra.Command, dep *container.Deployment, args []string) (err error) {
			carrier, done, err := d.carrier(dep)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			if args[0] == "-" {
				return dep.Export(c.Context(), d.stdout, carrier, !bare)
			}
			return writeTo(args[0], func(w io.Writer) error { return dep.Export(c.Context(), w, carrier, !bare) })
		})
	c.Flags().BoolVar(&bare, "without-items", false, "leave out the store items: the other machine has them, or substitutes")
	return c
}

// writeTo makes a file for its owner, all of it or none. There must be none of that name.
func writeTo(name string, write func(io.Writer) error) error {
	if _, err := os.Lstat(name); err == nil {
		return usage(&fs.PathError{Op: "create", Path: name, Err: unix.EEXIST})
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".")
	if err != nil {
		return usage(err)
	}
	defer os.Remove(f.Name())
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	err = os.Link(f.Name(), name)
	if errors.Is(err, fs.ErrExist) { // since
		err = usage(err)
	}
	return err
}

func (d *driver) importCommand() *cobra.Command {
	return &cobra.Command{
		Use: "import NAME FILE", Short: "Make NAME the deployment that another machine has exported; start runs it",
		Args: arguments(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, args []string) (err error) {
			dep, _, err := d.deployment(args[0])
			if err != nil {
				return err
			}
			in := os.Stdin
			if args[1] != "-" {
				if in, err = os.Open(args[1]); err != nil {
					return usage(err)
				}
				defer in.Close()
			}
			carrier, done, err := d.carrier(dep)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			return dep.Import(c.Context(), in, carrier, d.author(), d.why)
		},
	}
}

// carrier signs with the key of the state directory, the one that guixci-publish signs with.
func (d *driver) carrier(dep *container.Deployment) (*guixci.Carrier, func() error, error) {
	state, err := d.stateDir()
	if err != nil {
		return nil, nil, err
	}
	keys := filepath.Join(state, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return nil, nil, err
	}
	key, err := substitute.EnsureKeyPair(filepath.Join(keys, "signing-key.sec"))
	if err != nil {
		return nil, nil, err
	}
	carrier := &guixci.Carrier{Pool: connect(dep), Key: key}
	return carrier, func() error { return errors.Join(carrier.Close(), carrier.Pool.Close()) }, nil
}
