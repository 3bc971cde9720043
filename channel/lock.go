package channel

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A Lock is a channel list after resolution: every channel that takes part, also
// those only others ask for, at one complete commit, in the order Guix merges them.
type Lock struct {
	Channels []LockedChannel `json:"channels"`
	// Requested is the list the lock was resolved from.
	// It is not part of the digest; a lock read from a channels.scm has itself.
	Requested List `json:"requested,omitempty"`
}

// A LockedChannel is a channel whose Commit is complete.
type LockedChannel struct {
	Channel
	// DeclaredBy is the channel whose .guix-channel asked for this one,
	// or empty when the list itself did.
	DeclaredBy string `json:"declaredBy,omitempty"`
	// Pin is the commit the declaration asked for, empty for the head of the branch.
	Pin Commit `json:"pin,omitempty"`
}

// UnmarshalJSON is needed because the embedded channel has one of its own.
func (c *LockedChannel) UnmarshalJSON(text []byte) error {
	var rest struct {
		DeclaredBy string
		Pin        Commit
	}
	if err := json.Unmarshal(text, &rest); err != nil {
		return err
	}
	c.DeclaredBy, c.Pin = rest.DeclaredBy, rest.Pin
	return json.Unmarshal(text, &c.Channel)
}

// List returns the channels without their history.
func (l *Lock) List() List {
	list := make(List, len(l.Channels))
	for i, c := range l.Channels {
		list[i] = c.Channel
	}
	return list
}

// Canonical returns the bytes that stand for the lock: equal for equal
// channels in equal order, whatever file they came from.
func (l *Lock) Canonical() []byte {
	items := []sexp.Value{sexp.Symbol("lock"), sexp.L(sexp.Symbol("version"), sexp.Int(0))}
	for _, c := range l.Channels {
		items = append(items, c.canonical())
	}
	return []byte(sexp.L(items...).String() + "\n")
}

// canonical returns the form that Guix keeps in the manifest of a profile.
func (c Channel) canonical() sexp.Value {
	text := func(name sexp.Symbol, s string) sexp.Value { return sexp.L(name, sexp.String(s)) }
	version := sexp.L(sexp.Symbol("version"), sexp.Int(0))
	fields := []sexp.Value{
		sexp.Symbol("repository"), version, text("url", c.URL), text("branch", c.withDefaults().Branch),
		text("commit", string(c.Commit)), sexp.L(sexp.Symbol("name"), sexp.Symbol(c.Name)),
	}
	if i := c.Introduction; i != nil {
		fields = append(fields, sexp.L(sexp.Symbol("introduction"), sexp.L(
			sexp.Symbol("channel-introduction"), version,
			text("commit", string(i.Commit)), text("signer", i.Signer.String()))))
	}
	return sexp.L(fields...)
}

// Digest returns the SHA-256 of the canonical bytes in hexadecimal.
// It names everything that is made from this lock.
func (l *Lock) Digest() string {
	sum := sha256.Sum256(l.Canonical())
	return hex.EncodeToString(sum[:])
}

// WriteTo writes a channels.scm that Guix reads as exactly these channels.
func (l *Lock) WriteTo(w io.Writer) (int64, error) {
	comments := make([]string, len(l.Channels))
	for i, c := range l.Channels {
		if c.DeclaredBy != "" {
			comments[i] = "declared by " + sexp.Symbol(c.DeclaredBy).String()
		}
	}
	return listCode(l.List(), comments).WriteTo(w)
}

// ReadLock reads a lock from its JSON form or from a channels.scm whose channels
// all stand at complete commits. The name is used in errors.
func ReadLock(name string, r io.Reader) (*Lock, error) {
	text, err := io.ReadAll(io.LimitReader(r, 4<<20))
	if err != nil {
		return nil, fmt.Errorf("read lock %q: %w", name, err)
	}
	lock := &Lock{}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		if _, err := readJSON(name, text); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, lock); err != nil {
			return nil, fmt.Errorf("read lock %q: %w", name, err)
		}
		return lock, lock.check(name)
	}
	list, err := ReadList(name, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		lock.Channels = append(lock.Channels, LockedChannel{Channel: c.withDefaults(), Pin: c.Commit})
	}
	lock.Requested = list
	return lock, lock.check(name)
}

func (l *Lock) check(name string) error {
	seen := map[string]bool{}
	for _, c := range l.Channels {
		if !c.Commit.Complete() {
			return fmt.Errorf("read lock %q: channel %s stands at no complete commit but at %q", name, c.Name, c.Commit)
		}
		if seen[c.Name] {
			return fmt.Errorf("read lock %q: channel %s appears twice", name, c.Name)
		}
		seen[c.Name] = true
	}
	return nil
}
