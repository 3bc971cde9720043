package channel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// OpenLocal opens somebody's own repository, bare or with a work tree, where it is:
// nothing is copied and nothing is written to it.
func OpenLocal(dir string) (*Repository, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open repository %q: %w", dir, err)
	}
	objects, err := gitDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open repository %q: %w", dir, err)
	}
	r := openMirrorWith(dir, objects, filesystem.Options{
		ExclusiveAccess: true, KeepDescriptors: true, LargeObjectThreshold: maxObject,
	})
	r.local = true
	return r, nil
}

// gitDir returns the directory with the objects: dir itself when it is bare, its
// .git, or what the .git of a linked work tree points to.
func gitDir(dir string) (string, error) {
	dot := filepath.Join(dir, ".git")
	info, err := os.Stat(dot)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, err := os.Stat(filepath.Join(dir, "objects")); err != nil {
			return "", errors.New("it is not a git repository")
		}
		return dir, nil
	case err != nil:
		return "", err
	case info.IsDir():
		return dot, nil
	}
	return linkedDir(dir, dot)
}

func linkedDir(dir, dot string) (string, error) {
	text, err := readLine(dot)
	if err != nil {
		return "", err
	}
	linked, ok := strings.CutPrefix(text, "gitdir: ")
	if !ok {
		return "", fmt.Errorf("%s does not say where the repository is", dot)
	}
	linked = absolute(dir, linked)
	common, err := readLine(filepath.Join(linked, "commondir"))
	if errors.Is(err, os.ErrNotExist) { // a submodule
		return linked, nil
	}
	return absolute(linked, common), err
}

func readLine(name string) (string, error) {
	text, err := os.ReadFile(name)
	return strings.TrimSpace(string(text)), err
}

func absolute(base, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(base, name)
}

// Head returns the commit that HEAD stands at.
func (r *Repository) Head() (Commit, error) {
	return r.head(string(plumbing.HEAD))
}

// Commit returns the one commit that a tag, a complete or an abbreviated id stands for.
func (r *Repository) Commit(name string) (Commit, error) {
	return r.pinned(Commit(name))
}

// Close closes the files that are open. The Repository must not be used afterwards.
func (r *Repository) Close() error { return r.close() }

// keyringHead returns the commit with the keys. In a repository of somebody's own the name may be
// that of a branch or of a remote's branch, like origin/keyring, as for
// "guix git authenticate".
func (r *Repository) keyringHead(branch string) (Commit, error) {
	head, err := r.head("refs/heads/" + branch)
	if err != nil && r.local {
		if remote, remoteErr := r.head("refs/remotes/" + branch); remoteErr == nil {
			return remote, nil
		}
	}
	return head, err
}

// CurrentBranch returns the branch that HEAD is on.
func (r *Repository) CurrentBranch() (string, error) {
	r.mu.Lock()
	head, err := r.store.Reference(plumbing.HEAD)
	r.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("read HEAD of %q: %w", r.URL, err)
	}
	if !head.Target().IsBranch() {
		return "", fmt.Errorf("HEAD of %q is on no branch", r.URL)
	}
	return head.Target().Short(), nil
}
