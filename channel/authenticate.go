package channel

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"
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
	// Strict asks more than Guix does: no weak keys or hashes, no key that was expired,
	// revoked or not its owner's when the commit was made, no date in the future, no
	// ambiguous header, and a commit that is on the channel's branch.
	Strict  bool
	Now     func() time.Time // nil means time.Now
	Workers int              // commits checked at once; 0 means one per processor
	Logger  *slog.Logger     // nil discards
}

// An Authentication is what was found.
type Authentication struct {
	Channel      string              `json:"channel"`
	Commit       Commit              `json:"commit"`
	Introduction *Introduction       `json:"introduction,omitempty"` // nil: the channel is used unauthenticated, as Guix would
	Commits      int                 `json:"commits"`                // checked this time, apart from the introduction
	Signers      map[Fingerprint]int `json:"-"`                      // how many of them each key signed
	Statistics   []SignerStatistics  `json:"signers,omitempty"`      // the same with more detail, most commits first
}

// SignerStatistics says what one key signed among the commits checked.
type SignerStatistics struct {
	Key     Fingerprint `json:"key"`
	Owner   string      `json:"owner,omitempty"` // as the key says, who need not be asked for the truth
	Commits int         `json:"commits"`
	First   time.Time   `json:"first"` // date of the oldest of the commits
	Last    time.Time   `json:"last"`  // and of the newest
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
	return a.judge(c, func(trusted []Commit) (*Authentication, error) { return a.inMirror(ctx, c, trusted) })
}

// AuthenticateIn is [Authenticator.Authenticate] in a given repository, whatever
// the URL of c. Repositories is not needed.
func (a *Authenticator) AuthenticateIn(ctx context.Context, repo *Repository, c Channel) (*Authentication, error) {
	c = c.withDefaults()
	if c.Introduction == nil {
		return a.unauthenticated(c)
	}
	return a.judge(c, func(trusted []Commit) (*Authentication, error) {
		return a.authenticate(ctx, repo, c, trusted)
	})
}

// judge asks the cache and, when that does not know, attempt.
func (a *Authenticator) judge(c Channel, attempt func(trusted []Commit) (*Authentication, error)) (*Authentication, error) {
	if !c.Commit.Complete() {
		return nil, fmt.Errorf("authenticate channel %s: %q is not a complete commit", c.Name, c.Commit)
	}
	trusted := a.cache(c)
	if slices.Contains(trusted, c.Commit) {
		return &Authentication{Channel: c.Name, Commit: c.Commit, Introduction: c.Introduction}, nil
	}
	result, err := attempt(trusted)
	var odd *malformedError
	if errors.As(err, &odd) {
		err = refuse(odd.id, MalformedCommit, "is malformed: %s", odd.msg)
	}
	var refused *AuthError
	if errors.As(err, &refused) {
		refused.Channel = c.Name
		return nil, refused
	}
	if err != nil {
		return nil, fmt.Errorf("authenticate channel %s: %w", c.Name, err)
	}
	return result, a.remember(c, trusted)
}

// inMirror authenticates in the mirror of the channel's URL, which is fetched when need be.
func (a *Authenticator) inMirror(ctx context.Context, c Channel, trusted []Commit) (*Authentication, error) {
	result, err := a.attempt(ctx, c, trusted)
	var refused *AuthError
	if errors.As(err, &refused) && (refused.Rule == MissingKey || refused.Rule == KeyringMissing) {
		// The keyring branch may have moved since the commit was fetched.
		if _, err := a.Repositories.Fetch(ctx, c.URL); err != nil {
			return nil, err
		}
		result, err = a.attempt(ctx, c, trusted)
	}
	return result, err
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
	trusted := present(repo, cached)
	d := &difference{history: newHistory(repo), target: target, intro: intro, trusted: trusted}
	check := &checker{verifier: v, workers: a.Workers, history: d.history, count: tally{}}
	order, done, err := check.difference(ctx, d, introCommit.when)
	result := &Authentication{Channel: c.Name, Commit: c.Commit, Introduction: c.Introduction, Signers: map[Fingerprint]int{}}
	if err != nil || len(order) == 0 && !a.Strict { // it comes before something trusted
		return result, err
	}
	if len(trusted) == 0 {
		if err := v.introduction(intro, introCommit, c.Introduction.Signer); err != nil {
			return nil, err
		}
	}
	if err := a.reaches(ctx, d, c); err != nil {
		return nil, err
	}
	if err := check.rest(ctx, order, done); err != nil {
		return nil, err
	}
	result.Commits = len(order)
	result.Statistics = check.count.statistics(v.keys)
	for _, s := range result.Statistics {
		result.Signers[s.Key] = s.Commits
	}
	return result, nil
}

// reaches refuses a commit that does not descend from the introduction or, unless it is to
// be strict, from something trusted, and one that is not on the channel's branch if it is.
func (a *Authenticator) reaches(ctx context.Context, d *difference, c Channel) error {
	roots := []objectID{d.intro}
	if !a.Strict {
		roots = append(roots, d.trusted...)
	}
	ok, err := d.descends(ctx, d.target, roots)
	switch {
	case err != nil:
		return err
	case !ok:
		return refuse(d.target, NotDescendant, "is not a descendant of the introductory commit %v", d.intro)
	case a.Strict:
		return onBranch(ctx, d.history, c, d.target)
	}
	return nil
}

// onBranch refuses a commit that the branch of the channel does not contain: a server
// may present one of another branch, signed like any other.
func onBranch(ctx context.Context, h *history, c Channel, target objectID) error {
	name := c.branch()
	if !strings.HasPrefix(name, "refs/") {
		name = "refs/heads/" + name
	}
	head, err := h.repo.head(name)
	if err != nil && h.repo.local {
		head, err = h.repo.head("refs/remotes/origin/" + c.branch())
	}
	if err != nil {
		return refuse(target, NotOnBranch, "cannot be on branch %q: there is none", c.branch())
	}
	id, err := head.id()
	if err != nil {
		return err
	}
	ok, err := h.descends(ctx, id, []objectID{target})
	if err == nil && !ok {
		err = refuse(target, NotOnBranch, "is not on branch %q", c.branch())
	}
	return err
}

// A tally counts by signer.
type tally map[Fingerprint]*SignerStatistics

func (t tally) add(key Fingerprint, when time.Time) {
	s := t[key]
	if s == nil {
		s = &SignerStatistics{Key: key, First: when, Last: when}
		t[key] = s
	}
	s.Commits++
	s.First, s.Last = earlier(s.First, when), later(s.Last, when)
}

func (t tally) statistics(keys *keyring) (all []SignerStatistics) {
	for key, s := range t {
		s.Owner = keys.owner(key)
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b SignerStatistics) int {
		return cmp.Or(cmp.Compare(b.Commits, a.Commits), bytes.Compare(a.Key[:], b.Key[:]))
	})
	return all
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
		repo: repo, keys: keys, historical: a.Historical, policy: a.policy(),
		files: map[objectID]authorizationFile{},
	}, err
}

func (a *Authenticator) policy() *policy {
	switch {
	case !a.Strict:
		return nil
	case a.Now == nil:
		return &policy{now: time.Now()}
	}
	return &policy{now: a.Now()}
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
