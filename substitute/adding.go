package substitute

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tempPrefix begins the names of files that are being written. Clients do not look for them.
const tempPrefix = ".tmp-"

// adding says to other processes that somebody writes files below dir, which is made when missing, until
// stop is called: a shared flock(2) on the directory, which vanishes with its holder. Where there are no such locks
// nobody can be sure to be alone, and files are nobody's only when they are old.
func adding(ctx context.Context, dir string) (stop func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		if !errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
			return func() { f.Close() }, nil
		}
		select { // somebody is sweeping
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// adding is the function of that name. When c adds for the first time, what killed processes left is removed.
func (c *Cache) adding(ctx context.Context) (stop func(), err error) {
	c.first.Do(c.sweep)
	return adding(ctx, c.Dir)
}

// sweep removes the files that killed processes were writing, if nobody is adding.
func (c *Cache) sweep() {
	f, err := os.Open(c.Dir)
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return
	}
	for _, dir := range c.dirs() {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), tempPrefix) && e.Type().IsRegular() {
				os.Remove(filepath.Join(dir, e.Name())) // again next time, if it does not work
			}
		}
	}
}
