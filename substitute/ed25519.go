package substitute

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// Guix signs with ECDSA, not EdDSA, on the curve Ed25519. In the terms of
// FIPS 186, n is the order of the base point B, 253 bits long, and the number
// taken from a point is its affine Edwards x coordinate. Nonces are those of
// RFC 6979 with SHA-256, so that signatures have no randomness.
//
// What depends on a secret is computed in constant time: scalars and points by
// package edwards25519, everything else on arrays of fixed length. Only
// rejected candidates for a nonce, which are of no use, take time of their own.

const curve25519Bytes = 32

// point25519 is a public key, q.
type point25519 struct{ q *edwards25519.Point }

// scalar25519 is a private key.
type scalar25519 struct {
	d [curve25519Bytes]byte // big-endian, normally larger than n
}

// newPoint25519 decodes q in the three forms of libgcrypt: the usual encoding of
// Ed25519, the same after a byte 0x40, and 0x04, x, y in big-endian.
func newPoint25519(q []byte) (*point25519, error) {
	encoded := q
	switch {
	case len(q) == 1+curve25519Bytes && q[0] == 0x40:
		encoded = q[1:]
	case len(q) == 1+2*curve25519Bytes && q[0] == 0x04:
		encoded = reversed(q[1+curve25519Bytes:])
		encoded[curve25519Bytes-1] |= q[curve25519Bytes] << 7 // the lowest bit of x
	}
	p, err := new(edwards25519.Point).SetBytes(encoded)
	if err != nil {
		return nil, errors.New("q is not a point of Ed25519")
	}
	if len(q) == 1+2*curve25519Bytes && !bytes.Equal(affineX(p), reversed(q[1:1+curve25519Bytes])) {
		return nil, errors.New("q is not a point of Ed25519")
	}
	if new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, errors.New("q is a point of small order")
	}
	return &point25519{p}, nil
}

// verify checks (ecdsa (r …) (s …)): it is made with q if the x coordinate of
// z/s·B + r/s·Q is r.
func (k *point25519) verify(hash Hash, sig gsexp) error {
	r, err := signatureScalar(sig, "r")
	if err != nil {
		return err
	}
	s, err := signatureScalar(sig, "s")
	if err != nil {
		return err
	}
	inverse := new(edwards25519.Scalar).Invert(s)
	u1 := new(edwards25519.Scalar).Multiply(hashScalar(hash[:]), inverse)
	u2 := new(edwards25519.Scalar).Multiply(r, inverse)
	p := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(u2, k.q, u1)
	if wideScalar(affineX(p)).Equal(r) == 0 {
		return errWrongSignature
	}
	return nil
}

func (*point25519) dataFlags() string { return "rfc6979" }
func (*point25519) sigName() string   { return "ecdsa" }

// signatureScalar reads the number called name, which must be in 0 < v < n.
func signatureScalar(sig gsexp, name string) (*edwards25519.Scalar, error) {
	v, err := sig.value(name)
	if err != nil {
		return nil, err
	}
	le, err := fixed(v)
	if err != nil {
		return nil, err
	}
	slices.Reverse(le[:])
	s, err := new(edwards25519.Scalar).SetCanonicalBytes(le[:])
	if err != nil || s.Equal(edwards25519.NewScalar()) == 1 {
		return nil, fmt.Errorf("number %s is out of range", name)
	}
	return s, nil
}

// newScalar25519 checks that d is the private part of q.
func newScalar25519(d []byte, public *point25519) (*scalar25519, error) {
	padded, err := fixed(d)
	if err != nil {
		return nil, err
	}
	k := &scalar25519{padded}
	if k.public().Equal(public.q) == 0 {
		return nil, errors.New("d and q do not belong together")
	}
	return k, nil
}

// generateScalar25519 chooses a private key as libgcrypt does.
func generateScalar25519() *scalar25519 {
	k := new(scalar25519)
	rand.Read(k.d[:]) // never fails
	k.d[0] = k.d[0]&0x7f | 0x40
	k.d[curve25519Bytes-1] &^= 7
	return k
}

func (k *scalar25519) public() *edwards25519.Point {
	return new(edwards25519.Point).ScalarBaseMult(wideScalar(reversed(k.d[:])))
}

// sign returns (ecdsa (r …) (s …)), the very bytes that libgcrypt computes:
// r = x(k·B) and s = (z + d·r)/k, modulo n.
func (k *scalar25519) sign(hash Hash) (gsexp, error) {
	z := hashScalar(hash[:])
	d := wideScalar(reversed(k.d[:]))
	for nonce := range k.nonces(z) {
		r := wideScalar(affineX(new(edwards25519.Point).ScalarBaseMult(nonce)))
		s := new(edwards25519.Scalar).MultiplyAdd(d, r, z)
		s.Multiply(s, new(edwards25519.Scalar).Invert(nonce))
		zero := edwards25519.NewScalar()
		if r.Equal(zero) == 0 && s.Equal(zero) == 0 {
			return list(symbol("ecdsa"),
				list(symbol("r"), atom(minimal(r))), list(symbol("s"), atom(minimal(s)))), nil
		}
	}
	panic("unreachable: the nonces do not end")
}

// nonces yields the sequence of RFC 6979, section 3.2, for the hash z.
func (k *scalar25519) nonces(z *edwards25519.Scalar) func(yield func(*edwards25519.Scalar) bool) {
	return func(yield func(*edwards25519.Scalar) bool) {
		seed := slices.Concat(k.d[:], reversed(z.Bytes()))
		var key, v [sha256.Size]byte
		for i := range v {
			v[i] = 1
		}
		for _, round := range []byte{0, 1} {
			key = mac(&key, v[:], []byte{round}, seed)
			v = mac(&key, v[:])
		}
		for {
			v = mac(&key, v[:])
			nonce, err := new(edwards25519.Scalar).SetCanonicalBytes(reversed(shift3(v[:])))
			if err == nil && nonce.Equal(edwards25519.NewScalar()) == 0 && !yield(nonce) {
				return
			}
			key = mac(&key, v[:], []byte{0})
			v = mac(&key, v[:])
		}
	}
}

// mac is HMAC-SHA-256 (RFC 2104) with a key that is as long as a hash, of parts that together are
// no longer than a nonce takes. What package crypto/hmac allocates each time would be a tenth of a signature.
func mac(key *[sha256.Size]byte, parts ...[]byte) [sha256.Size]byte {
	const inner, outer = 0x36, 0x5c
	var text [sha256.BlockSize + 3*sha256.Size + 1]byte
	copy(text[:], key[:])
	for i := range sha256.BlockSize {
		text[i] ^= inner
	}
	end := sha256.BlockSize
	for _, p := range parts {
		end += copy(text[end:], p)
	}
	hash := sha256.Sum256(text[:end])
	for i := range sha256.BlockSize {
		text[i] ^= inner ^ outer
	}
	end = sha256.BlockSize + copy(text[sha256.BlockSize:], hash[:])
	return sha256.Sum256(text[:end])
}

// hashScalar is the leading 253 bits of a hash, modulo n.
func hashScalar(hash []byte) *edwards25519.Scalar { return wideScalar(reversed(shift3(hash))) }

// shift3 is the 32-byte big-endian number v shifted right by 3 bits, from the
// length of a hash to that of n.
func shift3(v []byte) []byte {
	out := make([]byte, len(v))
	carry := byte(0)
	for i, b := range v {
		out[i] = b>>3 | carry
		carry = b << 5
	}
	return out
}

// wideScalar reduces a little-endian number of 32 bytes modulo n.
func wideScalar(le []byte) *edwards25519.Scalar {
	var wide [64]byte
	copy(wide[:], le)
	s, err := new(edwards25519.Scalar).SetUniformBytes(wide[:])
	if err != nil {
		panic(err) // only for a wrong length
	}
	return s
}

// affineX is the x coordinate of p in little-endian.
func affineX(p *edwards25519.Point) []byte {
	x, _, z, _ := p.ExtendedCoordinates()
	return new(field.Element).Multiply(x, new(field.Element).Invert(z)).Bytes()
}

func reversed(b []byte) []byte {
	b = bytes.Clone(b)
	slices.Reverse(b)
	return b
}

// fixed pads a big-endian number to 32 bytes.
func fixed(v []byte) (out [curve25519Bytes]byte, err error) {
	v = bytes.TrimLeft(v, "\x00")
	if len(v) > len(out) {
		return out, fmt.Errorf("number of %d bytes, more than %d", len(v), len(out))
	}
	copy(out[len(out)-len(v):], v)
	return out, nil
}

// minimal is s in big-endian without leading zeros.
func minimal(s *edwards25519.Scalar) []byte {
	return bytes.TrimLeft(reversed(s.Bytes()), "\x00")
}
