package substitute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/genenetwork/guixci/internal/filelock"
)

// EvictOptions say what [Cache.Evict] removes. The zero value removes only what
// killed processes left.
type EvictOptions struct {
	// MaxAge removes what nobody has asked for during this time; 0 keeps it.
	MaxAge time.Duration
	// MaxSize removes what was asked for longest ago until the archives have at most
	// this many bytes; 0 means no limit.
	MaxSize int64
	// Grace keeps what was asked for during this time in spite of both, as somebody may be about to
	// download it; 0 means an hour. It should be no less than Handler.TTL,
	// for which clients believe that they can.
	Grace time.Duration
	// Keep, if not nil, says which items must stay whatever their age.
	Keep func(StorePath) bool
}

// Evicted is what [Cache.Evict] did.
type Evicted struct {
	Items     int   // removed
	Bytes     int64 // of their archives
	LeftItems int
	LeftBytes int64
}

// A cachedItem is an item as Evict sees it.
type cachedItem struct {
	hashPart string
	used     time.Time
	archives []string
	size     int64
}

// leftover is the age at which a file without a narinfo is nobody's, even if others are adding to the cache: whoever
// wrote it would have finished. So is one from as far in the future, where the clock was when it was written.
const leftover = 24 * time.Hour

// Evict removes items. Narinfos go first, so that nobody is sent to what is about to go, and a
// download in progress goes on: the server has the file open. Only one process
// at a time evicts; another returns at once, having done nothing.
func (c *Cache) Evict(ctx context.Context, o EvictOptions) (done Evicted, err error) {
	lock, err := filelock.Try(filepath.Join(c.Dir, ".lock"))
	if errors.Is(err, filelock.ErrHeld) {
		return done, nil
	}
	if err != nil {
		return done, fmt.Errorf("evict from cache: %w", err)
	}
	defer lock.Release()
	c.sweep()
	if o.Grace == 0 {
		o.Grace = time.Hour
	}
	items, err := c.survey(ctx)
	if err != nil {
		return done, fmt.Errorf("evict from cache: %w", err)
	}
	for _, i := range items {
		done.LeftItems++
		done.LeftBytes += i.size
	}
	now := time.Now()
	c.setBack(items, now)
	slices.SortFunc(items, func(a, b cachedItem) int { return a.used.Compare(b.used) })
	for _, i := range items {
		if ctx.Err() != nil {
			return done, fmt.Errorf("evict from cache: %w", context.Cause(ctx))
		}
		if !o.evicts(i, now, done.LeftBytes) || o.keeps(c, i) {
			continue
		}
		if err := c.remove(i); err != nil {
			return done, fmt.Errorf("evict from cache: %w", err)
		}
		done.Items++
		done.Bytes += i.size
		done.LeftItems--
		done.LeftBytes -= i.size
	}
	return done, nil
}

// keeps asks Keep about an item, of which there may be no archive: perhaps the disk with them is not there now.
func (o *EvictOptions) keeps(c *Cache, i cachedItem) bool {
	if o.Keep == nil {
		return false
	}
	if len(i.archives) > 0 {
		return o.Keep(StorePath(StoreDir + "/" + filepath.Base(i.archives[0])))
	}
	n, err := c.parse(i.hashPart)
	return err == nil && o.Keep(n.StorePath)
}

// evicts decides about an item, given what is in the cache.
func (o *EvictOptions) evicts(i cachedItem, now time.Time, total int64) bool {
	age := now.Sub(i.used)
	switch {
	case age < o.Grace:
		return false
	case o.MaxAge > 0 && age > o.MaxAge:
		return true
	}
	return o.MaxSize > 0 && total > o.MaxSize
}

// setBack lets items that were used in what has become the future begin to age now: the clock was wrong
// when it said so, and they would stay for as long as it was.
func (c *Cache) setBack(items []cachedItem, now time.Time) {
	for k, i := range items {
		if i.used.After(now) {
			items[k].used = now
			// What cannot be noted is kept for longer than it should.
			os.Chtimes(c.narInfo(i.hashPart), now, time.Time{})
		}
	}
}

// survey lists the items, and removes what belongs to none.
func (c *Cache) survey(ctx context.Context) ([]cachedItem, error) {
	items := make(map[string]*cachedItem)
	err := c.files(ctx, func(path string, info fs.FileInfo) {
		hashPart, ok := strings.CutSuffix(info.Name(), ".narinfo")
		if ok && len(hashPart) == hashPartLen && isBase32(hashPart) && filepath.Dir(path) == filepath.Clean(c.Dir) {
			items[hashPart] = &cachedItem{hashPart: hashPart, used: accessTime(info)}
		}
	})
	if err != nil {
		return nil, err
	}
	now := time.Now()
	abandoned := func(info fs.FileInfo) bool { return now.Sub(info.ModTime()).Abs() > leftover }
	err = c.files(ctx, func(path string, info fs.FileInfo) {
		name := info.Name()
		if filepath.Dir(path) == filepath.Clean(c.Dir) {
			if strings.HasPrefix(name, tempPrefix) && abandoned(info) {
				os.Remove(path) // again next time, if it does not work
			}
			return
		}
		var owner *cachedItem
		isArchive := checkBase(name) == nil
		if isArchive {
			owner = items[name[:hashPartLen]]
		}
		switch {
		case owner != nil:
			owner.archives = append(owner.archives, path)
			owner.size += info.Size()
		case (isArchive || strings.HasPrefix(name, tempPrefix)) && abandoned(info):
			os.Remove(path)
		}
	})
	var all []cachedItem
	for _, i := range items {
		all = append(all, *i)
	}
	return all, err
}

// dirs are the directories of a cache, which may be symbolic links.
func (c *Cache) dirs() []string {
	dirs := []string{filepath.Clean(c.Dir)}
	for _, method := range []string{"none", "gzip", "lzip", "zstd"} {
		dirs = append(dirs, c.methodDir(method))
	}
	return dirs
}

// files calls f for each regular file in the directories of a cache. Other directories may be somebody else's, as
// when the cache is in one that has more in it, such as the cache of guix publish.
func (c *Cache) files(ctx context.Context, f func(path string, info fs.FileInfo)) error {
	for _, dir := range c.dirs() {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !e.Type().IsRegular() {
				continue
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // another process removed it
			}
			if err != nil {
				return err
			}
			f(filepath.Join(dir, e.Name()), info)
		}
	}
	return nil
}

// remove removes an item, the narinfo first. If it was added anew meanwhile, all of that goes as well:
// its archives have the names of those that were removed.
func (c *Cache) remove(i cachedItem) error {
	narinfo := c.narInfo(i.hashPart)
	for again := true; again; {
		c.mu.Lock()
		delete(c.known, i.hashPart)
		c.mu.Unlock()
		for _, name := range append([]string{narinfo}, i.archives...) {
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		_, err := os.Stat(narinfo)
		again = err == nil
	}
	return nil
}
