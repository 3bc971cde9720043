package channel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A Resolver turns channel lists into locks.
type Resolver struct {
	Repositories *Repositories // required
	// AllowLocal lets the .guix-channel of a repository elsewhere name repositories on
	// this machine. Without it only those of local repositories may.
	AllowLocal bool
	Logger     *slog.Logger // nil discards
}

// ErrNoGuix is wrapped by the error of [Resolver.Resolve] when no channel is called guix.
var ErrNoGuix = errors.New("'guix' channel is lacking")

// Resolve finds the commits of the channels of list and of those they depend on,
// merging them exactly as Guix's latest-channel-instances does: breadth first,
// one channel per name, and an entry gives way only to a later one that names a
// commit where it does not. Dependencies are those that .guix-channel declares at
// the commit found. Nothing is authenticated; see [Authenticator].
func (r *Resolver) Resolve(ctx context.Context, list List) (*Lock, error) {
	m := r.merge(list, nil)
	if err := m.run(ctx); err != nil {
		return nil, err
	}
	lock := m.lock(list)
	if _, ok := lock.List().Named(guixName); !ok {
		return nil, lackingGuix()
	}
	return lock, nil
}

func lackingGuix() error {
	return fmt.Errorf("resolve channels: %w: every channel needs the one named guix", ErrNoGuix)
}

// merge begins to resolve list, whose channels are written at places, if there are any.
func (r *Resolver) merge(list List, places []Place) *merge {
	m := &merge{resolver: r, instances: map[string]*instance{}}
	for i, c := range list {
		d := Declaration{Channel: c.withDefaults()}
		if i < len(places) {
			d.Place = places[i]
		}
		m.work = append(m.work, declaration{Declaration: &d, local: true})
	}
	return m
}

func (m *merge) run(ctx context.Context) error {
	for len(m.work) > 0 {
		head := m.work[0]
		m.work = m.work[1:]
		if err := m.add(ctx, head); err != nil {
			return err
		}
	}
	return nil
}

// A merge is the state of one Resolve.
type merge struct {
	resolver  *Resolver
	work      []declaration
	chosen    []LockedChannel // in the order they were last chosen
	all       []*Declaration  // in the order they were considered
	instances map[string]*instance
	// unreadable, when it is not nil, is told of a .guix-channel that cannot be read, which then
	// counts as if it were not there.
	unreadable func(*unreadableError)
}

// A declaration is a channel somebody asks for.
type declaration struct {
	*Declaration
	local bool // by the list, or by a repository on this machine
}

// An instance is a channel at its commit.
type instance struct {
	repo        *Repository
	commit      Commit
	metadata    *Metadata
	declaration *Declaration
}

func (m *merge) lock(requested List) *Lock {
	return &Lock{Channels: m.chosen, Requested: slices.Clone(requested)}
}

// add takes one declaration off the work list.
func (m *merge) add(ctx context.Context, d declaration) error {
	m.all = append(m.all, d.Declaration)
	previous := slices.IndexFunc(m.chosen, func(c LockedChannel) bool { return c.Name == d.Channel.Name })
	if previous < 0 {
		d.win("nobody asked for it before")
	} else {
		earlier := m.instances[d.Channel.Name].declaration
		if moreSpecific := d.Channel.Commit != "" && m.chosen[previous].Pin == ""; !moreSpecific {
			d.lose(earlier)
			return nil
		}
		d.win("it names a commit, which " + earlier.who() + " does not")
		earlier.replaced(d.Declaration)
		m.chosen = slices.Delete(m.chosen, previous, previous+1)
	}
	if isLocal(d.Channel.URL) && !d.local && !m.resolver.AllowLocal {
		return &RepositoryError{URL: d.Channel.URL, Final: true, Err: fmt.Errorf("channel %s, which comes from elsewhere, may not name a repository on this machine (as its dependency %s)",
			d.By, d.Channel.Name), Remedy: "allow it if you trust that channel"}
	}
	i, places, err := m.resolver.resolve(ctx, d)
	var unreadable *unreadableError
	if errors.As(err, &unreadable) && m.unreadable != nil {
		m.unreadable(unreadable)
		i.metadata, err = DefaultMetadata(), nil
	}
	if err != nil {
		return err
	}
	m.instances[d.Channel.Name] = i
	locked := LockedChannel{Channel: d.Channel, DeclaredBy: d.By, Pin: d.Channel.Commit}
	locked.Commit = i.commit
	m.chosen = append(m.chosen, locked)
	for n, c := range i.metadata.Dependencies {
		next := &Declaration{Channel: c.withDefaults(), By: d.Channel.Name, Place: places[n]}
		m.work = append(m.work, declaration{Declaration: next, local: isLocal(d.Channel.URL)})
	}
	return nil
}

// resolve finds the commit of one channel, and what it depends on there.
func (r *Resolver) resolve(ctx context.Context, d declaration) (*instance, []Place, error) {
	i := &instance{declaration: d.Declaration}
	var places []Place
	err := r.Repositories.repairing(ctx, d.Channel.URL, func() (err error) {
		if i.repo, i.commit, err = r.Repositories.Resolve(ctx, d.Channel); err != nil {
			return err
		}
		if i.metadata, places, err = i.repo.dependencies(i.commit); err != nil {
			return fmt.Errorf("resolve channel %s: %w", d.Channel.Name, err)
		}
		return nil
	})
	if err != nil && d.By != "" {
		err = fmt.Errorf("dependency of channel %s: %w", d.By, err)
	}
	if err == nil && r.Logger != nil {
		r.Logger.Info("resolved", "channel", d.Channel.Name, "commit", i.commit, "declaredBy", d.By)
	}
	return i, places, err
}

// An unreadableError is about the .guix-channel of some channel.
type unreadableError struct {
	text []byte
	*sexp.SyntaxError
}

func (e *unreadableError) Unwrap() error { return e.SyntaxError }

// dependencies returns what .guix-channel says, and where each dependency is written.
func (r *Repository) dependencies(c Commit) (*Metadata, []Place, error) {
	m, err := r.Metadata(c)
	var syntax *sexp.SyntaxError
	if errors.As(err, &syntax) {
		text, textErr := r.File(c, metadataName)
		return nil, nil, errors.Join(&unreadableError{text, syntax}, textErr)
	}
	if err != nil {
		return nil, nil, err
	}
	name := r.metadataName(c)
	places := make([]Place, len(m.Dependencies))
	for i := range places {
		places[i] = Place{File: name}
	}
	if text, err := r.File(c, metadataName); err == nil {
		if f, err := ReadFile(name, text); err == nil && f.metadata != nil {
			places = f.Places()
		}
	}
	return m, places, nil
}
