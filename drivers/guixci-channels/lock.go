package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/channel"
)

// A locking is what the flags of "lock" say.
type locking struct {
	source
	write        bool
	update       []string
	authenticate bool
	allowLocal   bool
}

func (d *driver) lockCommand() *cobra.Command {
	var l locking
	c := &cobra.Command{
		Use:   "lock FILE",
		Short: "Find the commit of every channel, also of those that others depend on",
		Long: `Find the commit of every channel of FILE, and of those that they depend on, merging
them as "guix pull" does. The lock is printed as a channels.scm for "guix pull -C", or
as JSON. With --write the commits in FILE are changed where they stand, and the
channels it lacks are added; comments and layout stay.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error { return d.lock(c.Context(), args[0], l) },
	}
	l.flags(c)
	f := c.Flags()
	f.BoolVarP(&l.write, "write", "w", false, "change FILE in place instead of printing the lock")
	f.StringSliceVarP(&l.update, "update", "u", nil, "take the newest commit of the branch of these channels, whatever their pin")
	f.BoolVar(&l.authenticate, "authenticate", true, "authenticate every channel that has an introduction")
	f.BoolVar(&l.allowLocal, "allow-local", false, "let dependencies be repositories on this machine")
	return c
}

func (d *driver) lock(ctx context.Context, name string, how locking) error {
	list, file, err := how.channels(ctx, name)
	if err != nil {
		return err
	}
	if how.write && (file == nil || file.Metadata() != nil) {
		return usage(fmt.Errorf("lock --write: %s is no channels.scm that is plain data", name))
	}
	if err := float(list, how.update); err != nil {
		return usage(err)
	}
	repos, err := d.repositories()
	if err != nil {
		return err
	}
	resolver := &channel.Resolver{Repositories: repos, AllowLocal: how.allowLocal, Logger: d.logger()}
	lock, err := resolver.Resolve(ctx, list)
	if err != nil {
		return err
	}
	if how.authenticate {
		if err := d.authenticateLock(ctx, repos, lock); err != nil {
			return err
		}
	}
	if how.write {
		return d.writeLock(file, lock)
	}
	if d.json {
		return d.print(lock)
	}
	_, err = lock.WriteTo(d.stdout)
	return err
}

// float takes the commits away from the channels of these names.
func float(list channel.List, names []string) error {
	for _, name := range names {
		i := slices.IndexFunc(list, func(c channel.Channel) bool { return c.Name == name })
		if i < 0 {
			return fmt.Errorf("--update: the file has no channel %q", name)
		}
		list[i].Commit = ""
	}
	return nil
}

func (d *driver) authenticateLock(ctx context.Context, repos *channel.Repositories, lock *channel.Lock) error {
	dir, err := d.stateDir()
	if err != nil {
		return err
	}
	a := &channel.Authenticator{Repositories: repos, Cache: filepath.Join(dir, "authenticated"), Logger: d.logger()}
	all, err := a.AuthenticateLock(ctx, lock)
	var refused *channel.AuthError
	if errors.As(err, &refused) {
		return d.report(nil, err)
	}
	for _, result := range all {
		if result.Introduction == nil {
			d.warnf("channel %s has no introduction and is not authenticated", result.Channel)
		}
	}
	return err
}

func (d *driver) writeLock(file *channel.File, lock *channel.Lock) error {
	text, changes, err := file.Pin(lock, true)
	if err != nil {
		return usage(err)
	}
	if len(changes) > 0 {
		if err := replaceFile(file.Name, text); err != nil {
			return err
		}
	}
	return d.reportChanges(changes)
}

func (d *driver) reportChanges(changes []channel.Change) error {
	if d.json {
		if changes == nil {
			changes = []channel.Change{}
		}
		return d.print(changes)
	}
	for _, c := range changes {
		switch {
		case c.Added:
			d.printf("%s: added %s at %s\n", c.Place.File, c.Channel, c.New)
		case c.Old == "":
			d.printf("%s: pinned %s at %s\n", c.Place, c.Channel, c.New)
		default:
			d.printf("%s: moved %s from %s to %s\n", c.Place, c.Channel, c.Old, c.New)
		}
	}
	return nil
}
