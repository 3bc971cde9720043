package channeltest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/genenetwork/guixci/channel"
)

// A directory is what a tree object will hold: files and directories by name.
type directory map[string]*node

type node struct {
	mode string
	id   string    // of a file
	dir  directory // of a directory
}

// set changes one file. Its content decides the mode: a string that
// starts with "#!" is executable, as scripts are.
func (d directory) set(r *Repo, path, content string) error {
	first, rest, deeper := strings.Cut(path, "/")
	if first == "" {
		return fmt.Errorf("commit file %q: empty name in the path", path)
	}
	if deeper {
		n := d[first]
		if n == nil || n.dir == nil {
			n = &node{mode: "40000", dir: directory{}}
			d[first] = n
		}
		if err := n.dir.set(r, rest, content); err != nil {
			return err
		}
		if len(n.dir) == 0 {
			delete(d, first)
		}
		return nil
	}
	if content == Deleted {
		delete(d, first)
		return nil
	}
	id, err := r.Object("blob", []byte(content))
	mode := "100644"
	if strings.HasPrefix(content, "#!") {
		mode = "100755"
	}
	d[first] = &node{mode: mode, id: id}
	return err
}

// write writes the tree objects and returns the id of the topmost.
func (d directory) write(r *Repo) (string, error) {
	names := make([]string, 0, len(d))
	for name, n := range d {
		if n.dir != nil {
			name += "/" // git sorts directories as if they ended so
		}
		names = append(names, name)
	}
	slices.Sort(names)
	var b bytes.Buffer
	for _, name := range names {
		name = strings.TrimSuffix(name, "/")
		n := d[name]
		id := n.id
		if n.dir != nil {
			var err error
			if id, err = n.dir.write(r); err != nil {
				return "", err
			}
		}
		raw, err := hex.DecodeString(id)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %s\x00%s", n.mode, name, raw)
	}
	return r.Object("tree", b.Bytes())
}

// checkout reads the tree and the time of a commit.
func (r *Repo) checkout(c channel.Commit) (directory, time.Time, error) {
	kind, raw, err := r.read(string(c))
	if err != nil || kind != "commit" {
		return nil, time.Time{}, fmt.Errorf("read commit %s: it is a %q: %v", c, kind, err)
	}
	var tree string
	when := keyTime
	for line := range strings.SplitSeq(string(raw), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			break
		}
		switch fields[0] {
		case "tree":
			tree = fields[1]
		case "committer":
			if seconds, err := strconv.ParseInt(fields[len(fields)-2], 10, 64); err == nil {
				when = time.Unix(seconds, 0).UTC()
			}
		}
	}
	d, err := r.directory(tree)
	return d, when, err
}

func (r *Repo) directory(id string) (directory, error) {
	_, raw, err := r.read(id)
	if err != nil {
		return nil, err
	}
	d := directory{}
	for len(raw) > 0 {
		head, rest, _ := bytes.Cut(raw, []byte{0})
		mode, name, _ := strings.Cut(string(head), " ")
		n := &node{mode: mode, id: hex.EncodeToString(rest[:20])}
		if mode == "40000" {
			if n.dir, err = r.directory(n.id); err != nil {
				return nil, err
			}
		}
		d[name], raw = n, rest[20:]
	}
	return d, nil
}

// SetEntry changes one entry of a branch's top directory to any mode and id, for
// trees that hold what [Repo.Commit] would not put there, and commits it.
func (r *Repo) SetEntry(branch, name, mode, id string, key *Key) (channel.Commit, error) {
	head, ok := r.Head(branch)
	if !ok {
		return "", fmt.Errorf("set entry of %s: no such branch", branch)
	}
	d, _, err := r.checkout(head)
	if err != nil {
		return "", err
	}
	d[name] = &node{mode: mode, id: id}
	tree, err := d.write(r)
	if err != nil {
		return "", err
	}
	return r.CommitTo(branch, CommitOptions{
		Message: "Set " + name + ".", Parents: []channel.Commit{head}, Tree: tree, Key: key,
	})
}
