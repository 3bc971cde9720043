package channel

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An objectID is the SHA-1 id of a git object.
type objectID [20]byte

func (id objectID) String() string { return hex.EncodeToString(id[:]) }
func (id objectID) commit() Commit { return Commit(id.String()) }

// id returns the object a complete commit names.
func (c Commit) id() (id objectID, err error) {
	if !c.Complete() {
		return id, fmt.Errorf("%q is not a complete commit id", c)
	}
	_, err = hex.Decode(id[:], []byte(c))
	return id, err
}

func parseID(s []byte) (id objectID, err error) {
	if len(s) != 40 || !isHex(string(s)) {
		return id, fmt.Errorf("%.50q is not an object id", s)
	}
	_, err = hex.Decode(id[:], s)
	return id, err
}

// A commitObject is what a commit's own bytes say.
// It is read from those bytes, never from somebody's idea of them: two
// parsers that differ over an odd object could be shown two histories.
type commitObject struct {
	tree      objectID
	parents   []objectID
	signature []byte    // armoured, nil when the commit is not signed
	signed    []byte    // what the signature is over: everything else
	when      time.Time // of the committer; the zero Time if it does not say so properly
	author    string    // name of the author, without address
	message   []byte    // what follows the headers
	ambiguous string    // what others may read otherwise, empty in an honest commit
}

// parseCommit reads a commit object. It refuses ambiguous ones: one of git's own
// headers twice or out of place, a NUL, text that ends within the headers.
func parseCommit(raw []byte) (*commitObject, error) {
	if bytes.IndexByte(raw, 0) >= 0 {
		return nil, errors.New("a NUL in the commit")
	}
	c := &commitObject{}
	seen := map[string]bool{}
	last := ""
	for at := 0; ; {
		if at >= len(raw) {
			return nil, errors.New("the commit ends within its headers")
		}
		if raw[at] == '\n' {
			c.message = raw[at+1:]
			break
		}
		end := headerEnd(raw, at)
		name, value, _ := strings.Cut(string(raw[at:end-1]), " ")
		if err := checkHeader(name, last, seen); err != nil {
			return nil, err
		}
		if seen[name] && name != "parent" && name != "mergetag" {
			c.ambiguous = fmt.Sprintf("header %.20q twice", name)
		}
		if err := c.header(name, value); err != nil {
			return nil, fmt.Errorf("header %s: %v", name, err)
		}
		if name == "gpgsig" {
			c.signed = slices.Concat(raw[:at], raw[end:])
		}
		seen[name], last, at = true, name, end
	}
	if !seen["committer"] {
		return nil, errors.New("the commit lacks headers")
	}
	return c, nil
}

// headerEnd returns where the header that starts at ends, continuation lines
// included; what follows is the next header or the empty line.
func headerEnd(raw []byte, at int) int {
	for {
		n := bytes.IndexByte(raw[at:], '\n')
		if n < 0 {
			return len(raw)
		}
		at += n + 1
		if at >= len(raw) || raw[at] != ' ' {
			return at
		}
	}
}

// before says which header must come just before each of git's own.
var before = map[string][]string{
	"tree":      {""},
	"parent":    {"tree", "parent"},
	"author":    {"tree", "parent"},
	"committer": {"author"},
}

func checkHeader(name, last string, seen map[string]bool) error {
	if want, ok := before[name]; ok {
		for _, w := range want {
			if last == w {
				return nil
			}
		}
		return fmt.Errorf("header %q twice or out of place", name)
	}
	if !seen["committer"] {
		return fmt.Errorf("header %.20q before the committer", name)
	}
	if seen[name] && name == "gpgsig" {
		return fmt.Errorf("header %q twice", name)
	}
	return nil
}

func (c *commitObject) header(name, value string) (err error) {
	switch name {
	case "tree":
		c.tree, err = parseID([]byte(value))
	case "parent":
		var id objectID
		id, err = parseID([]byte(value))
		c.parents = append(c.parents, id)
	case "author":
		name, _, _ := strings.Cut(value, " <")
		c.author = strings.ToValidUTF8(name, "\ufffd")
	case "committer":
		c.when = committed(value)
	case "gpgsig":
		c.signature = []byte(strings.ReplaceAll(value, "\n ", "\n"))
	}
	return err
}

// subject is the first line of the message.
func (c *commitObject) subject() string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(c.message)), "\n")
	return strings.ToValidUTF8(line, "\ufffd")
}

// committed returns the time in "NAME <ADDRESS> SECONDS ZONE".
func committed(person string) time.Time {
	fields := strings.Fields(person[strings.LastIndexByte(person, '>')+1:])
	if len(fields) == 0 {
		return time.Time{}
	}
	s, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}

// A treeEntry is one line of a directory.
type treeEntry struct {
	name string
	mode string // git's octal spelling: 40000 directory, 160000 submodule, else a file
	id   objectID
}

func (e treeEntry) isDir() bool       { return e.mode == "40000" || e.mode == "040000" }
func (e treeEntry) isSubmodule() bool { return e.mode == "160000" }

// parseTree reads a tree object.
func parseTree(raw []byte) (entries []treeEntry, err error) {
	err = eachEntry(raw, func(mode, name, id []byte) {
		entries = append(entries, treeEntry{string(name), string(mode), objectID(id)})
	})
	return entries, err
}

// findEntry looks for a name in a tree object, all of which must be well formed.
func findEntry(raw []byte, wanted string) (e treeEntry, ok bool, err error) {
	err = eachEntry(raw, func(mode, name, id []byte) {
		if !ok && string(name) == wanted {
			e, ok = treeEntry{wanted, string(mode), objectID(id)}, true
		}
	})
	return e, ok, err
}

func eachEntry(raw []byte, do func(mode, name, id []byte)) error {
	for len(raw) > 0 {
		head, rest, ok := bytes.Cut(raw, []byte{0})
		mode, name, named := bytes.Cut(head, []byte{' '})
		if !ok || !named || len(name) == 0 || len(rest) < len(objectID{}) {
			return errors.New("malformed tree")
		}
		do(mode, name, rest[:len(objectID{})])
		raw = rest[len(objectID{}):]
	}
	return nil
}
