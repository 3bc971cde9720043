package channel

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Heads returns, for every channel of list, the commit it stands at now, asking
// each repository for its references without cloning anything.
// A complete pin stands for itself. The result has the order of list.
// An abbreviated commit cannot be looked up this way: it stays as it is.
func (s *Repositories) Heads(ctx context.Context, list List) ([]Commit, error) {
	listings := map[string]*listing{}
	for _, c := range list {
		if !c.Commit.Complete() && listings[c.URL] == nil {
			listings[c.URL] = &listing{}
		}
	}
	heads := make([]Commit, len(list))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i, c := range list {
		if c.Commit.Complete() {
			heads[i] = c.Commit
			continue
		}
		group.Go(func() (err error) {
			refs, err := listings[c.URL].get(ctx, s, c.URL)
			if err == nil {
				heads[i], err = headAmong(refs, c)
			}
			return err
		})
	}
	return heads, group.Wait()
}

// A listing is fetched once however many channels share the URL.
type listing struct {
	once sync.Once
	refs map[string]Commit
	err  error
}

func (l *listing) get(ctx context.Context, s *Repositories, url string) (map[string]Commit, error) {
	l.once.Do(func() { l.refs, l.err = s.References(ctx, url) })
	return l.refs, l.err
}

func headAmong(refs map[string]Commit, c Channel) (Commit, error) {
	if c.Commit != "" {
		if tag, ok := refs["refs/tags/"+string(c.Commit)]; ok {
			return tag, nil
		}
		return c.Commit, nil
	}
	name := c.branch()
	if !strings.HasPrefix(name, "refs/") {
		name = "refs/heads/" + name
	}
	head, ok := refs[name]
	if !ok {
		return "", fmt.Errorf("look up head of channel %s: %w", c.Name, &RepositoryError{
			URL: c.URL, Final: true, Err: fmt.Errorf("it has no branch %q", c.branch()), Remedy: "check the branch of the channel",
		})
	}
	return head, nil
}

// Current reports whether resolving list now would give lock again. It asks for
// references only: fast when nothing changed, and false when in doubt.
func (r *Resolver) Current(ctx context.Context, list List, lock *Lock) (bool, error) {
	if !slices.EqualFunc(list, lock.Requested, equalChannels) {
		return false, nil
	}
	declared := make(List, len(lock.Channels))
	for i, c := range lock.Channels {
		declared[i] = c.Channel
		declared[i].Commit = c.Pin
	}
	heads, err := r.Repositories.Heads(ctx, declared)
	if err != nil {
		return false, err
	}
	for i, head := range heads {
		locked := lock.Channels[i].Commit
		abbreviated := !head.Complete() && isHex(string(head)) && strings.HasPrefix(string(locked), string(head))
		if head != locked && !abbreviated {
			return false, nil
		}
	}
	return true, nil
}

func equalChannels(a, b Channel) bool {
	return a.withDefaults().canonical().String() == b.withDefaults().canonical().String()
}
