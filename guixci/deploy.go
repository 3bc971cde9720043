package guixci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/inferior"
)

// A System is a file in a channel that declares an operating system, to be run in a container.
// The file may use those beside it, with local-file or load.
type System struct {
	Channel string // name of a channel of the lock
	File    string // in its repository, with slashes
	// Network has the container use the network of the host ("--network").
	Network bool
}

// Container builds the container of a system at exactly the commits of lock, and
// returns the store item of its run-container script: the one artefact that every
// environment runs. The error is an *[inferior.SystemError] when Guix cannot build it, a *[NotInLockError] when there is none.
func (p *Pipeline) Container(ctx context.Context, lock *channel.Lock, sys System) (script string, err error) {
	file, err := p.systemFile(ctx, lock, sys)
	if err != nil {
		return "", err
	}
	profile, err := p.Pull(ctx, lock)
	if err != nil {
		return "", err
	}
	// guix refuses a root that exists. What it kept until now is kept by the
	// generations that use it.
	root := p.path("roots", containerRoot(lock.Digest(), sys))
	if err := os.Remove(root); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("root container: %w", err)
	}
	return inferior.SystemContainer(ctx, inferior.SystemOptions{
		Guix: profile.Guix(), File: file, Network: sys.Network, SaveProvenance: true,
		Env: p.environment(), Root: root, Log: p.o.Log,
	})
}

// A NotInLockError is a system that is not in the lock.
type NotInLockError struct {
	System System
	Reason string
}

func (e *NotInLockError) Error() string {
	return fmt.Sprintf("find system %s: %s", e.System.File, e.Reason)
}

// systemFile returns the file as it is at the lock's commit, among its siblings.
func (p *Pipeline) systemFile(ctx context.Context, lock *channel.Lock, sys System) (string, error) {
	i := slices.IndexFunc(lock.Channels, func(c channel.LockedChannel) bool { return c.Name == sys.Channel })
	if i < 0 {
		return "", &NotInLockError{sys, fmt.Sprintf("no channel %q in the lock", sys.Channel)}
	}
	c := lock.Channels[i]
	if found, err := p.hasFile(ctx, c, []string{sys.File}); err != nil {
		return "", err
	} else if !found {
		return "", &NotInLockError{sys, fmt.Sprintf("channel %s has no file %q at commit %s", c.Name, sys.File, c.Commit)}
	}
	dir, err := p.checkout(ctx, c)
	return filepath.Join(dir, filepath.FromSlash(path.Clean("/"+sys.File))), err
}

// Deploy makes a container script built from lock the running generation of d,
// whose state directory and roots are set to be in the pipeline's.
// The error is a *[container.Error].
func (p *Pipeline) Deploy(ctx context.Context, d *container.Deployment, lock *channel.Lock, rev container.Revision) (*container.Generation, error) {
	return p.Deployment(d).Apply(ctx, p.revision(lock, rev))
}

// Plan says what Deploy would do, and changes nothing.
func (p *Pipeline) Plan(ctx context.Context, d *container.Deployment, lock *channel.Lock, rev container.Revision) (*container.Plan, error) {
	return p.Deployment(d).Plan(ctx, p.revision(lock, rev))
}

// revision has a revision be of a lock, and take no channel back unless it allows that.
func (p *Pipeline) revision(lock *channel.Lock, rev container.Revision) container.Revision {
	rev.Lock, rev.Channels = lock.Digest(), ChannelsOf(lock)
	if rev.Descends == nil {
		rev.Descends = Descends(p.repos)
	}
	return rev
}

// ChannelsOf returns the channels of a lock as package container knows them.
func ChannelsOf(lock *channel.Lock) []container.Channel {
	var all []container.Channel
	for _, c := range lock.Channels {
		all = append(all, container.Channel{Name: c.Name, URL: c.URL, Commit: string(c.Commit)})
	}
	return all
}

// Closures answers package container's questions by asking guix-daemon.
type Closures struct{ Pool *store.Pool }

// Closure implements [container.Closures].
func (c Closures) Closure(ctx context.Context, item string) (items []container.Item, err error) {
	err = c.Pool.Do(ctx, func(client *store.Client) error {
		paths, err := client.Closure(ctx, store.StorePath(item))
		if err != nil {
			return err
		}
		for _, path := range paths {
			info, err := client.PathInfo(ctx, path)
			if err != nil {
				return err
			}
			items = append(items, container.Item{Path: string(path), Size: info.NarSize})
		}
		return nil
	})
	return items, err
}

// Deployment gives d, and whom it follows, before its first use, its place in the state directory, and d the
// daemon to root generations with, where it has none of its own. It returns d.
func (p *Pipeline) Deployment(d *container.Deployment) *container.Deployment {
	if d.Dir == "" {
		d.Dir = p.path("deployments", d.Name)
	}
	if d.Follows != nil && d.Follows.Dir == "" {
		d.Follows.Dir = p.path("deployments", d.Follows.Name)
	}
	if d.Root == nil {
		d.Root = p.roots.Link
	}
	if d.Closures == nil {
		d.Closures = Closures{p.pool}
	}
	if d.Logger == nil {
		d.Logger = p.o.Logger
	}
	return d
}

// environment is that of the Guix processes we start: ours, but with a home and a
// cache in the state directory, so that nothing outside is touched.
func (p *Pipeline) environment() []string {
	return append(os.Environ(), "HOME="+p.path("cache", "home"), "XDG_CACHE_HOME="+p.path("cache"),
		"XDG_CONFIG_HOME="+p.path("cache", "home", ".config"))
}
