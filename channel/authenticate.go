package channel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// An Authenticator says whether commits are to be believed, accepting and
// refusing exactly what Guix does: a commit is authentic if it is signed by a key that
// the .guix-authorizations of every parent lists, back to the introduction.
type Authenticator struct {
	Repositories *Repositories // required
	// Cache is a directory that remembers what was authenticated, so that only
	// newer commits are checked the next time. Empty remembers nothing.
	Cache string
	// Keyring is the branch of public keys; empty means the one that the
	// commit's .guix-channel names.
	Keyring string
	// Historical are keys authorized for commits whose parents lack
	// .guix-authorizations. Guix uses none for channels.
	Historical []Fingerprint
	Workers    int          // commits checked at once; 0 means one per processor
	Logger     *slog.Logger // nil discards
}

// An Authentication is what was found.
type Authentication struct {
	Channel      string
	Commit       Commit
	Introduction *Introduction       // nil: the channel is used unauthenticated, as Guix would
	Commits      int                 // checked this time, apart from the introduction
	Signers      map[Fingerprint]int // how many of them each key signed
}

// AuthenticateLock authenticates every channel of a lock. A channel without introduction
// passes, as in Guix, with an [Authentication] that says so; not the one called
// guix. The error is an *[AuthError] when a rule is broken; what was
// authenticated before it is returned with it.
func (a *Authenticator) AuthenticateLock(ctx context.Context, lock *Lock) ([]*Authentication, error) {
	var all []*Authentication
	for _, c := range lock.Channels {
		result, err := a.Authenticate(ctx, c.Channel)
		if err != nil {
			return all, err
		}
		all = append(all, result)
	}
	return all, nil
}

// Authenticate authenticates c at its commit, which must be complete.
// The error is an *[AuthError] when a rule is broken.
func (a *Authenticator) Authenticate(ctx context.Context, c Channel) (*Authentication, error) {
	c = c.withDefaults()
	if c.Introduction == nil {
		return a.unauthenticated(c)
	}
	if !c.Commit.Complete() {
		return nil, fmt.Errorf("authenticate channel %s: %q is not a complete commit", c.Name, c.Commit)
	}
	trusted := a.cache(c)
	if slices.Contains(trusted, c.Commit) {
		return &Authentication{Channel: c.Name, Commit: c.Commit, Introduction: c.Introduction}, nil
	}
	result, err := a.attempt(ctx, c, trusted)
	var refused *AuthError
	if errors.As(err, &refused) && (refused.Rule == MissingKey || refused.Rule == KeyringMissing) {
		// The keyring branch may have moved since the commit was fetched.
		if _, err := a.Repositories.Fetch(ctx, c.URL); err != nil {
			return nil, fmt.Errorf("authenticate channel %s: %w", c.Name, err)
		}
		result, err = a.attempt(ctx, c, trusted)
	}
	if errors.As(err, &refused) {
		refused.Channel = c.Name
		return nil, refused
	}
	if err != nil {
		return nil, fmt.Errorf("authenticate channel %s: %w", c.Name, err)
	}
	return result, a.remember(c, trusted)
}

func (a *Authenticator) unauthenticated(c Channel) (*Authentication, error) {
	if c.Name == guixName {
		return nil, &AuthError{Channel: c.Name, Rule: NoIntroduction,
			Detail: "the channel lacks an introduction and cannot be authenticated: add it to the channels file"}
	}
	if a.Logger != nil {
		a.Logger.Warn("channel has no introduction and is not authenticated", "channel", c.Name)
	}
	return &Authentication{Channel: c.Name, Commit: c.Commit}, nil
}

func (a *Authenticator) attempt(ctx context.Context, c Channel, trusted []Commit) (result *Authentication, err error) {
	err = a.Repositories.repairing(ctx, c.URL, func() error {
		repo, _, err := a.Repositories.Resolve(ctx, c)
		if err == nil {
			repo = repo.forReadingMuch()
			result, err = a.authenticate(ctx, repo, c, trusted)
			err = errors.Join(err, repo.close())
		}
		var odd *malformedError
		if errors.As(err, &odd) {
			err = refuse(odd.id, MalformedCommit, "is malformed: %s", odd.msg)
		}
		return err
	})
	return result, err
}

// authenticate is Guix's authenticate-repository.
func (a *Authenticator) authenticate(ctx context.Context, repo *Repository, c Channel, cached []Commit) (*Authentication, error) {
	target, err := c.Commit.id()
	if err != nil {
		return nil, err
	}
	intro, introCommit, err := introduction(repo, c.Introduction)
	if err != nil {
		return nil, err
	}
	v, err := a.verifier(repo, c.Commit)
	if err != nil {
		return nil, err
	}
	h := newHistory(repo)
	trusted := present(repo, cached)
	commits, err := h.difference(ctx, target, intro, trusted)
	result := &Authentication{Channel: c.Name, Commit: c.Commit, Introduction: c.Introduction, Signers: map[Fingerprint]int{}}
	if err != nil || len(commits) == 0 { // it comes before something trusted
		return result, err
	}
	if len(trusted) == 0 {
		if err := v.introduction(intro, introCommit, c.Introduction.Signer); err != nil {
			return nil, err
		}
	}
	switch ok, err := h.descends(ctx, target, append(trusted, intro)); {
	case err != nil:
		return nil, err
	case !ok:
		return nil, refuse(target, NotDescendant, "is not a descendant of the introductory commit %v", intro)
	}
	result.Commits = len(commits)
	return result, a.verifyAll(ctx, v, commits, result.Signers)
}

func introduction(repo *Repository, i *Introduction) (objectID, *commitObject, error) {
	id, err := i.Commit.id()
	if err != nil {
		return id, nil, fmt.Errorf("introduction: %w", err)
	}
	c, err := repo.commit(id)
	if errors.Is(err, fs.ErrNotExist) {
		err = &AuthError{Rule: IntroductionMissing,
			Detail: fmt.Sprintf("the introductory commit %v is not in %q", id, repo.URL)}
	}
	return id, c, err
}

func (a *Authenticator) verifier(repo *Repository, target Commit) (*verifier, error) {
	branch := a.Keyring
	if branch == "" {
		metadata, err := repo.Metadata(target)
		if err != nil {
			return nil, err
		}
		branch = metadata.KeyringReference
	}
	keys, err := loadKeyring(repo, branch)
	return &verifier{
		repo: repo, keys: keys, historical: a.Historical,
		trees: map[objectID]authorizationEntry{}, files: map[objectID]authorizationFile{},
	}, err
}

// introduction checks that the first commit is signed by the key introduced.
func (v *verifier) introduction(id objectID, c *commitObject, want Fingerprint) error {
	signer, err := v.signer(id, c, false)
	if err != nil || signer == want {
		return err
	}
	e := refuse(id, IntroductionSigner, "is the introduction but signed by %v instead of %v", signer, want)
	e.Key = signer
	return e
}

// present drops what is not in the repository.
func present(repo *Repository, commits []Commit) (ids []objectID) {
	for _, c := range commits {
		if id, err := c.id(); err == nil && repo.has(c) {
			ids = append(ids, id)
		}
	}
	return ids
}

// verifyAll checks commits concurrently and counts who signed them.
// Of several failures it reports the one that comes first in commits, always
// the same.
func (a *Authenticator) verifyAll(ctx context.Context, v *verifier, commits []objectID, signers map[Fingerprint]int) error {
	workers := a.Workers
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var (
		mu    sync.Mutex // guards the rest
		next  int
		limit = len(commits) // index of the earliest failure
		first error
	)
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		next++
		return next - 1, next-1 < limit
	}
	var group errgroup.Group
	for range workers {
		group.Go(func() error {
			for i, ok := take(); ok && ctx.Err() == nil; i, ok = take() {
				signer, err := v.verify(commits[i])
				mu.Lock()
				if err == nil {
					signers[signer]++
				} else if i < limit {
					limit, first = i, err
				}
				mu.Unlock()
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return context.Cause(ctx)
	}
	return first
}
