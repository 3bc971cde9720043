package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/channel"
)

func (d *driver) explainCommand() *cobra.Command {
	var s source
	allowLocal := false
	c := &cobra.Command{
		Use:   "explain FILE",
		Short: "Say for every channel which declaration won, which lost, and where they are",
		Args:  arguments(cobra.ExactArgs(1)),
		RunE:  func(c *cobra.Command, args []string) error { return d.explain(c.Context(), args[0], s, allowLocal) },
	}
	s.flags(c)
	c.Flags().BoolVar(&allowLocal, "allow-local", false, "let dependencies be repositories on this machine")
	return c
}

func (d *driver) explain(ctx context.Context, name string, s source, allowLocal bool) error {
	list, f, err := s.channels(ctx, name)
	if err != nil {
		return err
	}
	if f == nil {
		f = channel.FileOf(name, list)
	}
	repos, err := d.repositories()
	if err != nil {
		return err
	}
	resolver := &channel.Resolver{Repositories: repos, AllowLocal: allowLocal, Logger: d.logger()}
	e, err := resolver.Explain(ctx, f)
	if err != nil || d.json {
		if err == nil {
			err = d.print(e)
		}
		return err
	}
	for _, c := range e.Lock.Channels {
		d.printf("%s at %s\n", c.Name, c.Commit)
		for _, declaration := range e.Of(c.Name) {
			d.explainOne(declaration)
		}
	}
	return nil
}

func (d *driver) explainOne(e *channel.Declaration) {
	outcome, at := "lost", string(e.Channel.Commit)
	if e.Won {
		outcome = "won"
	}
	if at == "" {
		at = "branch " + e.Channel.Branch
	}
	d.printf("  %-4s %s: %s\n       %s: %s\n", outcome, e.Place, at, e.Channel.URL, e.Why)
}
