package channel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// A Resolver turns channel lists into locks.
type Resolver struct {
	Repositories *Repositories // required
	Logger       *slog.Logger  // nil discards
}

// ErrNoGuix is wrapped by the error of [Resolver.Resolve] when no channel is called guix.
var ErrNoGuix = errors.New("'guix' channel is lacking")

// Resolve finds the commits of the channels of list and of those they depend on,
// merging them exactly as Guix's latest-channel-instances does: breadth first,
// one channel per name, and an entry gives way only to a later one that names a
// commit where it does not. Dependencies are those that .guix-channel declares at
// the commit found. Nothing is authenticated; see [Authenticator].
func (r *Resolver) Resolve(ctx context.Context, list List) (*Lock, error) {
	m := merge{resolver: r}
	for _, c := range list {
		m.work = append(m.work, declaration{channel: c.withDefaults()})
	}
	for len(m.work) > 0 {
		head := m.work[0]
		m.work = m.work[1:]
		if err := m.add(ctx, head); err != nil {
			return nil, err
		}
	}
	lock := &Lock{Channels: m.chosen, Requested: slices.Clone(list)}
	if _, ok := lock.List().Named(guixName); !ok {
		return nil, fmt.Errorf("resolve channels: %w: every channel needs the one named guix", ErrNoGuix)
	}
	return lock, nil
}

// A merge is the state of one Resolve.
type merge struct {
	resolver *Resolver
	work     []declaration
	chosen   []LockedChannel // in the order they were last chosen
}

// A declaration is a channel somebody asks for.
type declaration struct {
	channel Channel
	by      string // channel that asks; empty for the list
	byLocal bool   // that channel's own repository is on this machine
}

// add takes one declaration off the work list.
func (m *merge) add(ctx context.Context, d declaration) error {
	previous := slices.IndexFunc(m.chosen, func(c LockedChannel) bool { return c.Name == d.channel.Name })
	if previous >= 0 {
		if moreSpecific := d.channel.Commit != "" && m.chosen[previous].Pin == ""; !moreSpecific {
			return nil
		}
		m.chosen = slices.Delete(m.chosen, previous, previous+1)
	}
	if d.by != "" && isLocal(d.channel.URL) && !d.byLocal {
		return fmt.Errorf("resolve channel %s: channel %s, which comes from elsewhere, may not name the local repository %q",
			d.channel.Name, d.by, d.channel.URL)
	}
	locked, dependencies, err := m.resolver.resolve(ctx, d)
	if err != nil {
		return err
	}
	m.chosen = append(m.chosen, locked)
	for _, c := range dependencies {
		m.work = append(m.work, declaration{channel: c.withDefaults(), by: d.channel.Name, byLocal: isLocal(d.channel.URL)})
	}
	return nil
}

// resolve finds the commit of one channel, and what it depends on there.
func (r *Resolver) resolve(ctx context.Context, d declaration) (LockedChannel, List, error) {
	var commit Commit
	var metadata *Metadata
	err := r.Repositories.repairing(ctx, d.channel.URL, func() error {
		repo, c, err := r.Repositories.Resolve(ctx, d.channel)
		if err != nil {
			return err
		}
		commit = c
		if metadata, err = repo.Metadata(c); err != nil {
			return fmt.Errorf("resolve channel %s: %w", d.channel.Name, err)
		}
		return nil
	})
	if err != nil && d.by != "" {
		err = fmt.Errorf("dependency of channel %s: %w", d.by, err)
	}
	if err != nil {
		return LockedChannel{}, nil, err
	}
	if r.Logger != nil {
		r.Logger.Info("resolved", "channel", d.channel.Name, "commit", commit, "declaredBy", d.by)
	}
	locked := LockedChannel{Channel: d.channel, DeclaredBy: d.by, Pin: d.channel.Commit}
	locked.Commit = commit
	return locked, metadata.Dependencies, nil
}
