package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/internal/cli"
)

// A watching is what the flags of "watch" say.
type watching struct {
	source
	interval time.Duration
	count    int
}

func (d *driver) watchCommand() *cobra.Command {
	var w watching
	c := &cobra.Command{
		Use:   "watch FILE",
		Short: "Print a line whenever the branch of a channel moves",
		Long: `Print a line whenever the branch of one of the channels moves, until interrupted. First
each says where it stands. A branch that was rewritten is reported as such, and not followed.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error { return d.watch(c.Context(), args[0], w) },
	}
	w.flags(c)
	c.Flags().DurationVar(&w.interval, "interval", time.Minute, "time between two looks at a repository")
	c.Flags().IntVar(&w.count, "count", 0, "end after so many moves (default never)")
	return c
}

func (d *driver) watch(ctx context.Context, name string, how watching) error {
	list, _, err := how.channels(ctx, name)
	if err != nil {
		return err
	}
	if list.Pinned() {
		return usage(errors.New("watch: every channel is pinned to a commit: nothing can move"))
	}
	repos, err := d.repositories()
	if err != nil {
		return err
	}
	w := &channel.Watcher{Remote: repos, Channels: list, Interval: how.interval, Logger: d.logger()}
	seen := 0
	for u, err := range w.Updates(ctx) {
		if err != nil {
			cli.Complain(d.stderr, program, err)
			continue
		}
		if err := d.printUpdate(u); err != nil {
			return err
		}
		if seen++; seen == how.count {
			return nil
		}
	}
	return nil // interrupted, which is how watching ends
}

// printUpdate prints one line, in JSON too.
func (d *driver) printUpdate(u channel.Update) error {
	if d.json {
		e := json.NewEncoder(d.stdout)
		e.SetEscapeHTML(false)
		return e.Encode(u)
	}
	switch {
	case u.Rewritten:
		d.printf("%s %s was REWRITTEN: %s does not come after %s\n", u.Channel.Name, u.Channel.Branch, u.New, u.Old)
	case u.Old == "":
		d.printf("%s %s stands at %s\n", u.Channel.Name, u.Channel.Branch, u.New)
	default:
		d.printf("%s %s moved from %s to %s\n", u.Channel.Name, u.Channel.Branch, u.Old, u.New)
	}
	return nil
}
