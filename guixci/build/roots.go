package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/genenetwork/guixci/guixci/store"
)

// Roots makes indirect garbage collector roots: symbolic links in a directory
// of ours that the daemon knows about. Removing a link lets go of what it names.
// Fields must not change after the first call.
type Roots struct {
	Dir  string      // made if need be
	Pool *store.Pool // nil means one for the usual daemon

	once sync.Once
	pool *store.Pool
}

// Add is a [Scheduler.Root]: it makes a root for each output of r, named as the
// output is in the store. It returns when the daemon knows them all.
func (s *Roots) Add(ctx context.Context, r Result) error {
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	for _, output := range r.Outputs {
		if err := s.Link(ctx, filepath.Join(dir, output.Base()), string(output)); err != nil {
			return err
		}
	}
	return nil
}

// Link makes one root outside of Dir: link, an absolute name in a directory that exists,
// becomes a symbolic link to a store item. What it named before is let go of.
func (s *Roots) Link(ctx context.Context, link, item string) error {
	if err := relink(item, link); err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	return s.connections().Do(ctx, func(c *store.Client) error { return c.AddIndirectRoot(ctx, link) })
}

func (s *Roots) connections() *store.Pool {
	s.once.Do(func() {
		s.pool = s.Pool
		if s.pool == nil {
			s.pool = &store.Pool{}
		}
	})
	return s.pool
}

// relink makes link point to target, whatever was there before and without
// a moment in which it points nowhere.
func relink(target, link string) error {
	if now, err := os.Readlink(link); err == nil && now == target {
		return nil
	}
	temporary := link + ".new"
	if err := os.Remove(temporary); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(target, temporary); err != nil {
		return err
	}
	return os.Rename(temporary, link)
}
