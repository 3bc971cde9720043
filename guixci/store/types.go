package store

import (
	"fmt"

	"github.com/genenetwork/guixci/substitute"
)

// A StorePath is the full name of a store item, "/gnu/store/HASH-NAME".
type StorePath = substitute.StorePath

// check finds out what would make the daemon hang up: arguments that are not
// the name of a store item.
func check(paths ...StorePath) error {
	for _, p := range paths {
		if _, err := substitute.ParseStorePath(string(p)); err != nil {
			return err
		}
	}
	return nil
}

// checkName is check for the name of an item to be.
func checkName(name string) error {
	if _, err := substitute.ParseStorePath(substitute.StoreDir + "/" + noHash + "-" + name); err != nil {
		return fmt.Errorf("name %q: %w", name, err)
	}
	return nil
}

const noHash = "00000000000000000000000000000000"
