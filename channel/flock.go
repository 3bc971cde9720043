package channel

import (
	"context"
	"fmt"
	"os"

	"github.com/genenetwork/guixci/internal/filelock"
)

// lock takes the lock of a mirror, which is held against other processes and
// other goroutines alike, and released by the function returned or by death.
func (s *Repositories) lock(ctx context.Context, url string) (unlock func(), err error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of mirrors: %w", err)
	}
	l, err := filelock.Acquire(ctx, s.path(url)+".lock")
	if err != nil {
		return nil, fmt.Errorf("lock mirror of %q: %w", url, err)
	}
	return l.Release, nil
}
