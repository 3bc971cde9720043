package channel

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// A policy is what strict authentication asks beyond Guix: is the key strong, was it
// its owner's to sign with at that time, and do the dates make sense.
// It never accepts what Guix refuses.
type policy struct {
	now time.Time
}

// tolerance is how far a clock may be ahead.
const tolerance = 10 * time.Minute

// Kinds of signatures in a keyring.
const (
	certifiesFirst = 0x10 // to 0x13: a name of the owner
	certifiesLast  = 0x13
	bindsSubkey    = 0x18
	bindsPrimary   = 0x19 // by the subkey, embedded in the other
	signsKey       = 0x1f
	revokesKey     = 0x20
	revokesSubkey  = 0x28
)

const maySign = 0x02 // among the flags of a key

// Reasons of a revocation that leave older signatures good.
const (
	superseded = 1
	retired    = 3
)

// check judges the signature s of a commit, which has been verified to be by key.
func (p policy) check(id objectID, c *commitObject, s *signature, key *publicKey) error {
	err := p.objections(c, s, key)
	if err == nil {
		return nil
	}
	err.Commit, err.Key, err.When = id.commit(), key.fingerprint, c.when
	return err
}

func (p policy) objections(c *commitObject, s *signature, key *publicKey) *AuthError {
	if c.ambiguous != "" {
		return objection(MalformedCommit, "is ambiguous: %s", c.ambiguous)
	}
	if name := hashes[s.hash].name; name == "sha1" || name == "rmd160" {
		return objection(WeakHash, "has a %s signature, which is too weak", name)
	}
	if key.algorithm == algoDSA || key.algorithm == algoRSA && key.bits() < 2048 {
		return objection(WeakKey, "is signed with a weak key: %s of %d bits", algorithms[key.algorithm], key.bits())
	}
	if s.claims.created == 0 {
		return objection(MalformedSignature, "has a signature that does not say when it was made")
	}
	signed := seconds(s.claims.created)
	for _, when := range []time.Time{signed, c.when} {
		if when.After(p.now.Add(tolerance)) {
			return objection(FutureDate, "is dated %s, which is in the future", date(when))
		}
	}
	if s.claims.lifetime != 0 && c.when.After(signed.Add(duration(s.claims.lifetime))) {
		return objection(ExpiredSignature, "was made after its signature expired")
	}
	return key.objections(earlier(signed, c.when), later(signed, c.when))
}

var algorithms = map[byte]string{algoRSA: "RSA", algoDSA: "DSA", algoEdDSA: "EdDSA"}

func objection(rule Rule, format string, args ...any) *AuthError {
	return &AuthError{Rule: rule, Detail: fmt.Sprintf(format, args...)}
}

// objections says what is wrong with signing with k between two times.
func (k *publicKey) objections(from, to time.Time) *AuthError {
	if seconds(k.created).After(from.Add(tolerance)) {
		return objection(UnboundKey, "is older than the key that signed it, made %s", date(seconds(k.created)))
	}
	if err := k.revoked(to); err != nil {
		return err
	}
	primary := k
	if k.primary != nil {
		primary = k.primary
		if err := primary.revoked(to); err != nil {
			return err
		}
	}
	self := primary.selfSignature()
	if self == nil {
		return objection(UnboundKey, "is signed by a key whose owner is not certified by its own signature")
	}
	if err := primary.expired(self, to); err != nil || k.primary == nil {
		if err == nil && self.claims.hasFlags && self.claims.flags&maySign == 0 {
			err = objection(UnboundKey, "is signed by a key that is not meant for signing")
		}
		return err
	}
	binding := k.binding()
	if binding == nil {
		return objection(UnboundKey, "is signed by a subkey that its primary key does not own up to")
	}
	return k.expired(binding, to)
}

func (k *publicKey) expired(s *signature, at time.Time) *AuthError {
	end := seconds(k.created).Add(duration(s.claims.keyLife))
	if s.claims.keyLife == 0 || at.Before(end) {
		return nil
	}
	e := objection(ExpiredKey, "is signed by a key that had expired on %s", date(end))
	e.Since = end
	return e
}

// revoked looks for a revocation by the owner. One because the key was replaced or
// retired leaves older signatures good; any other is about all of them.
func (k *publicKey) revoked(at time.Time) *AuthError {
	kind, by := byte(revokesKey), k
	if k.primary != nil {
		kind, by = revokesSubkey, k.primary
	}
	for _, c := range k.certificates {
		s := c.signature
		if s.kind != kind || !by.verify(s, k.aboutKey(by)) {
			continue
		}
		soft := s.claims.hasReason && (s.claims.reason == superseded || s.claims.reason == retired)
		when := seconds(s.claims.created)
		if soft && at.Before(when) {
			continue
		}
		e := objection(RevokedKey, "is signed by a key that was revoked on %s", date(when))
		e.Since = when
		return e
	}
	return nil
}

// selfSignature returns the newest good signature by which a primary key vouches for
// itself or for its owner's name, nil if there is none.
func (k *publicKey) selfSignature() *signature {
	return k.newest(func(c certificate) bool {
		switch kind := c.signature.kind; {
		case kind == signsKey:
			return k.verify(c.signature, k.hashed())
		case kind >= certifiesFirst && kind <= certifiesLast && c.userID != nil:
			return k.verify(c.signature, k.aboutUser(c.userID))
		}
		return false
	})
}

// binding returns the newest good signature by which the primary key takes a subkey
// for its own to sign with, and the subkey takes it for its primary key.
func (k *publicKey) binding() *signature {
	return k.newest(func(c certificate) bool {
		s, back := c.signature, c.signature.claims.embedded
		return s.kind == bindsSubkey && s.claims.hasFlags && s.claims.flags&maySign != 0 &&
			k.primary.verify(s, k.aboutKey(k.primary)) &&
			back != nil && back.kind == bindsPrimary && k.verify(back, k.aboutKey(k.primary))
	})
}

// newest returns the newest of the signatures that are good.
func (k *publicKey) newest(good func(certificate) bool) (found *signature) {
	for _, c := range k.certificates {
		if (found == nil || c.signature.claims.created > found.claims.created) && good(c) {
			found = c.signature
		}
	}
	return found
}

// aboutKey returns what a signature by another key about k, or by k about itself, is over.
func (k *publicKey) aboutKey(by *publicKey) []byte {
	if by == k {
		return k.hashed()
	}
	return slices.Concat(by.hashed(), k.hashed())
}

func (k *publicKey) aboutUser(id []byte) []byte {
	return append(binary.BigEndian.AppendUint32(append(k.hashed(), 0xb4), uint32(len(id))), id...)
}

func seconds(s uint32) time.Time      { return time.Unix(int64(s), 0).UTC() }
func duration(s uint32) time.Duration { return time.Duration(s) * time.Second }
func date(t time.Time) string         { return t.Format("2006-01-02 15:04:05 UTC") }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
