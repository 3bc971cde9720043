package substitute

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// RSA and NIST P-256 keys: Guix accepts them beside its usual Ed25519.

type publicRSA struct{ key *rsa.PublicKey }

func newPublicRSA(key gsexp) (*publicRSA, error) {
	n, err := key.value("n")
	if err != nil {
		return nil, err
	}
	e, err := key.value("e")
	if err != nil {
		return nil, err
	}
	exponent := new(big.Int).SetBytes(e)
	if exponent.BitLen() > 31 {
		return nil, fmt.Errorf("exponent of %d bits", exponent.BitLen())
	}
	return &publicRSA{&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}}, nil
}

func (*publicRSA) dataFlags() string { return "pkcs1" }
func (*publicRSA) sigName() string   { return "rsa" }

func (k *publicRSA) verify(hash Hash, sig gsexp) error {
	s, err := sig.value("s")
	if err != nil {
		return err
	}
	v := new(big.Int).SetBytes(s)
	if v.BitLen() > 8*k.key.Size() {
		return errWrongSignature
	}
	padded := v.FillBytes(make([]byte, k.key.Size()))
	if err := rsa.VerifyPKCS1v15(k.key, crypto.SHA256, hash[:], padded); err != nil {
		return errWrongSignature
	}
	return nil
}

type privateRSA struct{ key *rsa.PrivateKey }

func newPrivateRSA(key gsexp, public *publicRSA) (*privateRSA, error) {
	var parts [3]*big.Int
	for i, name := range []string{"d", "p", "q"} {
		v, err := key.value(name)
		if err != nil {
			return nil, err
		}
		parts[i] = new(big.Int).SetBytes(v)
	}
	k := &rsa.PrivateKey{PublicKey: *public.key, D: parts[0], Primes: parts[1:]}
	if err := k.Validate(); err != nil {
		return nil, err
	}
	k.Precompute()
	return &privateRSA{k}, nil
}

func (k *privateRSA) sign(hash Hash) (gsexp, error) {
	s, err := rsa.SignPKCS1v15(nil, k.key, crypto.SHA256, hash[:])
	if err != nil {
		return gsexp{}, err
	}
	return list(symbol("rsa"), list(symbol("s"), atom(new(big.Int).SetBytes(s).Bytes()))), nil
}

type publicP256 struct{ key *ecdsa.PublicKey }

func newPublicP256(q []byte) (*publicP256, error) {
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), q)
	if err != nil {
		return nil, errors.New("q is not a point of NIST P-256")
	}
	return &publicP256{key}, nil
}

func (*publicP256) dataFlags() string { return "rfc6979" }
func (*publicP256) sigName() string   { return "ecdsa" }

func (k *publicP256) verify(hash Hash, sig gsexp) error {
	r, err := sig.value("r")
	if err != nil {
		return err
	}
	s, err := sig.value("s")
	if err != nil {
		return err
	}
	if !ecdsa.Verify(k.key, hash[:], new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)) {
		return errWrongSignature
	}
	return nil
}

type privateP256 struct{ key *ecdsa.PrivateKey }

func newPrivateP256(d []byte, public *publicP256) (*privateP256, error) {
	padded, err := fixed(d)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), padded[:])
	if err != nil {
		return nil, errors.New("d is not a private key of NIST P-256")
	}
	if !key.PublicKey.Equal(public.key) {
		return nil, errors.New("d and q do not belong together")
	}
	return &privateP256{key}, nil
}

// sign is deterministic: without a source of randomness, package ecdsa takes
// the nonces of RFC 6979, as libgcrypt does.
func (k *privateP256) sign(hash Hash) (gsexp, error) {
	der, err := k.key.Sign(nil, hash[:], crypto.SHA256)
	if err != nil {
		return gsexp{}, err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return gsexp{}, err
	}
	return list(symbol("ecdsa"),
		list(symbol("r"), atom(sig.R.Bytes())), list(symbol("s"), atom(sig.S.Bytes()))), nil
}
