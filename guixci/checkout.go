package guixci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/channel"
)

// checkout returns a directory with the files of a channel at its commit. It is made
// once and kept.
func (p *Pipeline) checkout(ctx context.Context, c channel.LockedChannel) (string, error) {
	dir := p.path("checkouts", checkoutName(c))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	repo, err := p.repos.Open(ctx, c.URL)
	if err != nil {
		return "", err
	}
	if err := writeCheckout(ctx, repo, c.Commit, dir); err != nil {
		return "", fmt.Errorf("check out channel %s: %w", c.Name, err)
	}
	return dir, nil
}

func checkoutName(c channel.LockedChannel) string { return c.Name + "-" + string(c.Commit) }

// writeCheckout makes the directory appear whole: another call may have a Guix read it.
func writeCheckout(ctx context.Context, repo *channel.Repository, commit channel.Commit, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(filepath.Dir(dir), ".new-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary) // once it has been renamed there is none
	if err := repo.WriteTree(ctx, commit, temporary); err != nil {
		return err
	}
	// Guix gives what it finds here to its daemon, as whoever that runs builds as.
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	if err := syncAll(temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, dir); err != nil {
		if _, there := os.Stat(dir); there == nil {
			return nil // somebody else was faster
		}
		return err
	}
	return syncAll(filepath.Dir(dir))
}

// syncAll has the file system that holds dir write everything down.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
