package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/internal/cli"
)

// A checking is what the flags of "check" say.
type checking struct {
	source
	from       string
	allow      []string
	offline    bool
	allowLocal bool
}

func (d *driver) checkCommand() *cobra.Command {
	var k checking
	c := &cobra.Command{
		Use:   "check FILE...",
		Short: "Report what is wrong with channel files, and where they differ from a lock",
		Long: `Report what is wrong with each FILE, a channels.scm or a .guix-channel (a directory stands
for the one in it): channels that are not pinned, declarations that conflict, dependencies
that Guix will not load. With --from, also where they differ from a lock. Every finding has a
code and says what to do; --allow accepts the codes given.`,
		Args: arguments(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error { return d.check(c.Context(), args, k) },
	}
	k.flags(c)
	f := c.Flags()
	f.StringVar(&k.from, "from", "", "compare with this lock")
	f.StringSliceVar(&k.allow, "allow", nil, "codes of findings to accept")
	f.BoolVar(&k.offline, "offline", false, "with --from, only compare: ask nothing of the network")
	f.BoolVar(&k.allowLocal, "allow-local", false, "let dependencies be repositories on this machine")
	return c
}

func (d *driver) check(ctx context.Context, files []string, how checking) error {
	if how.offline && how.from == "" {
		return usage(fmt.Errorf("check --offline: there is nothing to compare with; say --from LOCK"))
	}
	var lock *channel.Lock
	if how.from != "" {
		var err error
		if lock, err = readLock(how.from); err != nil {
			return err
		}
	}
	all := []channel.Finding{}
	for _, name := range files {
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			name = filepath.Join(name, ".guix-channel")
		}
		found, err := d.checkOne(ctx, name, how, lock)
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	all = slices.DeleteFunc(all, func(f channel.Finding) bool { return slices.Contains(how.allow, string(f.Code)) })
	if d.json {
		if err := d.print(all); err != nil {
			return err
		}
	} else {
		d.printFindings(all)
	}
	if len(all) == 0 {
		return nil
	}
	d.said = true
	return fmt.Errorf("check: %w", cli.ErrRed)
}

// checkOne compares with the lock unless it is nil.
func (d *driver) checkOne(ctx context.Context, name string, how checking, lock *channel.Lock) (all []channel.Finding, err error) {
	list, f, err := how.channels(ctx, name)
	if err != nil {
		if text, readErr := os.ReadFile(name); readErr == nil {
			all = channel.LintError(text, err)
		}
		if all != nil {
			err = nil
		}
		return all, err
	}
	if f == nil { // a program or another format: where its channels are written is unknown
		f = channel.FileOf(name, list)
	}
	if lock != nil {
		all = f.Drift(lock)
	}
	if how.offline {
		return all, nil
	}
	repos, err := d.repositories()
	if err != nil {
		return nil, err
	}
	resolver := &channel.Resolver{Repositories: repos, AllowLocal: how.allowLocal, Logger: d.logger()}
	found, _, err := resolver.Lint(ctx, f)
	drift := all // which may have said the same already
	for _, one := range found {
		if !slices.ContainsFunc(drift, func(f channel.Finding) bool { return f.Code == one.Code && f.Place == one.Place }) {
			all = append(all, one)
		}
	}
	return all, err
}

func (d *driver) printFindings(all []channel.Finding) {
	for _, f := range all {
		d.printf("%v\n", f)
	}
}
