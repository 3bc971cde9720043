package substitute

import (
	"fmt"
	"strings"
)

// base32Digits is Nix's alphabet: no e, o, t, u, so that hashes spell no words.
const base32Digits = "0123456789abcdfghijklmnpqrsvwxyz"

var base32Values = func() (values [256]byte) {
	for i := range values {
		values[i] = 0xff
	}
	for i, c := range []byte(base32Digits) {
		values[c] = byte(i)
	}
	return values
}()

// EncodeBase32 writes b in nix-base32, as (guix base32) does: the bytes are a
// number, least significant first, written with its most significant digit
// first.
func EncodeBase32(b []byte) string {
	out := make([]byte, (len(b)*8+4)/5)
	for n := range out {
		bit := n * 5
		i, j := bit/8, bit%8
		v := uint(b[i]) >> j
		if i+1 < len(b) {
			v |= uint(b[i+1]) << (8 - j)
		}
		out[len(out)-1-n] = base32Digits[v&31]
	}
	return string(out)
}

// DecodeBase32 is the inverse of [EncodeBase32]. It refuses digits outside the
// alphabet, and lengths and leading digits that no bytes encode to.
func DecodeBase32(s string) ([]byte, error) {
	out := make([]byte, len(s)*5/8)
	if (len(out)*8+4)/5 != len(s) {
		return nil, fmt.Errorf("decode nix-base32: no bytes have %d digits", len(s))
	}
	for n := range len(s) {
		c := s[len(s)-1-n]
		v := base32Values[c]
		if v == 0xff {
			return nil, fmt.Errorf("decode nix-base32: %q is not a digit", c)
		}
		bit := n * 5
		i, j := bit/8, bit%8
		out[i] |= v << j
		carry := v >> (8 - j)
		if i+1 < len(out) {
			out[i+1] |= carry
		} else if carry != 0 {
			return nil, fmt.Errorf("decode nix-base32: %q is more than %d bytes", s, len(out))
		}
	}
	return out, nil
}

func isBase32(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c > 0xff || base32Values[c] == 0xff }) < 0
}
