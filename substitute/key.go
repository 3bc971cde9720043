package substitute

import (
	"errors"
	"fmt"
)

// A PublicKey is what signatures are checked with. It can be of any kind that
// Guix can sign with: Ed25519, its default, RSA, and NIST P-256.
type PublicKey struct {
	tree    gsexp  // (public-key …)
	spelled string // tree in canonical form
	verifier
}

type verifier interface {
	verify(hash Hash, sig gsexp) error
	dataFlags() string // what signed data is marked with
	sigName() string   // what the signature's numbers are in
}

var errWrongSignature = errors.New("signature does not match")

// ParsePublicKey reads the text of a signing-key.pub.
func ParsePublicKey(text []byte) (*PublicKey, error) {
	tree, err := parseSexp(text)
	if err != nil {
		return nil, fmt.Errorf("parse public key: %v", err)
	}
	key, err := newPublicKey(tree)
	if err != nil {
		return nil, fmt.Errorf("parse public key: %v", err)
	}
	return key, nil
}

// newPublicKey takes (public-key (ecc …)) or (public-key (rsa …)).
func newPublicKey(tree gsexp) (*PublicKey, error) {
	if !tree.head("public-key") || len(tree.list) != 2 {
		return nil, errors.New("not a (public-key …)")
	}
	v, err := newVerifier(tree.list[1])
	if err != nil {
		return nil, err
	}
	return &PublicKey{tree, tree.canonical(), v}, nil
}

func newVerifier(numbers gsexp) (verifier, error) {
	if numbers.head("rsa") {
		return newPublicRSA(numbers)
	}
	if !numbers.head("ecc") {
		return nil, errors.New("neither an ecc nor an rsa key")
	}
	if err := checkFlags(numbers); err != nil {
		return nil, err
	}
	curve, err := numbers.value("curve")
	if err != nil {
		return nil, err
	}
	q, err := numbers.value("q")
	if err != nil {
		return nil, err
	}
	switch string(curve) {
	case "Ed25519":
		return newPoint25519(q)
	case "NIST P-256":
		return newPublicP256(q)
	}
	return nil, fmt.Errorf("unknown curve %q", curve)
}

// checkFlags refuses keys that are for another algorithm than ECDSA. Guix
// generates EdDSA keys if told to, but cannot sign with them.
func checkFlags(numbers gsexp) error {
	for _, e := range numbers.list {
		if !e.head("flags") {
			continue
		}
		for _, flag := range e.list[1:] {
			if !flag.is("rfc6979") && !flag.is("ecdsa") {
				return fmt.Errorf("key for %q instead of ECDSA", flag.atom)
			}
		}
	}
	return nil
}

// String is the key as a signing-key.pub has it, ending in a newline.
func (k *PublicKey) String() string { return string(k.tree.advanced()) }

// MarshalText is [PublicKey.String].
func (k *PublicKey) MarshalText() ([]byte, error) { return k.tree.advanced(), nil }

// Equal reports whether the keys are spelled equally, which is how Guix
// compares them.
func (k *PublicKey) Equal(other *PublicKey) bool {
	return k.spelled == other.spelled
}

// A PrivateKey is what a server signs with. Keys are made by [GenerateKey], or
// by "guix archive --generate-key".
type PrivateKey struct {
	tree   gsexp // (private-key …)
	public *PublicKey
	signer
}

type signer interface {
	sign(hash Hash) (gsexp, error)
}

// ParsePrivateKey reads the text of a signing-key.sec, and checks that its private
// and public parts belong together.
func ParsePrivateKey(text []byte) (*PrivateKey, error) {
	tree, err := parseSexp(text)
	if err == nil {
		var key *PrivateKey
		if key, err = newPrivateKey(tree); err == nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("parse private key: %v", err)
}

func newPrivateKey(tree gsexp) (*PrivateKey, error) {
	if !tree.head("private-key") || len(tree.list) != 2 {
		return nil, errors.New("not a (private-key …)")
	}
	public, err := newPublicKey(publicPart(tree))
	if err != nil {
		return nil, err
	}
	s, err := newSigner(tree.list[1], public.verifier)
	if err != nil {
		return nil, err
	}
	return &PrivateKey{tree, public, s}, nil
}

func newSigner(numbers gsexp, public verifier) (signer, error) {
	d, err := numbers.value("d")
	if err != nil {
		return nil, err
	}
	switch public := public.(type) {
	case *point25519:
		return newScalar25519(d, public)
	case *publicP256:
		return newPrivateP256(d, public)
	case *publicRSA:
		return newPrivateRSA(numbers, public)
	}
	return nil, errors.New("unknown kind of key")
}

// publicPart is a (private-key …) without what must stay private.
func publicPart(tree gsexp) gsexp {
	secret := []string{"d"}
	if tree.list[1].head("rsa") {
		secret = []string{"d", "p", "q", "u"}
	}
	var numbers []gsexp
next:
	for _, e := range tree.list[1].list {
		for _, name := range secret {
			if e.head(name) {
				continue next
			}
		}
		numbers = append(numbers, e)
	}
	return list(symbol("public-key"), list(numbers...))
}

// GenerateKey makes a new Ed25519 key pair of the kind Guix makes by default.
func GenerateKey() *PrivateKey {
	secret := generateScalar25519()
	point := &point25519{secret.public()}
	numbers := []gsexp{
		symbol("ecc"),
		list(symbol("curve"), symbol("Ed25519")),
		list(symbol("q"), atom(point.q.Bytes())),
	}
	tree := list(symbol("public-key"), list(numbers...))
	public := &PublicKey{tree, tree.canonical(), point}
	numbers = append(numbers, list(symbol("d"), atom(secret.d[:])))
	return &PrivateKey{list(symbol("private-key"), list(numbers...)), public, secret}
}

// Public returns the key that checks what k signs.
func (k *PrivateKey) Public() *PublicKey { return k.public }

// String hides the key, lest it end up in a log.
func (k *PrivateKey) String() string { return "private key of " + k.public.String() }
