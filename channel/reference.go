package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// Resolve fetches what is needed of a channel's repository and returns it with
// the one commit that Guix would take: the pin, looked for among the tags
// and then the commits, or else the head of the branch.
// A complete pin that the mirror has is returned without asking the network.
func (s *Repositories) Resolve(ctx context.Context, c Channel) (*Repository, Commit, error) {
	var r *Repository
	var id Commit
	err := s.repairing(ctx, c.URL, func() (err error) {
		r, id, err = s.resolve(ctx, c)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("resolve channel %s: %w", c.Name, err)
	}
	return r, id, nil
}

func (s *Repositories) resolve(ctx context.Context, c Channel) (*Repository, Commit, error) {
	r, err := s.Open(ctx, c.URL)
	if err != nil {
		return nil, "", err
	}
	if c.Commit.Complete() && r.has(c.Commit) {
		id, err := r.pinned(c.Commit)
		return r, id, err
	}
	switch branch := c.branch(); {
	case c.Commit.Complete():
		return s.fetchCommit(ctx, c)
	case c.Commit != "":
		if r, err = s.Fetch(ctx, c.URL); err != nil {
			return nil, "", err
		}
		id, err := r.pinned(c.Commit)
		return r, id, err
	case strings.HasPrefix(branch, "refs/"):
		spec := config.RefSpec("+" + branch + ":" + branch)
		if err := spec.Validate(); err != nil {
			return nil, "", fmt.Errorf("branch %q: %w", branch, err)
		}
		if r, err = s.update(ctx, c.URL, spec); err != nil {
			return nil, "", err
		}
		id, err := r.head(branch)
		return r, id, err
	default:
		if r, err = s.Fetch(ctx, c.URL); err != nil {
			return nil, "", err
		}
		id, err := r.head("refs/heads/" + branch)
		return r, id, err
	}
}

// fetchCommit gets a commit the mirror lacks: from the branches and tags, or,
// where the server allows it, by its id.
func (s *Repositories) fetchCommit(ctx context.Context, c Channel) (*Repository, Commit, error) {
	r, err := s.Fetch(ctx, c.URL)
	if err != nil {
		return nil, "", err
	}
	if !r.has(c.Commit) {
		spec := config.RefSpec(fmt.Sprintf("%s:refs/guixci/%s", c.Commit, c.Commit))
		r, err = s.update(ctx, c.URL, spec)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, "", err
		case err != nil:
			return nil, "", &RepositoryError{
				URL: c.URL, Final: true, Err: fmt.Errorf("it has no commit %s", c.Commit),
				Remedy: "the commit may have been removed by a force push; choose another one",
			}
		}
	}
	id, err := r.pinned(c.Commit)
	return r, id, err
}

// head returns the commit a reference stands at.
func (r *Repository) head(name string) (Commit, error) {
	r.mu.Lock()
	ref, err := storer.ResolveReference(r.store, plumbing.ReferenceName(name))
	r.mu.Unlock()
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return "", &RepositoryError{
			URL: r.URL, Final: true, Err: fmt.Errorf("it has no branch %q", strings.TrimPrefix(name, "refs/heads/")),
			Remedy: "check the branch of the channel",
		}
	}
	if err != nil {
		return "", fmt.Errorf("read reference %q of %q: %w: %v", name, r.URL, errCorrupt, err)
	}
	return r.peel(objectID(ref.Hash()))
}

// peel follows an annotated tag, once as Guix does, to a commit.
func (r *Repository) peel(id objectID) (Commit, error) {
	if tag, err := r.object(id, plumbing.TagObject); err == nil {
		line, _, _ := bytes.Cut(tag, []byte("\n"))
		target, err := parseID(bytes.TrimPrefix(line, []byte("object ")))
		if err != nil {
			return "", fmt.Errorf("read tag %v of %q: %w", id, r.URL, err)
		}
		id = target
	}
	_, err := r.commit(id)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %v", errCorrupt, err) // a reference to nothing
	}
	return id.commit(), err
}

// describeID is what "git describe" prints: v1.3.0-7-gaa34d4d28d.
var describeID = regexp.MustCompile(`-[0-9]*-g([0-9a-fA-F]{4,})$`)

// pinned returns the commit that the commit field of a channel stands for.
func (r *Repository) pinned(c Commit) (Commit, error) {
	text := string(c)
	if m := describeID.FindStringSubmatch(text); m != nil {
		return r.prefixed(strings.ToLower(m[1]))
	}
	tag, err := r.tag(text)
	switch {
	case err == nil && c.Complete() && tag != c:
		// Guix would follow the tag: a pin that means something else than it says.
		return "", &RepositoryError{URL: r.URL, Final: true, Err: fmt.Errorf("a tag is named like the commit %s but stands at %s", c, tag),
			Remedy: "do not use this repository"}
	case err == nil || !errors.Is(err, plumbing.ErrReferenceNotFound):
		return tag, err
	case len(text) > 40 || !isHex(strings.ToLower(text)):
		return "", &RepositoryError{URL: r.URL, Final: true, Err: fmt.Errorf("it has no tag %q", text), Remedy: "check the commit of the channel"}
	}
	return r.prefixed(strings.ToLower(text))
}

func (r *Repository) tag(name string) (Commit, error) {
	r.mu.Lock()
	ref, err := r.store.Reference(plumbing.NewTagReferenceName(name))
	r.mu.Unlock()
	if err != nil {
		return "", err
	}
	return r.peel(objectID(ref.Hash()))
}

// prefixed returns the one commit whose id starts with these digits.
func (r *Repository) prefixed(digits string) (Commit, error) {
	if c := Commit(digits); c.Complete() {
		_, err := r.commitOf(c)
		return c, err
	}
	found, err := r.commitsWithPrefix(digits)
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", &RepositoryError{URL: r.URL, Final: true, Err: fmt.Errorf("it has no commit %s", digits), Remedy: "check the commit of the channel"}
	}
	return "", &RepositoryError{URL: r.URL, Final: true, Err: fmt.Errorf("the commit %s is ambiguous", digits), Remedy: "write the commit in full"}
}

func (r *Repository) commitsWithPrefix(digits string) (found []Commit, err error) {
	if len(digits) < 4 {
		return nil, &RepositoryError{URL: r.URL, Final: true, Err: fmt.Errorf("the commit %q is too short", digits), Remedy: "write the commit in full"}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all, err := r.store.IterEncodedObjects(plumbing.CommitObject)
	if err != nil {
		return nil, fmt.Errorf("look for commit %s: %w: %v", digits, errCorrupt, err)
	}
	defer all.Close()
	seen := map[plumbing.Hash]bool{}
	err = all.ForEach(func(o plumbing.EncodedObject) error {
		if id := o.Hash(); !seen[id] && strings.HasPrefix(id.String(), digits) {
			seen[id] = true
			found = append(found, Commit(id.String()))
		}
		return nil
	})
	return found, err
}
