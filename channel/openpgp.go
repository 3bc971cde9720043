package channel

import (
	"bytes"
	//lint:ignore SA1019 old channels have DSA signatures, and Guix accepts them
	"crypto/dsa"
	_ "crypto/md5" // the hash functions a signature may name
	"crypto/rsa"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"math/big"
	"math/bits"
	"slices"
	"sync"

	"github.com/ProtonMail/go-crypto/openpgp/eddsa"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	//lint:ignore SA1019 the same
	_ "golang.org/x/crypto/ripemd160"
)

// verify reports whether s is the key's signature of data.
func (k *publicKey) verify(s *signature, data []byte) bool {
	if s.algorithm != k.algorithm {
		return false
	}
	h := hashes[s.hash].hash.New()
	h.Write(data)
	h.Write(s.suffix)
	digest := h.Sum(nil)
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		return verifyRSA(key, s.hash, digest, s.numbers[0])
	case *dsa.PublicKey:
		return verifyDSA(key, digest, s.numbers[0], s.numbers[1])
	case *eddsa.PublicKey:
		return eddsa.Verify(key, digest, s.numbers[0], s.numbers[1])
	}
	return false
}

// verifyRSA checks a signature of PKCS #1 v1.5. Nothing here is secret, so plain
// big numbers do, at a third of the time that package crypto/rsa takes; and keys it finds
// too short, as Guix does not, are left to the policy.
func verifyRSA(key *rsa.PublicKey, hash byte, digest, number []byte) bool {
	s := new(big.Int).SetBytes(number)
	if key.N.Sign() <= 0 || key.E < 2 || s.Cmp(key.N) >= 0 {
		return false
	}
	size := (key.N.BitLen() + 7) / 8
	tail := slices.Concat([]byte{0}, digestInfo[hash], digest)
	if size < len(tail)+10 {
		return false
	}
	want := slices.Concat([]byte{0, 1}, bytes.Repeat([]byte{0xff}, size-len(tail)-2), tail)
	p := powers.Get().(*power)
	defer powers.Put(p)
	return bytes.Equal(p.raise(s, uint(key.E), key.N).FillBytes(make([]byte, size)), want)
}

// A power raises numbers to the small exponents of public keys. It uses its numbers again,
// which big.Int.Exp does not.
type power struct{ result, product, quotient big.Int }

var powers = sync.Pool{New: func() any { return new(power) }}

// raise returns base^e mod n, which is p's own until p is used again. base is below n, e is not 0.
func (p *power) raise(base *big.Int, e uint, n *big.Int) *big.Int {
	p.result.Set(base)
	for bit := bits.Len(e) - 2; bit >= 0; bit-- {
		p.times(&p.result, n)
		if e>>bit&1 == 1 {
			p.times(base, n)
		}
	}
	return &p.result
}

func (p *power) times(by, n *big.Int) {
	p.product.Mul(&p.result, by)
	p.quotient.QuoRem(&p.product, n, &p.result)
}

// digestInfo is what stands before the digest, by OpenPGP's number of the hash: the DER
// of the algorithm, RFC 8017, 9.2.
var digestInfo = map[byte][]byte{
	1:  []byte("\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\x00\x04\x10"),
	2:  []byte("\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14"),
	3:  []byte("\x30\x21\x30\x09\x06\x05\x2b\x24\x03\x02\x01\x05\x00\x04\x14"),
	8:  []byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"),
	9:  []byte("\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30"),
	10: []byte("\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40"),
	11: []byte("\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04\x05\x00\x04\x1c"),
}

func verifyDSA(key *dsa.PublicKey, digest, r, s []byte) bool {
	if key.P.Sign() <= 0 || key.Q.Sign() <= 0 {
		return false
	}
	if size := (key.Q.BitLen() + 7) / 8; len(digest) > size {
		digest = digest[:size]
	}
	return dsa.Verify(key, digest, new(big.Int).SetBytes(r), new(big.Int).SetBytes(s))
}

// readSignature decodes the armoured signature of a commit: its first packet.
func readSignature(text []byte) (*signature, error) {
	data, err := dearmor(text)
	if err != nil {
		return nil, err
	}
	p, err := packet.NewOpaqueReader(bytes.NewReader(data)).Next()
	if err != nil {
		return nil, fmt.Errorf("no packet: %v", err)
	}
	if p.Tag != tagSignature {
		return nil, errors.New("it is no OpenPGP signature")
	}
	s, err := parseSignature(p.Contents)
	if err == nil && s == nil {
		err = errors.New("its version is neither 3 nor 4")
	}
	return s, err
}
