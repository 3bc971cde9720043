package channel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// OpenLocal opens somebody's own repository, bare or with a work tree, where it is:
// nothing is copied and nothing is written to it.
func OpenLocal(dir string) (*Repository, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open repository %q: %w", dir, err)
	}
	objects, head, err := gitDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open repository %q: %w", dir, err)
	}
	r := openMirror(dir, objects)
	r.local, r.headDir, r.much = true, head, true
	return r, nil
}

// gitDir returns the directory with the objects, and the one with HEAD: dir itself when it is
// bare, or its .git; a linked work tree has a HEAD of its own.
func gitDir(dir string) (objects, head string, err error) {
	dot := filepath.Join(dir, ".git")
	info, err := os.Stat(dot)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, err := os.Stat(filepath.Join(dir, "objects")); err != nil {
			return "", "", errors.New("it is not a git repository")
		}
		return dir, dir, nil
	case err != nil:
		return "", "", err
	case info.IsDir():
		return dot, dot, nil
	}
	return linkedDir(dir, dot)
}

func linkedDir(dir, dot string) (objects, head string, err error) {
	text, err := readLine(dot)
	if err != nil {
		return "", "", err
	}
	linked, ok := strings.CutPrefix(text, "gitdir: ")
	if !ok {
		return "", "", fmt.Errorf("%s does not say where the repository is", dot)
	}
	linked = absolute(dir, linked)
	common, err := readLine(filepath.Join(linked, "commondir"))
	if errors.Is(err, os.ErrNotExist) { // a submodule
		return linked, linked, nil
	}
	return absolute(linked, common), linked, err
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

// Head returns the commit that HEAD stands at, without looking at the commit.
func (r *Repository) Head() (Commit, error) {
	head, err := r.headReference()
	if err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if head.Type() == plumbing.SymbolicReference {
		if head, err = storer.ResolveReference(r.store, head.Target()); err != nil {
			return "", fmt.Errorf("read HEAD of %q: %w", r.URL, err)
		}
	}
	return ParseCommit(head.Hash().String())
}

// headReference reads HEAD. That of a linked work tree is not the repository's.
func (r *Repository) headReference() (*plumbing.Reference, error) {
	text, err := readLine(filepath.Join(r.headDir, "HEAD"))
	if err != nil {
		return nil, fmt.Errorf("read HEAD of %q: %w", r.URL, err)
	}
	head := plumbing.NewReferenceFromStrings("HEAD", text)
	if head.Type() == plumbing.HashReference && !Commit(text).Complete() {
		return nil, fmt.Errorf("read HEAD of %q: %.60q is no reference", r.URL, text)
	}
	return head, nil
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
	head, err := r.headReference()
	if err != nil {
		return "", err
	}
	if !head.Target().IsBranch() {
		return "", fmt.Errorf("HEAD of %q is on no branch", r.URL)
	}
	return head.Target().Short(), nil
}
