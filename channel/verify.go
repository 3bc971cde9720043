package channel

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// A verifier checks single commits of one repository. Each check depends only
// on the commit, the trees of its parents and the keyring, so they may run
// concurrently.
type verifier struct {
	repo       *Repository
	keys       *keyring
	historical []Fingerprint
	policy     *policy // nil asks for no more than Guix does

	mu    sync.Mutex                     // guards files
	files map[objectID]authorizationFile // by blob: there are few different ones
}

// An authorizationEntry is what a tree has by the name .guix-authorizations.
type authorizationEntry struct {
	there  bool // something
	isFile bool
	blob   objectID
}

type authorizationFile struct {
	keys []Fingerprint
	err  error
}

const authorizationsName = ".guix-authorizations"

// loadKeyring reads every file ending in .key, at any depth, of a branch.
func loadKeyring(r *Repository, branch string) (*keyring, error) {
	head, err := r.keyringHead(branch)
	if err != nil {
		if errors.Is(err, errCorrupt) {
			return nil, err
		}
		return nil, &AuthError{Rule: KeyringMissing, Detail: fmt.Sprintf(
			"there is no branch %q with the public keys of the signers", branch)}
	}
	c, err := r.commitOf(head)
	if err != nil {
		return nil, err
	}
	k := newKeyring()
	return k, k.load(r, c.tree, "", map[objectID]bool{})
}

// load reads the keys of a tree. What is there twice counts once, or a few small trees
// could stand for more files than there is time for.
func (k *keyring) load(r *Repository, tree objectID, dir string, seen map[objectID]bool) error {
	if seen[tree] {
		return nil
	}
	seen[tree] = true
	entries, err := r.tree(tree)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.name)
		isKey := strings.HasSuffix(e.name, ".key")
		switch {
		case isKey && (e.isDir() || e.isSubmodule()):
			err = malformedKeyring(name, errors.New("not a file"))
		case isKey && !seen[e.id]:
			seen[e.id] = true
			err = k.loadFile(r, e.id, name)
		case e.isDir():
			err = k.load(r, e.id, name, seen)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (k *keyring) loadFile(r *Repository, blob objectID, name string) error {
	text, err := r.blob(blob)
	if err != nil {
		return err
	}
	if err := k.add(text); err != nil {
		return malformedKeyring(name, err)
	}
	return nil
}

func malformedKeyring(name string, err error) error {
	return &AuthError{Rule: MalformedKeyring, Detail: fmt.Sprintf("key file %q cannot be read: %v", name, err)}
}

// verify checks one commit and returns the key that signed it, and the date of the commit.
// An error that is no *AuthError is about the repository.
func (v *verifier) verify(j job) (signer Fingerprint, when time.Time, err error) {
	c := j.object
	if c == nil {
		if c, err = v.repo.commit(j.id); err != nil {
			return signer, when, err
		}
	}
	signer, err = v.check(j, c)
	if refused, ok := err.(*AuthError); ok && refused.Commit == j.id.commit() {
		refused.When = c.when
	}
	return signer, c.when, err
}

func (v *verifier) check(j job, c *commitObject) (Fingerprint, error) {
	signer, err := v.signer(j.id, c, !j.entry.there)
	if err != nil {
		return Fingerprint{}, err
	}
	authorized, err := v.authorized(j.parents)
	if err != nil {
		return Fingerprint{}, err
	}
	if !slices.Contains(authorized, signer) {
		return Fingerprint{}, v.unauthorized(j, signer)
	}
	return signer, nil
}

// unauthorized says that the parents of a commit do not authorize its signer, and since when.
func (v *verifier) unauthorized(j job, signer Fingerprint) error {
	e := refuse(j.id, UnauthorizedSigner, "is signed by %v, which its parents do not authorize", signer)
	e.Key = signer
	for _, p := range j.parents {
		taken, when, err := v.taken(p.id, signer)
		if err != nil {
			return err
		}
		if taken != "" {
			e.SinceCommit, e.Since = taken, when
			e.Detail += fmt.Sprintf(" since commit %s of %s", taken.Short(), date(when))
			return e
		}
	}
	return e
}

// taken goes back from a commit that does not authorize a key, first parents only,
// to the one that took the authorization away. It is empty if none did.
func (v *verifier) taken(id objectID, key Fingerprint) (Commit, time.Time, error) {
	const far = 100_000
	var last *commitObject
	var lastID objectID
	for range far {
		c, err := v.repo.commit(id)
		if err != nil {
			return "", time.Time{}, err
		}
		entry, err := v.repo.authorizations(c.tree)
		if err != nil {
			return "", time.Time{}, err
		}
		keys, err := v.authorizedBy(parent{id, entry})
		if _, broken := err.(*AuthError); broken {
			return "", time.Time{}, nil
		}
		if err != nil {
			return "", time.Time{}, err
		}
		if slices.Contains(keys, key) {
			if last == nil {
				return "", time.Time{}, nil // this parent authorizes it; another does not
			}
			return lastID.commit(), last.when, nil
		}
		if len(c.parents) == 0 {
			break
		}
		last, lastID, id = c, id, c.parents[0]
	}
	return "", time.Time{}, nil
}

// signer returns the key that signed c. SHA-1 is good enough only for commits
// from before .guix-authorizations.
func (v *verifier) signer(id objectID, c *commitObject, allowSHA1 bool) (Fingerprint, error) {
	if c.signature == nil {
		return Fingerprint{}, refuse(id, Unsigned, "lacks a signature")
	}
	s, err := readSignature(c.signature)
	if err != nil {
		return Fingerprint{}, refuse(id, MalformedSignature, "has a signature that cannot be read: %v", err)
	}
	name := hashes[s.hash].name
	if name == "md5" || name == "sha1" && !allowSHA1 {
		return Fingerprint{}, refuse(id, WeakHash, "has a %s signature, which is not permitted", name)
	}
	if s.kind != 0 {
		return Fingerprint{}, refuse(id, UnsupportedSignature, "has a signature of type %#02x, not of binary data", s.kind)
	}
	key := v.keys.find(s)
	if key == nil {
		return Fingerprint{}, refuse(id, MissingKey, "is signed by key %s, which is not in the keyring", s.claimed())
	}
	if s.numbers == nil || key.key == nil {
		e := refuse(id, UnsupportedSignature, "is signed with a public-key algorithm that is not supported (%d)", s.algorithm)
		e.Key = key.fingerprint
		return Fingerprint{}, e
	}
	if !utf8.Valid(c.signed) || !key.verify(s, c.signed) {
		e := refuse(id, BadSignature, "does not match its signature by %v", key.fingerprint)
		e.Key = key.fingerprint
		return Fingerprint{}, e
	}
	if v.policy != nil {
		if err := v.policy.check(id, c, s, key); err != nil {
			return Fingerprint{}, err
		}
	}
	return key.fingerprint, nil
}

// claimed is the key that a signature names, for messages.
func (s *signature) claimed() string {
	switch {
	case len(s.fingerprint) == len(Fingerprint{}):
		return Fingerprint(s.fingerprint).String()
	case s.hasIssuer:
		return fmt.Sprintf("%016X", s.issuer)
	}
	return "(unnamed)"
}

// authorized returns the keys that all parents of a commit authorize.
func (v *verifier) authorized(parents []parent) ([]Fingerprint, error) {
	if len(parents) == 0 {
		return v.historical, nil
	}
	var common []Fingerprint
	for i, p := range parents {
		keys, err := v.authorizedBy(p)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			common = slices.Clone(keys)
			continue
		}
		common = slices.DeleteFunc(common, func(f Fingerprint) bool { return !slices.Contains(keys, f) })
	}
	return common, nil
}

// authorizedBy returns the keys that one commit authorizes for its children.
func (v *verifier) authorizedBy(p parent) ([]Fingerprint, error) {
	if p.entry.isFile {
		keys, err := v.file(p.entry.blob)
		if _, isAuth := err.(*AuthError); isAuth {
			return nil, refuse(p.id, MalformedAuthorizations, "has a .guix-authorizations that cannot be read: %v", err.(*AuthError).Detail)
		}
		return keys, err
	}
	return v.historical, v.neverHad(p)
}

// neverHad refuses a commit without .guix-authorizations whose parents have them:
// falling back to the default must not be that easy.
func (v *verifier) neverHad(p parent) error {
	c, err := v.repo.commit(p.id)
	if err != nil {
		return err
	}
	for _, id := range c.parents {
		before, err := v.repo.commit(id)
		if err != nil {
			return err
		}
		e, err := v.repo.authorizations(before.tree)
		if err != nil {
			return err
		}
		if e.there {
			return refuse(p.id, AuthorizationsRemoved, "attempts to remove .guix-authorizations")
		}
	}
	return nil
}

// authorizations returns what a tree has by the name .guix-authorizations.
func (r *Repository) authorizations(tree objectID) (authorizationEntry, error) {
	e, there, err := r.entry(tree, authorizationsName)
	if !there || err != nil {
		return authorizationEntry{}, err
	}
	if isFile := !e.isDir() && !e.isSubmodule(); isFile {
		return authorizationEntry{there: true, isFile: true, blob: e.id}, nil
	}
	return authorizationEntry{there: true}, nil
}

func (v *verifier) file(blob objectID) ([]Fingerprint, error) {
	v.mu.Lock()
	known, ok := v.files[blob]
	v.mu.Unlock()
	if ok {
		return known.keys, known.err
	}
	text, err := v.repo.blob(blob)
	if err != nil {
		return nil, err
	}
	keys, err := ReadAuthorizations(authorizationsName, text)
	if err != nil {
		err = &AuthError{Rule: MalformedAuthorizations, Detail: err.Error()}
	}
	v.mu.Lock()
	v.files[blob] = authorizationFile{keys, err}
	v.mu.Unlock()
	return keys, err
}
