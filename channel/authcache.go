package channel

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// maxCached limits how many commits are remembered per channel, as in Guix.
const maxCached = 200

// cacheFile names the file for a channel. Unlike Guix's it is bound to the
// introduction: what one introduction vouches for says nothing about another.
func (a *Authenticator) cacheFile(c Channel) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %s %x %x", c.Name, c.Introduction.Commit, c.Introduction.Signer, a.Historical)
	if a.Strict { // what passes for Guix need not pass for us; the branch is part of it
		fmt.Fprintf(h, " strict %q", c.branch())
	}
	return filepath.Join(a.Cache, fmt.Sprintf("%s-%.8x", url.PathEscape(c.Name), h.Sum(nil)))
}

// cache returns the commits known to be authentic. A file that others could
// have written is not believed.
func (a *Authenticator) cache(c Channel) []Commit {
	if a.Cache == "" {
		return nil
	}
	name := a.cacheFile(c)
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if !private(f) || !private(filepath.Dir(name)) {
		if a.Logger != nil {
			a.Logger.Warn("cache of authenticated commits is ignored: others may write to it", "file", name)
		}
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil
	}
	v, err := firstDatum(name, text)
	if err != nil {
		return nil
	}
	items, _ := sexp.Items(v)
	var commits []Commit
	for _, item := range items {
		text, _ := item.(sexp.String)
		if c, err := ParseCommit(string(text)); err == nil {
			commits = append(commits, c)
		}
	}
	return commits
}

// private reports whether a file or directory is the user's and nobody else may write to it.
func private(what any) bool {
	var info os.FileInfo
	var err error
	mask := os.FileMode(0o022)
	switch what := what.(type) {
	case *os.File:
		info, err = what.Stat()
		mask = 0o177
	case string:
		info, err = os.Lstat(what)
	}
	if err != nil || info.Mode().Perm()&mask != 0 {
		return false
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == os.Geteuid()
}

// remember adds c's commit to the cache.
func (a *Authenticator) remember(c Channel, known []Commit) error {
	if a.Cache == "" {
		return nil
	}
	commits := append([]Commit{c.Commit}, slices.DeleteFunc(known, func(k Commit) bool { return k == c.Commit })...)
	if len(commits) > maxCached {
		commits = commits[:maxCached]
	}
	var b bytes.Buffer
	b.WriteString(";; List of previously-authenticated commits.\n\n(")
	for i, c := range commits {
		if i > 0 {
			b.WriteString("\n ")
		}
		b.WriteString(sexp.String(c).String())
	}
	b.WriteString(")\n")
	if err := os.MkdirAll(a.Cache, 0o700); err != nil {
		return fmt.Errorf("remember authenticated commits: %w", err)
	}
	if err := writeFile(a.cacheFile(c), b.Bytes()); err != nil {
		return fmt.Errorf("remember authenticated commits: %w", err)
	}
	return nil
}

// writeFile puts a file, mode 0600, in place in one step that survives a crash.
func writeFile(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(name))
}
