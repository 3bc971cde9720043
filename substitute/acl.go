package substitute

import (
	"errors"
	"fmt"
	"os"
)

// An ACL is Guix's access-control list, usually /etc/guix/acl: the public keys
// whose signatures are believed. The zero value believes nobody.
type ACL struct {
	keys       []gsexp         // each (public-key …), in the order of the file
	authorized map[string]bool // their canonical forms
}

// NewACL returns the list of these keys.
func NewACL(keys ...*PublicKey) *ACL {
	var a ACL
	for _, k := range keys {
		a.add(k.tree)
	}
	return &a
}

func (a *ACL) add(key gsexp) {
	if a.authorized == nil {
		a.authorized = make(map[string]bool)
	}
	a.keys = append(a.keys, key)
	a.authorized[key.canonical()] = true
}

// ParseACL reads the text of an access-control list. As in Guix, one entry of
// another shape than "guix archive --authorize" writes spoils the whole list; a
// key of a kind that cannot be used does not.
func ParseACL(text []byte) (*ACL, error) {
	tree, err := parseSexp(text)
	if err != nil {
		return nil, fmt.Errorf("parse access-control list: %v", err)
	}
	if !tree.head("acl") {
		return nil, errors.New("parse access-control list: not an (acl …)")
	}
	var a ACL
	for i, e := range tree.list[1:] {
		if len(e.list) != 3 || !e.head("entry") || e.list[2].canonical() != importTag.canonical() {
			return nil, fmt.Errorf("parse access-control list: entry %d has not the form (entry KEY (tag (guix import)))", i+1)
		}
		a.add(e.list[1])
	}
	return &a, nil
}

var importTag = list(symbol("tag"), list(symbol("guix"), symbol("import")))

// ReadACLFile reads a file such as /etc/guix/acl. One that is missing gives an
// error for which errors.Is(err, fs.ErrNotExist).
func ReadACLFile(path string) (*ACL, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read access-control list: %w", err)
	}
	a, err := ParseACL(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %v", path, err)
	}
	return a, nil
}

// Authorized reports whether key is on the list.
func (a *ACL) Authorized(key *PublicKey) bool {
	return a != nil && a.authorized[key.tree.canonical()]
}

// String is the list as "guix archive --authorize" writes it.
func (a *ACL) String() string {
	elements := []gsexp{symbol("acl")}
	for _, k := range a.keys {
		elements = append(elements, list(symbol("entry"), k, importTag))
	}
	return string(list(elements...).advanced())
}

// MarshalText is [ACL.String].
func (a *ACL) MarshalText() ([]byte, error) { return []byte(a.String()), nil }
