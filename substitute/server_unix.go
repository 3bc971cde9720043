//go:build unix

package substitute

import (
	"errors"
	"syscall"
)

// tooMany reports whether err says that there are no file descriptors left,
// which others may give back, or that a client left before it was accepted.
func tooMany(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}
