package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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
	follow   []string
}

func (d *driver) watchCommand() *cobra.Command {
	var w watching
	c := &cobra.Command{
		Use:   "watch FILE",
		Short: "Print a line whenever the branch of a channel moves",
		Long: `Print a line whenever the branch of one of the channels moves, until interrupted. One that
is seen for the first time says where it stands; of the others is remembered where they stood
the last time. A branch that was rewritten is reported as such and not followed, unless --follow
accepts it. Signal USR1 has all repositories looked at now, as a hook for pushes would.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error { return d.watch(c.Context(), args[0], w) },
	}
	w.flags(c)
	c.Flags().DurationVar(&w.interval, "interval", time.Minute, "time between two looks at a repository")
	c.Flags().StringSliceVar(&w.follow, "follow", nil, "begin anew with these channels, whose branches were rewritten for a reason")
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
	dir, err := d.stateDir()
	if err != nil {
		return err
	}
	seen := heads(filepath.Join(dir, "heads"))
	known, err := seen.read(list, how.follow)
	if err != nil {
		return err
	}
	w := &channel.Watcher{Remote: repos, Channels: list, Heads: known, Interval: how.interval, Logger: d.logger()}
	defer pokeAt(syscall.SIGUSR1, w)()
	moves := 0
	for u, err := range w.Updates(ctx) {
		if err != nil {
			cli.Complain(d.stderr, program, err)
			continue
		}
		if err := d.printUpdate(u); err != nil {
			return err
		}
		if !u.Rewritten {
			if err := seen.write(u.Channel, u.New); err != nil {
				return err
			}
		}
		if moves++; moves == how.count {
			return nil
		}
	}
	return nil // interrupted, which is how watching ends
}

// pokeAt has everything looked at when a signal comes, until the function it returns is called.
func pokeAt(s os.Signal, w *channel.Watcher) (end func()) {
	signals, done, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	signal.Notify(signals, s)
	go func() {
		defer close(ended)
		for {
			select {
			case <-signals:
				for _, c := range w.Channels {
					w.Poke(c.Name)
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
		<-ended
	}
}

// heads is a directory with a file for every branch that was watched, which has the commit it
// stood at: what was rewritten while nobody watched is noticed too.
type heads string

func (h heads) file(c channel.Channel) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", c.Name, c.URL, cmp.Or(c.Branch, "master")))
	return filepath.Join(string(h), hex.EncodeToString(sum[:16]))
}

// read returns the heads of channels, without those to be forgotten.
func (h heads) read(list channel.List, forget []string) (map[string]channel.Commit, error) {
	for _, name := range forget {
		if _, ok := list.Named(name); !ok {
			return nil, usage(fmt.Errorf("--follow: the file has no channel %q", name))
		}
	}
	known := map[string]channel.Commit{}
	for _, c := range list {
		text, err := os.ReadFile(h.file(c))
		if errors.Is(err, fs.ErrNotExist) || slices.Contains(forget, c.Name) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read where channel %s stood: %w", c.Name, err)
		}
		if known[c.Name], err = channel.ParseCommit(strings.TrimSpace(string(text))); err != nil {
			return nil, fmt.Errorf("read where channel %s stood: %w: remove %s to begin anew", c.Name, err, h.file(c))
		}
	}
	return known, nil
}

func (h heads) write(c channel.Channel, head channel.Commit) error {
	if err := os.MkdirAll(string(h), 0o700); err != nil {
		return fmt.Errorf("remember where channel %s stands: %w", c.Name, err)
	}
	return replaceFile(h.file(c), []byte(string(head)+"\n"))
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
