package channel

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// A Commit is the id of a git commit: 40 lower-case hexadecimal digits.
//
// In a [Channel] somebody wrote it may be less: the empty string for the head
// of the branch, an abbreviated id, a tag, or what "git describe" prints.
// In a [Lock], and wherever this package returns one, it is complete.
type Commit string

// ParseCommit returns the complete id that s spells.
func ParseCommit(s string) (Commit, error) {
	c := Commit(strings.ToLower(s))
	if !c.Complete() {
		return "", fmt.Errorf("parse commit %q: not 40 hexadecimal digits", s)
	}
	return c, nil
}

// Complete reports whether c is a whole id, not a tag or an abbreviation.
func (c Commit) Complete() bool { return len(c) == 40 && isHex(string(c)) }

// Short returns the first seven characters, as Guix shows commits to people.
func (c Commit) Short() string {
	if len(c) <= 7 {
		return string(c)
	}
	return string(c[:7])
}

// isHex reports whether s has nothing but lower-case hexadecimal digits.
func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// A Fingerprint identifies an OpenPGP key or subkey of version 4.
// The zero Fingerprint is none.
type Fingerprint [20]byte

// ParseFingerprint reads a fingerprint the way Guix's openpgp-fingerprint does:
// whatever is not a hexadecimal digit is left out.
func ParseFingerprint(s string) (Fingerprint, error) {
	digits := strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' {
			return c
		}
		return -1
	}, s)
	var f Fingerprint
	if len(digits) != 2*len(f) {
		return f, fmt.Errorf("parse fingerprint %q: %d hexadecimal digits instead of 40", s, len(digits))
	}
	_, err := hex.Decode(f[:], []byte(digits))
	return f, err
}

// String returns the usual grouped form: ten blocks of four digits, with a
// wider gap in the middle.
func (f Fingerprint) String() string {
	var b strings.Builder
	for i := 0; i < len(f); i += 2 {
		switch i {
		case 0:
		case 10:
			b.WriteString("  ")
		default:
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%02X%02X", f[i], f[i+1])
	}
	return b.String()
}

func (f Fingerprint) orEmpty() string {
	if f == (Fingerprint{}) {
		return ""
	}
	return f.String()
}

// MarshalText returns the grouped form, as "guix describe -f json" prints it.
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText is [ParseFingerprint].
func (f *Fingerprint) UnmarshalText(text []byte) (err error) {
	*f, err = ParseFingerprint(string(text))
	return err
}
