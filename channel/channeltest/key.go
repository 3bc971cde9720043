package channeltest

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/genenetwork/guixci/channel"
)

// A Key is a throw-away OpenPGP signing key. It has no secret worth keeping.
type Key struct {
	Name string // of its owner

	created uint32
	body    []byte // of the public key packet
	algo    byte   // OpenPGP's number
	sign    func(hash crypto.Hash, digest []byte) (mpis []byte, err error)
	subkeys []*Key

	// What the owner says about the key in its public key block.
	Lifetime      time.Duration // 0 is for ever
	Flags         byte          // what it may be used for; 0 means signing
	Revoked       time.Time     // zero means it is not
	RevokedReason byte          // OpenPGP's number
	Unbound       bool          // as a subkey, it does not acknowledge its primary key
}

const (
	algoRSA   = 1
	algoDSA   = 17
	algoEdDSA = 22
)

var keyTime = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// NewKey returns the Ed25519 key that belongs to a name: always the same one.
func NewKey(name string) *Key {
	seed := sha256.Sum256([]byte("channeltest key of " + name))
	private := ed25519.NewKeyFromSeed(seed[:])
	k := &Key{Name: name, algo: algoEdDSA}
	oid := []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01}
	point := append([]byte{0x40}, private.Public().(ed25519.PublicKey)...)
	material := append([]byte{byte(len(oid))}, oid...)
	k.setBody(append(material, mpi(point)...))
	k.sign = func(_ crypto.Hash, digest []byte) ([]byte, error) {
		signature := ed25519.Sign(private, digest)
		return append(mpi(signature[:32]), mpi(signature[32:])...), nil
	}
	return k
}

// NewRSAKey makes a new RSA key.
func NewRSAKey(name string, bits int) (*Key, error) {
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, err
	}
	k := &Key{Name: name, algo: algoRSA}
	exponent := binary.BigEndian.AppendUint32(nil, uint32(private.E))
	k.setBody(append(mpi(private.N.Bytes()), mpi(exponent)...))
	k.sign = func(hash crypto.Hash, digest []byte) ([]byte, error) {
		if hash == crypto.RIPEMD160 { // for which OpenPGP has another identifier than Go
			hash, digest = 0, append([]byte("\x30\x21\x30\x09\x06\x05\x2b\x24\x03\x02\x01\x05\x00\x04\x14"), digest...)
		}
		signature, err := rsa.SignPKCS1v15(nil, private, hash, digest)
		return mpi(signature), err
	}
	return k, nil
}

func (k *Key) setBody(material []byte) {
	k.created = uint32(keyTime.Unix())
	k.body = binary.BigEndian.AppendUint32([]byte{4}, k.created)
	k.body = append(append(k.body, k.algo), material...)
}

// AddSubkey makes sub part of k's public key block.
func (k *Key) AddSubkey(sub *Key) { k.subkeys = append(k.subkeys, sub) }

// Fingerprint identifies the key.
func (k *Key) Fingerprint() channel.Fingerprint {
	h := sha1.New()
	h.Write(binary.BigEndian.AppendUint16([]byte{0x99}, uint16(len(k.body))))
	h.Write(k.body)
	return channel.Fingerprint(h.Sum(nil))
}

// Public returns the public key block: the key, its owner's name and the
// signature that binds them, then the subkeys.
func (k *Key) Public() ([]byte, error) {
	owner := k.Name + " <" + strings.ReplaceAll(k.Name, " ", ".") + "@example.org>"
	revocation, err := k.revocation(k)
	if err != nil {
		return nil, err
	}
	certified := binary.BigEndian.AppendUint32(append(k.hashed(), 0xb4), uint32(len(owner)))
	certificate, err := k.signature(append(certified, owner...), Signature{Type: 0x13, Hashed: k.usage()})
	if err != nil {
		return nil, err
	}
	block := slices.Concat(packet(6, k.body), revocation, packet(13, []byte(owner)), certificate)
	for _, sub := range k.subkeys {
		binding, err := k.binding(sub)
		if err != nil {
			return nil, err
		}
		block = append(append(block, packet(14, sub.body)...), binding...)
	}
	return block, nil
}

// hashed returns the bytes that stand for the key in certificates.
func (k *Key) hashed() []byte {
	return append(binary.BigEndian.AppendUint16([]byte{0x99}, uint16(len(k.body))), k.body...)
}

// usage returns the subpackets about how long and for what the key may be used.
func (k *Key) usage() []byte {
	flags := k.Flags
	if flags == 0 {
		flags = 0x02
	}
	usage := Subpacket(27, []byte{flags})
	if k.Lifetime != 0 {
		usage = append(usage, Subpacket(9, binary.BigEndian.AppendUint32(nil, uint32(k.Lifetime.Seconds())))...)
	}
	return usage
}

// revocation returns the signature by which k revokes itself or a subkey, if it does.
func (k *Key) revocation(of *Key) ([]byte, error) {
	if of.Revoked.IsZero() {
		return nil, nil
	}
	how := Signature{Type: 0x20, When: of.Revoked, Hashed: Subpacket(29, []byte{of.RevokedReason})}
	about := k.hashed()
	if of != k {
		how.Type = 0x28
		about = append(about, of.hashed()...)
	}
	return k.signature(about, how)
}

// binding returns the signatures that stand after a subkey.
func (k *Key) binding(sub *Key) ([]byte, error) {
	both := append(k.hashed(), sub.hashed()...)
	how := Signature{Type: 0x18, Hashed: sub.usage()}
	if !sub.Unbound {
		body, err := sub.signatureBody(both, Signature{Type: 0x19})
		if err != nil {
			return nil, err
		}
		how.Unhashed = longSubpacket(32, body)
	}
	binding, err := k.signature(both, how)
	if err != nil {
		return nil, err
	}
	revocation, err := k.revocation(sub)
	return append(revocation, binding...), err
}

// ArmoredPublic is Public as the text of a .key file.
func (k *Key) ArmoredPublic() (string, error) {
	block, err := k.Public()
	return Armor("PGP PUBLIC KEY BLOCK", block), err
}

// A Signature says how a signature is to be made. The zero value makes a
// good one: binary, SHA-512, with both forms of the issuer.
type Signature struct {
	Type byte        // 0 is a signature over bytes
	Hash crypto.Hash // 0 means SHA-512
	When time.Time   // zero leaves the creation time at that of the keys
	// Hashed and Unhashed are further subpackets, as [Subpacket] makes them.
	Hashed, Unhashed []byte
	// NoIssuer and NoFingerprint leave out the two subpackets that name the key.
	NoIssuer, NoFingerprint bool
	// Issuer, if any, is the key the signature says it is from.
	Issuer *Key
	// Version3 makes a signature of the old version 3, which has no subpackets.
	Version3 bool
}

var hashNumbers = map[crypto.Hash]byte{
	crypto.MD5: 1, crypto.SHA1: 2, crypto.RIPEMD160: 3,
	crypto.SHA256: 8, crypto.SHA384: 9, crypto.SHA512: 10, crypto.SHA224: 11, crypto.SHA3_256: 12,
}

// Sign returns an armoured signature of data.
func (k *Key) Sign(data []byte, how Signature) (string, error) {
	p, err := k.signature(data, how)
	return Armor("PGP SIGNATURE", p), err
}

func (k *Key) signature(data []byte, how Signature) ([]byte, error) {
	body, err := k.signatureBody(data, how)
	return packet(2, body), err
}

// signatureBody returns the signature without the head of its packet.
func (k *Key) signatureBody(data []byte, how Signature) ([]byte, error) {
	if how.Hash == 0 {
		how.Hash = crypto.SHA512
	}
	if !how.Hash.Available() {
		return nil, errors.New("sign: the hash function is not linked in")
	}
	if how.Version3 {
		return k.version3(data, how)
	}
	hashed, unhashed := k.subpackets(how)
	head := []byte{4, how.Type, k.algo, hashNumbers[how.Hash]}
	head = binary.BigEndian.AppendUint16(head, uint16(len(hashed)))
	head = append(head, hashed...)
	h := how.Hash.New()
	h.Write(data)
	h.Write(head)
	h.Write(binary.BigEndian.AppendUint32([]byte{4, 0xff}, uint32(len(head))))
	digest := h.Sum(nil)
	mpis, err := k.sign(how.Hash, digest)
	if err != nil {
		return nil, err
	}
	body := binary.BigEndian.AppendUint16(head, uint16(len(unhashed)))
	body = append(append(body, unhashed...), digest[:2]...)
	return append(body, mpis...), nil
}

func (k *Key) version3(data []byte, how Signature) ([]byte, error) {
	signed := binary.BigEndian.AppendUint32([]byte{how.Type}, uint32(how.time().Unix()))
	h := how.Hash.New()
	h.Write(data)
	h.Write(signed)
	digest := h.Sum(nil)
	mpis, err := k.sign(how.Hash, digest)
	if err != nil {
		return nil, err
	}
	f := k.Fingerprint()
	return slices.Concat([]byte{3, 5}, signed, f[12:], []byte{k.algo, hashNumbers[how.Hash]}, digest[:2], mpis), nil
}

func (s Signature) time() time.Time {
	if s.When.IsZero() {
		return keyTime
	}
	return s.When
}

func (k *Key) subpackets(how Signature) (hashed, unhashed []byte) {
	issuer := how.Issuer
	if issuer == nil {
		issuer = k
	}
	f := issuer.Fingerprint()
	hashed = Subpacket(2, binary.BigEndian.AppendUint32(nil, uint32(how.time().Unix())))
	if !how.NoFingerprint {
		hashed = append(hashed, Subpacket(33, append([]byte{4}, f[:]...))...)
	}
	if !how.NoIssuer {
		unhashed = Subpacket(16, f[12:])
	}
	return append(hashed, how.Hashed...), append(unhashed, how.Unhashed...)
}

// Subpacket returns a signature subpacket; 0x80 added to its number makes it critical.
func Subpacket(number byte, data []byte) []byte {
	return append([]byte{byte(len(data) + 1), number}, data...)
}

// longSubpacket is for data of more than 190 bytes.
func longSubpacket(number byte, data []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{0xff}, uint32(len(data)+1))
	return append(append(head, number), data...)
}

func packet(tag byte, body []byte) []byte {
	p := binary.BigEndian.AppendUint32([]byte{0xc0 | tag, 0xff}, uint32(len(body)))
	return append(p, body...)
}

// mpi encodes a big number without its leading zeros.
func mpi(b []byte) []byte {
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	bits := 8 * len(b)
	if len(b) > 0 {
		for mask := byte(0x80); b[0]&mask == 0; mask >>= 1 {
			bits--
		}
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(bits)), b...)
}

// Armor returns the text form of OpenPGP packets, checksum included.
func Armor(kind string, data []byte) string {
	var b strings.Builder
	b.WriteString("-----BEGIN " + kind + "-----\n\n")
	for text := base64.StdEncoding.EncodeToString(data); text != ""; {
		n := min(64, len(text))
		b.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	sum := crc24(data)
	b.WriteString("=" + base64.StdEncoding.EncodeToString([]byte{byte(sum >> 16), byte(sum >> 8), byte(sum)}))
	b.WriteString("\n-----END " + kind + "-----\n")
	return b.String()
}

// crc24 is the checksum of RFC 4880, 6.1.
func crc24(data []byte) uint32 {
	sum := uint32(0xb704ce)
	for _, c := range data {
		sum ^= uint32(c) << 16
		for range 8 {
			if sum <<= 1; sum&0x1000000 != 0 {
				sum ^= 0x1864cfb
			}
		}
	}
	return sum
}
