package substitute

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// A Hash is the SHA-256 of something: here mostly of an archive, as Guix
// registers it for each store item.
type Hash [sha256.Size]byte

const hashPrefix = "sha256:"

// ParseHash reads "sha256:" followed by 52 digits of nix-base32, as in a
// narinfo, or 64 of hexadecimal, as in the daemon's database.
func ParseHash(s string) (Hash, error) {
	digits, ok := strings.CutPrefix(s, hashPrefix)
	if !ok {
		return Hash{}, fmt.Errorf("parse hash: %q does not begin with %q", s, hashPrefix)
	}
	var b []byte
	var err error
	if len(digits) == hex.EncodedLen(sha256.Size) {
		b, err = hex.DecodeString(digits)
	} else {
		b, err = DecodeBase32(digits)
	}
	if err != nil {
		return Hash{}, fmt.Errorf("parse hash: %v", err)
	}
	if len(b) != sha256.Size {
		return Hash{}, fmt.Errorf("parse hash: %q has %d bytes, not %d", s, len(b), sha256.Size)
	}
	return Hash(b), nil
}

// String is "sha256:" and the hash in nix-base32.
func (h Hash) String() string { return hashPrefix + EncodeBase32(h[:]) }

// MarshalText is [Hash.String].
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText is [ParseHash].
func (h *Hash) UnmarshalText(text []byte) error {
	parsed, err := ParseHash(string(text))
	if err == nil {
		*h = parsed
	}
	return err
}
