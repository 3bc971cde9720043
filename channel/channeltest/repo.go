package channeltest

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/genenetwork/guixci/channel"
)

// A Repo is a bare git repository. Only this package should write to it, and
// one goroutine at a time.
type Repo struct {
	Dir string
}

// Init makes an empty bare repository in dir, which may exist if it is empty.
func Init(dir string) (*Repo, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"objects/info", "objects/pack", "refs/heads", "refs/tags"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	r := &Repo{Dir: dir}
	config := "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
	if err := r.write("config", []byte(config)); err != nil {
		return nil, err
	}
	return r, r.write("HEAD", []byte("ref: refs/heads/master\n"))
}

// Open returns a repository that [Init] made earlier.
func Open(dir string) (*Repo, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	return &Repo{Dir: dir}, nil
}

// URL returns what a channel's url field names the repository by.
func (r *Repo) URL() string { return "file://" + r.Dir }

// Channel returns the channel that this repository's master branch is.
func (r *Repo) Channel(name string, intro *channel.Introduction) channel.Channel {
	return channel.Channel{Name: name, URL: r.URL(), Branch: "master", Introduction: intro}
}

// Deleted, as the content of a file, removes it.
const Deleted = "\x00deleted"

// Commit adds a commit to a branch, which it starts if need be. The files are
// changes to what the branch holds: path to new content, or [Deleted]. The commit
// is a minute younger than its parent, so that a history is always the same.
// A nil key leaves it unsigned.
func (r *Repo) Commit(branch, message string, files map[string]string, key *Key) (channel.Commit, error) {
	o := CommitOptions{Message: message, Files: files, Key: key}
	if head, ok := r.Head(branch); ok {
		o.Parents = []channel.Commit{head}
	}
	return r.CommitTo(branch, o)
}

// Merge adds to a branch a commit that also has the given parents. Its files
// are those of the branch, changed by files.
func (r *Repo) Merge(branch string, others []channel.Commit, files map[string]string, key *Key) (channel.Commit, error) {
	head, ok := r.Head(branch)
	if !ok {
		return "", fmt.Errorf("merge into %s: no such branch", branch)
	}
	return r.CommitTo(branch, CommitOptions{
		Message: "Merge.", Parents: append([]channel.Commit{head}, others...), Files: files, Key: key,
	})
}

// CommitOptions is a commit with every detail open, for histories that no
// honest git would write.
type CommitOptions struct {
	Message string
	Parents []channel.Commit
	// Files are changes to what the first parent holds.
	Files map[string]string
	Tree  string    // id of a tree to use instead; empty for none
	When  time.Time // zero means a minute after the first parent
	// Key signs the commit, in the way that Signature says; nil does not.
	Key       *Key
	Signature Signature
	// Headers are put after the committer, each with its newline.
	Headers string
	// Sign, if not nil, is used instead of Key and gives the armoured signature.
	Sign func(payload []byte) (string, error)
	// Forge, if not nil, changes the bytes of the finished commit.
	Forge func(raw []byte) []byte
}

// CommitTo writes the commit and moves the branch to it. An empty branch
// leaves it outside every branch.
func (r *Repo) CommitTo(branch string, o CommitOptions) (channel.Commit, error) {
	payload, at, err := r.payload(o)
	if err != nil {
		return "", err
	}
	sign := o.Sign
	if sign == nil && o.Key != nil {
		sign = func(b []byte) (string, error) { return o.Key.Sign(b, o.Signature) }
	}
	raw := payload
	if sign != nil {
		signature, err := sign(payload)
		if err != nil {
			return "", fmt.Errorf("sign commit: %w", err)
		}
		header := "gpgsig " + strings.ReplaceAll(strings.TrimSuffix(signature, "\n"), "\n", "\n ") + "\n"
		raw = slices.Concat(payload[:at], []byte(header), payload[at:])
	}
	if o.Forge != nil {
		raw = o.Forge(raw)
	}
	id, err := r.Object("commit", raw)
	if err == nil && branch != "" {
		err = r.SetBranch(branch, channel.Commit(id))
	}
	return channel.Commit(id), err
}

// payload returns what is signed, and where the signature goes.
func (r *Repo) payload(o CommitOptions) (raw []byte, at int, err error) {
	tree := directory{}
	when := keyTime
	if len(o.Parents) > 0 {
		if tree, when, err = r.checkout(o.Parents[0]); err != nil {
			return nil, 0, err
		}
		when = when.Add(time.Minute)
	}
	if !o.When.IsZero() {
		when = o.When
	}
	for path, content := range o.Files {
		if err := tree.set(r, path, content); err != nil {
			return nil, 0, err
		}
	}
	id := o.Tree
	if id == "" {
		if id, err = tree.write(r); err != nil {
			return nil, 0, err
		}
	}
	name := "Somebody <somebody@example.org>"
	if o.Key != nil {
		name = o.Key.Name + " <" + strings.ReplaceAll(o.Key.Name, " ", ".") + "@example.org>"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "tree %s\n", id)
	for _, p := range o.Parents {
		fmt.Fprintf(&b, "parent %s\n", p)
	}
	fmt.Fprintf(&b, "author %s %d +0000\ncommitter %s %d +0000\n%s", name, when.Unix(), name, when.Unix(), o.Headers)
	at = b.Len()
	fmt.Fprintf(&b, "\n%s\n", strings.TrimSuffix(o.Message, "\n"))
	return b.Bytes(), at, nil
}

// Head returns the commit a branch stands at.
func (r *Repo) Head(branch string) (channel.Commit, bool) {
	text, err := os.ReadFile(filepath.Join(r.Dir, "refs/heads", branch))
	if err != nil {
		return "", false
	}
	c, err := channel.ParseCommit(strings.TrimSpace(string(text)))
	return c, err == nil
}

// SetBranch moves a branch, also backwards.
func (r *Repo) SetBranch(branch string, c channel.Commit) error {
	return r.write("refs/heads/"+branch, []byte(string(c)+"\n"))
}

// Tag makes an annotated tag with a message, or, without one, a plain tag.
func (r *Repo) Tag(name string, c channel.Commit, message string) error {
	id := string(c)
	if message != "" {
		raw := fmt.Sprintf("object %s\ntype commit\ntag %s\ntagger Somebody <somebody@example.org> %d +0000\n\n%s\n",
			c, name, keyTime.Unix(), message)
		var err error
		if id, err = r.Object("tag", []byte(raw)); err != nil {
			return err
		}
	}
	return r.write("refs/tags/"+name, []byte(id+"\n"))
}

// Object writes a loose object and returns its id.
func (r *Repo) Object(kind string, raw []byte) (string, error) {
	text := append(fmt.Appendf(nil, "%s %d\x00", kind, len(raw)), raw...)
	sum := sha1.Sum(text)
	id := hex.EncodeToString(sum[:])
	name := "objects/" + id[:2] + "/" + id[2:]
	if _, err := os.Stat(filepath.Join(r.Dir, name)); err == nil {
		return id, nil
	}
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	z.Write(text)
	z.Close()
	return id, r.write(name, b.Bytes())
}

// read returns the kind and bytes of an object.
func (r *Repo) read(id string) (kind string, raw []byte, err error) {
	f, err := os.Open(filepath.Join(r.Dir, "objects", id[:2], id[2:]))
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	z, err := zlib.NewReader(f)
	if err != nil {
		return "", nil, err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return "", nil, err
	}
	head, raw, _ := bytes.Cut(text, []byte{0})
	kind, _, _ = strings.Cut(string(head), " ")
	return kind, raw, nil
}

// write puts a file of the repository in place in one step.
func (r *Repo) write(name string, content []byte) error {
	name = filepath.Join(r.Dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
