package channel

import (
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Public-key algorithms that Guix verifies.
const (
	algoRSA   = 1
	algoDSA   = 17
	algoEdDSA = 22
)

// hashes are the algorithms that Guix knows. The names are its own.
var hashes = map[byte]struct {
	name string
	hash crypto.Hash
}{
	1: {"md5", crypto.MD5}, 2: {"sha1", crypto.SHA1}, 3: {"rmd160", crypto.RIPEMD160},
	8: {"sha256", crypto.SHA256}, 9: {"sha384", crypto.SHA384}, 10: {"sha512", crypto.SHA512}, 11: {"sha224", crypto.SHA224},
}

// A signature is a signature packet, read as (guix openpgp) reads it: what is
// an error there is an error here, and what it does not look at does not count.
type signature struct {
	version, kind, algorithm, hash byte
	suffix                         []byte // hashed after the data
	issuer                         uint64 // 64-bit id of the key
	hasIssuer                      bool
	fingerprint                    []byte   // of the key, nil when not given
	numbers                        [][]byte // of the signature proper, for the algorithms above
	claims                         claims
}

// claims are what the hashed part of a signature says about itself and the key.
// Guix does not look at them; strict authentication does.
type claims struct {
	created   uint32 // seconds since 1970; 0 when not said
	lifetime  uint32 // of the signature, in seconds; 0 is for ever
	keyLife   uint32 // of the key, from its creation; 0 is for ever
	hasFlags  bool
	flags     byte       // what the key may be used for
	hasReason bool       // of a revocation
	reason    byte       // of a revocation
	embedded  *signature // by a subkey, of its primary key
}

// read takes in one subpacket of the hashed part. Its size has been checked.
func (c *claims) read(kind byte, data []byte) {
	switch kind {
	case 2:
		c.created = binary.BigEndian.Uint32(data)
	case 3:
		c.lifetime = binary.BigEndian.Uint32(data)
	case 9:
		c.keyLife = binary.BigEndian.Uint32(data)
	case 27:
		if c.hasFlags = true; len(data) > 0 {
			c.flags = data[0]
		}
	case 29:
		c.hasReason, c.reason = true, data[0]
	}
}

// A cursor takes bytes off the front; running out is remembered in err.
type cursor struct {
	rest []byte
	err  error
}

var errTruncated = errors.New("the packet is truncated")

func (c *cursor) take(n int) []byte {
	if c.err != nil || n > len(c.rest) {
		c.err, c.rest = errTruncated, nil
		return make([]byte, min(n, 8)) // enough for the integers below
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) u8() byte    { return c.take(1)[0] }
func (c *cursor) u16() uint16 { return binary.BigEndian.Uint16(c.take(2)) }

func (c *cursor) number() []byte {
	bits := int(c.u16())
	return c.take((bits + 7) / 8)
}

// length reads the length of a subpacket.
func (c *cursor) length() int {
	switch n := int(c.u8()); {
	case n < 192:
		return n
	case n < 255:
		return (n-192)<<8 + int(c.u8()) + 192
	}
	return int(binary.BigEndian.Uint32(c.take(4)))
}

// parseSignature reads the body of a signature packet.
// It returns nil for a version that Guix skips.
func parseSignature(body []byte) (*signature, error) {
	c := &cursor{rest: body}
	s := &signature{version: c.u8()}
	switch s.version {
	case 3:
		s.version3(c)
	case 4:
		if err := s.version4(c); err != nil {
			return nil, err
		}
	default:
		return nil, c.err
	}
	if _, known := hashes[s.hash]; c.err == nil && !known {
		return nil, fmt.Errorf("hash algorithm %d is unknown", s.hash)
	}
	return s, c.err
}

func (s *signature) version3(c *cursor) {
	if c.u8() != 5 {
		c.err = errors.New("malformed signature of version 3")
		return
	}
	s.suffix = c.take(5) // type and time
	s.kind = s.suffix[0]
	s.issuer, s.hasIssuer = binary.BigEndian.Uint64(c.take(8)), true
	s.algorithm, s.hash = c.u8(), c.u8()
	c.u16()
	s.readNumbers(c)
}

func (s *signature) version4(c *cursor) error {
	head := c.rest
	s.kind, s.algorithm, s.hash = c.u8(), c.u8(), c.u8()
	hashed := c.take(int(c.u16()))
	unhashed := c.take(int(c.u16()))
	c.u16() // the first bits of the hash: not compared
	s.readNumbers(c)
	if c.err != nil {
		return c.err
	}
	n := uint32(6 + len(hashed))
	s.suffix = append([]byte{4}, head[:n-1]...)
	s.suffix = binary.BigEndian.AppendUint32(append(s.suffix, 4, 0xff), n)
	for i, area := range [][]byte{hashed, unhashed} { // of two, the first counts
		if err := s.subpackets(area, i == 0); err != nil {
			return err
		}
	}
	if s.hasIssuer && s.fingerprint != nil &&
		binary.BigEndian.Uint64(s.fingerprint[len(s.fingerprint)-8:]) != s.issuer {
		return errors.New("the two subpackets that name the issuer disagree")
	}
	return nil
}

func (s *signature) readNumbers(c *cursor) {
	switch s.algorithm {
	case algoRSA:
		s.numbers = [][]byte{c.number()}
	case algoDSA, algoEdDSA:
		s.numbers = [][]byte{c.number(), c.number()}
	}
}

func (s *signature) subpackets(area []byte, hashed bool) error {
	c := &cursor{rest: area}
	for len(c.rest) > 0 {
		n := c.length()
		if n < 1 {
			return errors.New("malformed subpacket")
		}
		tag := c.u8()
		data := c.take(n - 1)
		if c.err != nil {
			return c.err
		}
		if err := s.subpacket(tag&0x7f, tag&0x80 != 0, data); err != nil {
			return fmt.Errorf("subpacket %d: %w", tag&0x7f, err)
		}
		if hashed {
			s.claims.read(tag&0x7f, data)
		}
	}
	return nil
}

// subpacketSize is how many bytes Guix reads of a kind of subpacket it decodes,
// and so what it must have at least.
var subpacketSize = map[byte]int{
	2: 4, 3: 4, 5: 1, 7: 1, 9: 4, 11: 0, 16: 8, 20: 8, 21: 0, 22: 0, 23: 0,
	24: 0, 25: 1, 26: 0, 27: 0, 28: 0, 29: 1, 30: 0, 32: 0, 33: 1,
}

func (s *signature) subpacket(kind byte, critical bool, data []byte) error {
	size, known := subpacketSize[kind]
	if !known {
		if critical {
			return errors.New("critical, but unknown")
		}
		return nil
	}
	if len(data) < size {
		return errTruncated
	}
	switch kind {
	case 16:
		if !s.hasIssuer {
			s.issuer, s.hasIssuer = binary.BigEndian.Uint64(data), true
		}
	case 20:
		return checkNotation(data)
	case 21:
		return checkHashPreferences(data)
	case 24, 26, 28:
		return checkText(data)
	case 29:
		return checkText(data[1:])
	case 32:
		embedded, err := parseSignature(data)
		s.claims.embedded = embedded
		return err
	case 33:
		return s.issuerFingerprint(data)
	}
	return nil
}

func (s *signature) issuerFingerprint(data []byte) error {
	size := map[byte]int{4: 20, 5: 32}[data[0]]
	if size == 0 || len(data) < 1+size {
		return errors.New("malformed fingerprint")
	}
	if s.fingerprint == nil {
		s.fingerprint = data[1 : 1+size]
	}
	return nil
}

func checkText(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("the text is not UTF-8")
	}
	return nil
}

// checkNotation checks the name and, when it is marked as text, the value.
func checkNotation(data []byte) error {
	c := &cursor{rest: data[4:]}
	name, value := int(c.u16()), int(c.u16())
	if err := checkText(c.take(name)); err != nil {
		return err
	}
	if text := c.take(value); c.err == nil && data[0]&0x80 != 0 {
		return checkText(text)
	}
	return c.err
}

func checkHashPreferences(data []byte) error {
	for _, n := range data {
		if _, known := hashes[n]; !known {
			return fmt.Errorf("hash algorithm %d is unknown", n)
		}
	}
	return nil
}
