package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/internal/cli"
)

func (d *driver) syncCommand() *cobra.Command {
	var from string
	c := &cobra.Command{
		Use:   "sync --from LOCK REPO...",
		Short: "Bring the .guix-channel files of checkouts in line with a lock",
		Long: `Bring the .guix-channel files of other repositories in line with LOCK: the commits of
their dependencies are changed where they stand; comments and layout stay. Each REPO is a
checkout, or a file. What cannot be cured that way, like another url, is reported.`,
		Args: arguments(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error { return d.sync(from, args) },
	}
	c.Flags().StringVar(&from, "from", "", "the lock: JSON, or a channels.scm with complete commits")
	return c
}

func (d *driver) sync(from string, repos []string) error {
	if from == "" {
		return usage(fmt.Errorf("sync: say --from LOCK"))
	}
	lock, err := readLock(from)
	if err != nil {
		return err
	}
	type result struct {
		Changes  []channel.Change  `json:"changes"`
		Findings []channel.Finding `json:"findings"` // that are left
	}
	all := result{Changes: []channel.Change{}, Findings: []channel.Finding{}}
	for _, name := range repos {
		changes, left, err := syncOne(lock, name)
		if err != nil {
			return err
		}
		all.Changes, all.Findings = append(all.Changes, changes...), append(all.Findings, left...)
	}
	if d.json {
		err = d.print(all)
	} else if err = d.reportChanges(all.Changes); err == nil {
		d.printFindings(all.Findings)
	}
	if err == nil && len(all.Findings) > 0 {
		d.said = true
		err = fmt.Errorf("sync: %w", cli.ErrRed)
	}
	return err
}

// syncOne changes one file and returns what is still wrong with it.
func syncOne(lock *channel.Lock, name string) ([]channel.Change, []channel.Finding, error) {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		name = filepath.Join(name, ".guix-channel")
	}
	f, err := readFile(name)
	if err != nil {
		return nil, nil, err
	}
	text, changes, err := f.Pin(lock, false)
	if err != nil {
		return nil, nil, err
	}
	if len(changes) > 0 {
		if err := replaceFile(name, text); err != nil {
			return nil, nil, err
		}
	}
	after, err := channel.ReadFile(name, text)
	if err != nil {
		return nil, nil, err
	}
	return changes, after.Drift(lock), nil
}

func readFile(name string) (*channel.File, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, usage(err)
	}
	f, err := channel.ReadFile(name, text)
	if err != nil {
		return nil, usage(err)
	}
	return f, nil
}
