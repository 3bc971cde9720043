package substitute

import (
	"crypto/sha256"
	"fmt"
)

// A Reason says why a narinfo is not to be believed. The names are those of
// (guix pki), as far as it has one.
type Reason int

const (
	_                  Reason = iota
	Unsigned                  // there is no signature
	IncompleteSigned          // what is signed lacks a field that must be
	CorruptSignature          // there is something that cannot be read as a signature
	UnauthorizedKey           // its key is not on the access-control list
	SignedHashMismatch        // it is about another text
	InvalidSignature          // it was not made by its key
)

func (r Reason) String() string {
	switch r {
	case Unsigned:
		return "not signed"
	case IncompleteSigned:
		return "incompletely signed"
	case CorruptSignature:
		return "corrupt signature"
	case UnauthorizedKey:
		return "signed by an unauthorized key"
	case SignedHashMismatch:
		return "signature of another text"
	case InvalidSignature:
		return "invalid signature"
	}
	return fmt.Sprintf("Reason(%d)", int(r))
}

// An UntrustedError says which narinfo is not believed, and why.
type UntrustedError struct {
	StorePath StorePath
	Reason    Reason
	Key       *PublicKey // whose signature it is, if that is known
	Detail    error      // more about it, or nil
}

func (e *UntrustedError) Error() string {
	s := fmt.Sprintf("verify narinfo of %s: %s", e.StorePath, e.Reason)
	if e.Detail != nil {
		s += ": " + e.Detail.Error()
	}
	return s
}

// Verify checks that what n says about its item was signed by a key that acl
// authorizes. The places to download from are never signed. All errors are of
// type [*UntrustedError].
func (n *NarInfo) Verify(acl *ACL) error {
	if reason, detail := n.untrusted(acl); reason != 0 {
		e := &UntrustedError{StorePath: n.StorePath, Reason: reason, Detail: detail}
		if n.Signature != nil {
			e.Key = n.Signature.Key
		}
		return e
	}
	return nil
}

// untrusted goes through the checks in the order of valid-narinfo? and
// signature-case, so that both find the same reason.
func (n *NarInfo) untrusted(acl *ACL) (Reason, error) {
	if n.signed == nil {
		return Unsigned, nil
	}
	if err := n.checkSignedFields(); err != nil {
		return IncompleteSigned, err
	}
	switch {
	case n.Signature == nil:
		return CorruptSignature, n.sigError
	case !acl.Authorized(n.Signature.Key):
		return UnauthorizedKey, nil
	case n.Signature.Hash != sha256.Sum256(n.signed):
		return SignedHashMismatch, nil
	}
	if err := n.Signature.Verify(); err != nil {
		return InvalidSignature, err
	}
	return 0, nil
}

// checkSignedFields checks that all that is said about the item itself is signed. Guix wants this of the first three
// fields only: whoever stands between could give it a size, and a deriver for the store to remember.
func (n *NarInfo) checkSignedFields() error {
	fields, err := parseFields(string(n.signed))
	if err != nil {
		return err
	}
	names := []string{"StorePath", "NarHash", "References", "NarSize"}
	if n.Deriver != "" {
		names = append(names, "Deriver")
	}
	for _, name := range names {
		if _, ok := lookup(fields, name); !ok {
			return fmt.Errorf("field %s is not signed", name)
		}
	}
	return nil
}
