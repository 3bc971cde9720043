package channel

import (
	"bytes"
	"crypto"
	//lint:ignore SA1019 old channels have DSA signatures, and Guix accepts them
	"crypto/dsa"
	_ "crypto/md5" // the hash functions a signature may name
	"crypto/rsa"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"math/big"

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
	hash := hashes[s.hash].hash
	h := hash.New()
	h.Write(data)
	h.Write(s.suffix)
	digest := h.Sum(nil)
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		return verifyRSA(key, hash, digest, s.numbers[0])
	case *dsa.PublicKey:
		return verifyDSA(key, digest, s.numbers[0], s.numbers[1])
	case *eddsa.PublicKey:
		return eddsa.Verify(key, digest, s.numbers[0], s.numbers[1])
	}
	return false
}

func verifyRSA(key *rsa.PublicKey, hash crypto.Hash, digest, number []byte) bool {
	if len(number) > key.Size() {
		return false
	}
	padded := make([]byte, key.Size())
	copy(padded[len(padded)-len(number):], number)
	return rsa.VerifyPKCS1v15(key, hash, digest, padded) == nil
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
