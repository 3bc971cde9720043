package channel

import (
	"bytes"
	//lint:ignore SA1019 old channels have DSA signatures, and Guix accepts them
	"crypto/dsa"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// A publicKey is a key or subkey of a keyring.
type publicKey struct {
	fingerprint Fingerprint
	algorithm   byte
	key         any // *rsa.PublicKey, *dsa.PublicKey, *eddsa.PublicKey; nil when it cannot verify

	// What Guix does not look at; see policy.go.
	body         []byte     // of the packet
	created      uint32     // seconds since 1970
	primary      *publicKey // that this is a subkey of, nil for a primary key
	owner        string     // first user id of a primary key
	certificates []certificate
}

// A certificate is a signature that stands after a key, or a name of its owner, in
// the keyring. Whether it is good has not been checked.
type certificate struct {
	signature *signature
	userID    []byte // that it is about; nil when it is about the key
}

// A keyring finds keys the way Guix does: by fingerprint or by 64-bit id,
// subkeys like keys. Nothing else is asked of a key: no binding, no date.
type keyring struct {
	byFingerprint map[Fingerprint]*publicKey
	byID          map[uint64]*publicKey
	size          int // bytes read so far
}

// Limits of a keyring. That of Guix itself has some hundred keys in two megabytes.
const (
	maxKeys        = 5000
	maxKeyringSize = 64 << 20
)

func newKeyring() *keyring {
	return &keyring{byFingerprint: map[Fingerprint]*publicKey{}, byID: map[uint64]*publicKey{}}
}

func (k *keyring) insert(key *publicKey) {
	if known := k.byFingerprint[key.fingerprint]; known != nil {
		key.certificates = append(known.certificates, key.certificates...)
	}
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

// owner returns the name that goes with a key, empty when it has none.
func (k *keyring) owner(f Fingerprint) string {
	key := k.byFingerprint[f]
	if key == nil {
		return ""
	}
	if key.primary != nil {
		key = key.primary
	}
	return key.owner
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
	if k.size += len(file); k.size > maxKeyringSize {
		return fmt.Errorf("the keyring is larger than %d bytes", maxKeyringSize)
	}
	if armored(file) {
		if file, err = dearmor(file); err != nil {
			return err
		}
	}
	in := packet.NewOpaqueReader(bytes.NewReader(file))
	var group keyGroup
	for {
		p, err := in.Next()
		if err == io.EOF {
			return k.insertGroup(&group)
		}
		if err != nil {
			return errors.Join(k.insertGroup(&group), err)
		}
		if group.ends(p) {
			if err := k.insertGroup(&group); err != nil {
				return err
			}
		}
		if err := group.add(p); err != nil {
			return errors.Join(k.insertGroup(&group), err)
		}
	}
}

// A keyGroup is a primary key, its subkeys, and what stands between them.
type keyGroup struct {
	keys   []*publicKey
	userID []byte // the last one, nil after a subkey
}

// ends reports whether p starts a group of its own: a primary key does, and so
// does any key of an unknown version, whose group has no keys.
func (g *keyGroup) ends(p *packet.OpaquePacket) bool {
	unknown := len(p.Contents) == 0 || p.Contents[0] != 4
	return p.Tag == tagPublicKey || p.Tag == tagPublicSubkey && unknown
}

func (g *keyGroup) add(p *packet.OpaquePacket) error {
	switch p.Tag {
	case tagPublicKey, tagPublicSubkey:
		return g.addKey(p)
	case tagSignature:
		s, err := parseSignature(p.Contents)
		if err == nil && s != nil && len(g.keys) > 0 {
			last := g.keys[len(g.keys)-1]
			last.certificates = append(last.certificates, certificate{s, g.userID})
		}
		return err
	case tagUserID:
		if !utf8.Valid(p.Contents) {
			return errors.New("a user id is not UTF-8")
		}
		if g.userID = p.Contents; len(g.keys) == 1 && g.keys[0].owner == "" {
			g.keys[0].owner = string(p.Contents)
		}
		return nil
	case tagOnePass, tagTrust:
		return nil
	case tagUserAttribute:
		g.userID = nil
		return nil
	}
	return fmt.Errorf("packet of unknown kind %d", p.Tag)
}

func (g *keyGroup) addKey(p *packet.OpaquePacket) error {
	key, err := readPublicKey(p)
	if err != nil || key == nil {
		return err
	}
	g.userID = nil
	switch {
	case p.Tag == tagPublicKey:
		g.keys = []*publicKey{key}
	case len(g.keys) > 0:
		key.primary = g.keys[0]
		g.keys = append(g.keys, key)
	}
	return nil
}

// insertGroup inserts the keys of a group and empties it, the primary key last: of
// equal ids it is the one found.
func (k *keyring) insertGroup(g *keyGroup) error {
	for i := len(g.keys) - 1; i >= 0; i-- {
		k.insert(g.keys[i])
	}
	*g = keyGroup{}
	if len(k.byFingerprint) > maxKeys {
		return fmt.Errorf("the keyring has more than %d keys", maxKeys)
	}
	return nil
}

func readPublicKey(p *packet.OpaquePacket) (*publicKey, error) {
	body := p.Contents
	if len(body) == 0 || body[0] != 4 {
		return nil, nil
	}
	if len(body) < 6 {
		return nil, errTruncated
	}
	k := &publicKey{algorithm: body[5], body: body, created: binary.BigEndian.Uint32(body[1:])}
	h := sha1.New()
	h.Write(k.hashed())
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

// hashed returns the bytes that stand for the key in fingerprints and certificates.
func (k *publicKey) hashed() []byte {
	return append(binary.BigEndian.AppendUint16([]byte{0x99}, uint16(len(k.body))), k.body...)
}

// bits returns the size of the key, 0 when it cannot verify.
func (k *publicKey) bits() int {
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen()
	case *dsa.PublicKey:
		return key.P.BitLen()
	case nil:
		return 0
	}
	return 256
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
