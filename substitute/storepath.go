package substitute

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// StoreDir is the directory of the store. Guix can be built for another one, but
// no substitutes for such a store exist.
const StoreDir = "/gnu/store"

// A StorePath is the full name of a store item, "/gnu/store/HASH-NAME". One that
// [ParseStorePath] returned is well formed; "" stands for none.
type StorePath string

const (
	hashPartLen = 32
	maxBase     = 255 // bytes of a file name
)

// ParseStorePath checks that s is the full name of a store item: the directory,
// 32 digits of nix-base32, a dash, and a name of letters, digits and "+-._?="
// that does not begin with a dot.
func ParseStorePath(s string) (StorePath, error) {
	base, ok := strings.CutPrefix(s, StoreDir+"/")
	if !ok {
		return "", fmt.Errorf("parse store path: %q is not in %s", s, StoreDir)
	}
	if err := checkBase(base); err != nil {
		return "", fmt.Errorf("parse store path: %q: %v", base, err)
	}
	return StorePath(s), nil
}

// parseBase is ParseStorePath for the part after the directory.
func parseBase(base string) (StorePath, error) {
	if err := checkBase(base); err != nil {
		return "", fmt.Errorf("parse store path: %q: %v", base, err)
	}
	return StorePath(StoreDir + "/" + base), nil
}

func checkBase(base string) error {
	switch {
	case len(base) > maxBase:
		return fmt.Errorf("longer than %d bytes", maxBase)
	case len(base) < hashPartLen+2 || base[hashPartLen] != '-' || !isBase32(base[:hashPartLen]):
		return errors.New("not of the form HASH-NAME")
	}
	name := base[hashPartLen+1:]
	if name[0] == '.' {
		return errors.New("name begins with a dot")
	}
	for i := range len(name) {
		if c := name[i]; !isAlnum(c) && !strings.ContainsRune("+-._?=", rune(c)) {
			return fmt.Errorf("name has %q in it", c)
		}
	}
	return nil
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// Hash returns the hash part, 32 digits of nix-base32, by which servers are
// asked for the item. The receiver must be well formed, here and below.
func (p StorePath) Hash() string { return p.Base()[:hashPartLen] }

// Name returns what follows the hash part and its dash, "hello-2.12.1".
func (p StorePath) Name() string { return p.Base()[hashPartLen+1:] }

// Base returns the path without the directory, as narinfos spell references.
func (p StorePath) Base() string { return string(p[len(StoreDir)+1:]) }

// IsDerivation reports whether the item is a derivation.
func (p StorePath) IsDerivation() bool { return strings.HasSuffix(string(p), ".drv") }

// flatPath is the name of the fixed-output item with the given name that is a
// single file with the given contents, such as a downloaded source:
// makeFixedOutputPath of nix/libstore/store-api.cc.
func flatPath(name string, contents Hash) (StorePath, error) {
	inner := sha256.Sum256([]byte("fixed:out:sha256:" + hex.EncodeToString(contents[:]) + ":"))
	outer := sha256.Sum256([]byte("output:out:sha256:" + hex.EncodeToString(inner[:]) + ":" + StoreDir + ":" + name))
	var short [20]byte
	for i, b := range outer {
		short[i%len(short)] ^= b
	}
	return parseBase(EncodeBase32(short[:]) + "-" + name)
}
