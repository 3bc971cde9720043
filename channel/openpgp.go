package channel

import (
	"bytes"
	"crypto"
	//lint:ignore SA1019 old channels have DSA signatures, and Guix accepts them
	"crypto/dsa"
	_ "crypto/md5" // the hash functions a signature may name
	"crypto/rsa"
	"crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"unicode/utf8"

	"github.com/ProtonMail/go-crypto/openpgp/eddsa"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	//lint:ignore SA1019 the same
	_ "golang.org/x/crypto/ripemd160"
)

// A publicKey is a key or subkey of a keyring.
type publicKey struct {
	fingerprint Fingerprint
	algorithm   byte
	key         any // *rsa.PublicKey, *dsa.PublicKey, *eddsa.PublicKey; nil when it cannot verify
}

// A keyring finds keys the way Guix does: by fingerprint or by 64-bit id,
// subkeys like keys. Nothing else is asked of a key: no binding, no date.
type keyring struct {
	byFingerprint map[Fingerprint]*publicKey
	byID          map[uint64]*publicKey
}

func newKeyring() *keyring {
	return &keyring{byFingerprint: map[Fingerprint]*publicKey{}, byID: map[uint64]*publicKey{}}
}

func (k *keyring) insert(key *publicKey) {
	k.byFingerprint[key.fingerprint] = key
	k.byID[binary.BigEndian.Uint64(key.fingerprint[12:])] = key
}

// find returns the key that s says it is from, or nil.
func (k *keyring) find(s *signature) *publicKey {
	switch {
	case len(s.fingerprint) == len(Fingerprint{}):
		return k.byFingerprint[Fingerprint(s.fingerprint)]
	case s.fingerprint == nil && s.hasIssuer:
		return k.byID[s.issuer]
	}
	return nil
}

// Packet tags of OpenPGP.
const (
	tagSignature     = 2
	tagOnePass       = 4
	tagPublicKey     = 6
	tagTrust         = 12
	tagUserID        = 13
	tagPublicSubkey  = 14
	tagUserAttribute = 17
)

// armored reports whether a file is the text form: its first byte is no
// packet's, or not one of those up to 19.
func armored(file []byte) bool {
	if len(file) == 0 {
		return false
	}
	tag := file[0] & 0x3f
	if file[0]&0x40 == 0 {
		tag >>= 2
	}
	return file[0]&0x80 == 0 || tag < 1 || tag > 19
}

// add reads a file of keys, armoured or not. Packets before the first primary
// key are skipped, and so are keys of versions other than 4 with what follows
// them. Anything Guix cannot read is an error, as it is there.
func (k *keyring) add(file []byte) (err error) {
	if armored(file) {
		if file, err = dearmor(file); err != nil {
			return err
		}
	}
	in := packet.NewOpaqueReader(bytes.NewReader(file))
	var group []*publicKey // a primary key and its subkeys
	defer func() { k.insertGroup(group) }()
	for {
		p, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		key, err := readKeyPacket(p)
		switch {
		case err != nil:
			return err
		case key == nil && (p.Tag == tagPublicKey || p.Tag == tagPublicSubkey):
			k.insertGroup(group)
			group = nil
		case key != nil && p.Tag == tagPublicKey:
			k.insertGroup(group)
			group = []*publicKey{key}
		case key != nil && group != nil:
			group = append(group, key)
		}
	}
}

// insertGroup inserts the primary key last: of equal ids it is the one found.
func (k *keyring) insertGroup(group []*publicKey) {
	for i := len(group) - 1; i >= 0; i-- {
		k.insert(group[i])
	}
}

// readKeyPacket returns the key in a packet, nil if it has none that counts.
func readKeyPacket(p *packet.OpaquePacket) (*publicKey, error) {
	switch p.Tag {
	case tagPublicKey, tagPublicSubkey:
		return readPublicKey(p)
	case tagSignature:
		_, err := parseSignature(p.Contents)
		return nil, err
	case tagUserID:
		if !utf8.Valid(p.Contents) {
			return nil, errors.New("a user id is not UTF-8")
		}
		return nil, nil
	case tagOnePass, tagTrust, tagUserAttribute:
		return nil, nil
	}
	return nil, fmt.Errorf("packet of unknown kind %d", p.Tag)
}

func readPublicKey(p *packet.OpaquePacket) (*publicKey, error) {
	body := p.Contents
	if len(body) == 0 || body[0] != 4 {
		return nil, nil
	}
	if len(body) < 6 {
		return nil, errTruncated
	}
	k := &publicKey{algorithm: body[5]}
	h := sha1.New()
	h.Write(binary.BigEndian.AppendUint16([]byte{0x99}, uint16(len(body))))
	h.Write(body)
	h.Sum(k.fingerprint[:0])
	switch k.algorithm {
	case algoEdDSA:
		if err := checkCurve(body[6:]); err != nil {
			return nil, err
		}
	case algoRSA, algoDSA:
	default:
		return k, nil
	}
	if parsed, err := p.Parse(); err == nil {
		if key, ok := parsed.(*packet.PublicKey); ok {
			k.key = key.PublicKey
		}
	}
	return k, nil
}

// checkCurve refuses curves at which Guix gives up on the whole keyring.
func checkCurve(material []byte) error {
	c := &cursor{rest: material}
	switch oid := string(c.take(int(c.u8()))); oid {
	case "\x2b\x06\x01\x04\x01\xda\x47\x0f\x01", "\x2b\x06\x01\x04\x01\x97\x55\x01\x05\x01":
		return c.err
	}
	return errors.New("an EdDSA key on another curve than Ed25519")
}

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
