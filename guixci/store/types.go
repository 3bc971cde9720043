package store

import (
	"errors"
	"fmt"
	"strings"
)

// A StorePath is the full name of a store item, "/gnu/store/HASH-NAME".
type StorePath string

// ErrNotFound is what the error wraps when a store item is asked for that the
// store does not have.
var ErrNotFound = errors.New("not found")

// Dir is the store.
const Dir = "/gnu/store"

const hashPartLen = 32

// check finds out what would make the daemon hang up: arguments that are not
// directly below the store.
func check(paths ...StorePath) error {
	for _, p := range paths {
		base, ok := strings.CutPrefix(string(p), Dir+"/")
		if !ok || len(base) < hashPartLen+2 || strings.Contains(base, "/") {
			return fmt.Errorf("%q is not a store path", string(p))
		}
	}
	return nil
}
