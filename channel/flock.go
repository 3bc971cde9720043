package channel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lock takes the lock of a mirror, which is held against other processes and
// other goroutines alike, and released by the function returned or by death.
func (s *Repositories) lock(ctx context.Context, url string) (unlock func(), err error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of mirrors: %w", err)
	}
	name := s.path(url) + ".lock"
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		f, err := tryLock(name)
		if err != nil {
			return nil, fmt.Errorf("lock mirror of %q: %w", url, err)
		}
		if f != nil {
			return func() {
				os.Remove(name) // while it is held, so nobody else's is removed
				f.Close()
			}, nil
		}
		select { // the kernel's own waiting could not be interrupted
		case <-ctx.Done():
			return nil, fmt.Errorf("lock mirror of %q: %w", url, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// tryLock returns the locked file, or nil when somebody else has it.
func tryLock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil && sameFile(f, name) {
		return f, nil
	}
	f.Close()
	if err == nil || errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return nil, nil // or its holder has just removed it: the next one counts
	}
	return nil, err
}

func sameFile(f *os.File, name string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(name)
	return err == nil && os.SameFile(mine, there)
}
