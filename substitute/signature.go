package substitute

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// A Signature is a key's statement about a hash.
type Signature struct {
	Hash Hash
	Key  *PublicKey // who is said to have made it
	sig  gsexp      // (ecdsa …) or (rsa …)
	data gsexp      // (data …)
	tree gsexp
}

// Sign returns the signature of a hash. For Ed25519 it is the very one that
// Guix would make, as signatures have no randomness.
func (k *PrivateKey) Sign(hash Hash) (*Signature, error) {
	sig, err := k.sign(hash)
	if err != nil {
		return nil, fmt.Errorf("sign hash: %v", err)
	}
	data := list(symbol("data"),
		list(symbol("flags"), symbol(k.public.dataFlags())),
		list(symbol("hash"), symbol("sha256"), atom(hash[:])))
	tree := list(symbol("signature"), data, list(symbol("sig-val"), sig), k.public.tree)
	return &Signature{Hash: hash, Key: k.public, sig: sig, data: data, tree: tree}, nil
}

// ParseSignature reads a signature as "guix authenticate" and nar bundles have
// it, in bytes. It does not check it: see [Signature.Verify].
func ParseSignature(text []byte) (*Signature, error) {
	tree, err := parseSexp(text)
	if err != nil {
		return nil, fmt.Errorf("parse signature: %v", err)
	}
	s, err := newSignature(tree)
	if err != nil {
		return nil, fmt.Errorf("parse signature: %v", err)
	}
	return s, nil
}

// newSignature looks for the three parts of a signature wherever they are in
// tree, as Guix does.
func newSignature(tree gsexp) (*Signature, error) {
	var parts [3]gsexp
	for i, name := range []string{"public-key", "data", "sig-val"} {
		part, ok := tree.find(name)
		if !ok {
			return nil, fmt.Errorf("no (%s …)", name)
		}
		parts[i] = part
	}
	key, err := newPublicKey(parts[0])
	if err != nil {
		return nil, err
	}
	hash, err := signedHash(parts[1])
	if err != nil {
		return nil, err
	}
	if len(parts[2].list) != 2 {
		return nil, errors.New("sig-val has not one value")
	}
	return &Signature{Hash: hash, Key: key, sig: parts[2].list[1], data: parts[1], tree: tree}, nil
}

// signedHash takes the hash out of (data (flags …) (hash sha256 #…#)).
func signedHash(data gsexp) (Hash, error) {
	for _, e := range data.list {
		if e.head("hash") && len(e.list) == 3 && e.list[1].is("sha256") && len(e.list[2].atom) == sha256.Size {
			return Hash(e.list[2].atom), nil
		}
	}
	return Hash{}, errors.New("no hash of kind sha256")
}

// Verify checks that the signature was made by the private part of s.Key for
// s.Hash. Whether that key is to be believed is for an [ACL] to say.
func (s *Signature) Verify() error {
	if !s.sig.head(s.Key.sigName()) || !s.flagged(s.Key.dataFlags()) {
		return errors.New("verify signature: of another kind than the key")
	}
	if err := s.Key.verify(s.Hash, s.sig); err != nil {
		return fmt.Errorf("verify signature: %v", err)
	}
	return nil
}

func (s *Signature) flagged(flag string) bool {
	v, err := s.data.value("flags")
	return err == nil && string(v) == flag
}

// Bytes returns the signature as "guix authenticate" would print it. They are
// bytes, not UTF-8: a number that looks like text is printed as a string.
func (s *Signature) Bytes() []byte { return s.tree.advanced() }

// utf8 is the signature as a narinfo has it before base64: guix publish reads
// the bytes as Latin-1 and encodes the characters in UTF-8.
func (s *Signature) utf8() []byte {
	raw := s.Bytes()
	if !slices.ContainsFunc(raw, func(b byte) bool { return b >= utf8.RuneSelf }) {
		return raw
	}
	out := make([]byte, 0, len(raw)+len(raw)/8)
	for _, b := range raw {
		out = utf8.AppendRune(out, rune(b))
	}
	return out
}

// latin1 is the inverse of utf8.
func latin1(text []byte) ([]byte, error) {
	out := make([]byte, 0, len(text))
	for _, c := range bytes.Runes(text) {
		if c > 0xff {
			return nil, fmt.Errorf("character %q is no byte", c)
		}
		out = append(out, byte(c))
	}
	return out, nil
}
