package channel

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/memory"
)

// Repositories is a directory of mirrors, one per URL.
// Several processes may use one directory at once.
type Repositories struct {
	Dir    string       // required; made when missing
	Logger *slog.Logger // nil discards
}

// A RepositoryError says that a repository, or something in it, cannot be had, and what to do.
type RepositoryError struct {
	URL    string
	Remedy string
	// Final says that trying again is of no use before the list or the repository changes.
	// Otherwise it may have been the network.
	Final bool
	Err   error
}

func (e *RepositoryError) Error() string {
	text := fmt.Sprintf("fetch %q: %v", e.URL, e.Err)
	if e.Remedy != "" {
		text += ": " + e.Remedy
	}
	return text
}

func (e *RepositoryError) Unwrap() error { return e.Err }

func repositoryError(url string, err error) error {
	e := &RepositoryError{URL: url, Err: err}
	var large *tooLargeError
	switch {
	case errors.As(err, &large):
		e.Final = true
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	case errors.Is(err, transport.ErrRepositoryNotFound), errors.Is(err, fs.ErrNotExist), isLocal(url) && !exists(url):
		e.Err, e.Final = errors.New("there is no repository"), true
		e.Remedy = "check the url of the channel, and that you may read it"
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		e.Remedy, e.Final = "push a first commit to it", true
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		e.Remedy, e.Final = "use a url that needs no password, or ssh with an agent", true
	case errors.Is(err, exec.ErrNotFound):
		e.Remedy = "install git, whose git-upload-pack serves local repositories"
	default:
		e.Remedy = "check the network and the url, then try again"
	}
	return e
}

func isLocal(url string) bool {
	return strings.HasPrefix(url, "/") || strings.HasPrefix(url, "file:") || strings.HasPrefix(url, ".")
}

func exists(url string) bool {
	path := strings.TrimPrefix(url, "file://")
	_, err := os.Stat(path)
	return err == nil
}

// checkURL refuses what git would take for a command or an option, or ssh for one.
func checkURL(url string) error {
	_, host, _ := strings.Cut(url, "://")
	option := strings.HasPrefix(url, "-") || strings.HasPrefix(host, "-") || strings.Contains(url, "@-")
	if url == "" || option || strings.Contains(url, "::") || strings.ContainsAny(url, "\x00\n") {
		return &RepositoryError{URL: url, Final: true, Err: errors.New("not the url of a repository")}
	}
	return nil
}

func (s *Repositories) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

func (s *Repositories) path(url string) string {
	return filepath.Join(s.Dir, fmt.Sprintf("%x", sha256.Sum256([]byte(url))))
}

// Open returns the mirror of url, cloning it the first time.
// An existing mirror is not updated; see [Repositories.Fetch].
// A damaged one is cloned again.
func (s *Repositories) Open(ctx context.Context, url string) (*Repository, error) {
	if err := checkURL(url); err != nil {
		return nil, err
	}
	if r := s.sound(url); r != nil {
		return r, nil
	}
	unlock, err := s.lock(ctx, url)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r := s.sound(url); r != nil {
		return r, nil // another process was faster
	}
	return s.clone(ctx, url)
}

// sound opens the mirror if it is there and the tips of its branches can be read.
func (s *Repositories) sound(url string) *Repository {
	if _, err := os.Stat(filepath.Join(s.path(url), "HEAD")); err != nil {
		return nil
	}
	r := openMirror(url, s.path(url))
	refs, err := r.store.IterReferences()
	if err == nil {
		err = refs.ForEach(func(ref *plumbing.Reference) error {
			if ref.Type() != plumbing.HashReference || !ref.Name().IsBranch() {
				return nil
			}
			c, err := r.commit(objectID(ref.Hash()))
			if err == nil {
				_, err = r.tree(c.tree)
			}
			if _, odd := err.(*malformedError); odd || isRefused(err) {
				return nil // upstream's fault, not the mirror's
			}
			return err
		})
	}
	if err != nil {
		s.log().Warn("mirror is damaged", "url", url, "error", err)
		return nil
	}
	return r
}

// clone makes the mirror beside its place and moves it there when it is
// complete, so that an interrupted clone never looks like a mirror.
// The caller holds the lock.
func (s *Repositories) clone(ctx context.Context, url string) (_ *Repository, err error) {
	final := s.path(url)
	if err := removeAll(filepath.Dir(final), filepath.Base(final)+".tmp-*"); err != nil { // of processes that died
		return nil, err
	}
	temp, err := os.MkdirTemp(s.Dir, filepath.Base(final)+".tmp-*")
	if err != nil {
		return nil, fmt.Errorf("clone %q: %w", url, err)
	}
	defer os.RemoveAll(temp)
	s.log().Info("clone", "url", url)
	if _, err := git.PlainInit(temp, true); err != nil {
		return nil, fmt.Errorf("clone %q: %w", url, err)
	}
	if err := s.fetch(ctx, openMirror(url, temp), branchesAndTags...); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(final); err != nil {
		return nil, fmt.Errorf("clone %q: %w", url, err)
	}
	if err := os.Rename(temp, final); err != nil {
		return nil, fmt.Errorf("clone %q: %w", url, err)
	}
	return openMirror(url, final), syncDir(s.Dir)
}

// removeAll removes what in a directory has a name of that pattern.
func removeAll(dir, pattern string) error {
	names, err := fs.Glob(os.DirFS(dir), pattern)
	for _, name := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

var branchesAndTags = []config.RefSpec{"+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"}

// Fetch brings a mirror up to date and returns it.
// Branches deleted at the origin disappear; the objects stay.
func (s *Repositories) Fetch(ctx context.Context, url string) (*Repository, error) {
	return s.update(ctx, url, branchesAndTags...)
}

func (s *Repositories) update(ctx context.Context, url string, specs ...config.RefSpec) (*Repository, error) {
	r, err := s.Open(ctx, url)
	if err != nil {
		return nil, err
	}
	unlock, err := s.lock(ctx, url)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeAll(filepath.Join(r.dir, "objects/pack"), "tmp_pack_*"); err != nil { // of fetches that failed
		return nil, fmt.Errorf("fetch %q: %w", url, err)
	}
	if err := s.fetch(ctx, r, specs...); err != nil {
		return nil, err
	}
	return openMirror(url, s.path(url)), nil // the old one may not see the new pack
}

func (s *Repositories) fetch(ctx context.Context, r *Repository, specs ...config.RefSpec) error {
	limitTransports()
	if err := checkLocalSize(r.URL); err != nil {
		return err
	}
	remote := git.NewRemote(guardedStore{r.store, isLocal(r.URL)}, &config.RemoteConfig{Name: "origin", URLs: []string{r.URL}})
	err := remote.FetchContext(ctx, &git.FetchOptions{
		RefSpecs: specs, Tags: git.NoTags, Force: true, Prune: specs[0].IsWildcard(),
	})
	if err == nil || errors.Is(err, git.NoErrAlreadyUpToDate) {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return repositoryError(r.URL, err)
}

// repairing does f, and once more after a fresh clone if the mirror of url
// turned out to be damaged.
func (s *Repositories) repairing(ctx context.Context, url string, f func() error) error {
	err := f()
	if !errors.Is(err, errCorrupt) {
		return err
	}
	s.log().Warn("clone again", "url", url, "because", err)
	unlock, lockErr := s.lock(ctx, url)
	if lockErr != nil {
		return lockErr
	}
	_, cloneErr := s.clone(ctx, url)
	unlock()
	if cloneErr != nil {
		return cloneErr
	}
	return f()
}

// References lists the branches, tags and other refs at a URL without
// cloning it. An annotated tag appears as the commit it stands for.
func (s *Repositories) References(ctx context.Context, url string) (map[string]Commit, error) {
	if err := checkURL(url); err != nil {
		return nil, err
	}
	limitTransports()
	if err := checkLocalSize(url); err != nil {
		return nil, err
	}
	remote := git.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{url}})
	refs, err := remote.ListContext(ctx, &git.ListOptions{PeelingOption: git.AppendPeeled})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, repositoryError(url, err)
	}
	if len(refs) > maxReferences {
		return nil, &RepositoryError{URL: url, Final: true, Err: &tooLargeError{fmt.Sprintf("%d references", len(refs))}}
	}
	result := make(map[string]Commit, len(refs))
	for _, peeled := range []bool{false, true} {
		for _, ref := range refs {
			name, isPeeled := strings.CutSuffix(ref.Name().String(), "^{}")
			if ref.Type() == plumbing.HashReference && isPeeled == peeled {
				result[name] = Commit(ref.Hash().String())
			}
		}
	}
	return result, nil
}
