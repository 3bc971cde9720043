package substitute

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/genenetwork/guixci/internal/filelock"
)

const (
	// pruneEvery is how often it is worth to look through what is remembered.
	pruneEvery = 24 * time.Hour
	// pruneRetry is when it is tried again by another process if this one ends before it is done.
	pruneRetry = time.Hour
	// maxAnswers is how many answers are kept on disk, some 200 MB of them.
	maxAnswers = 50_000
)

// Prune removes from Dir the answers that do not hold any more, and the oldest of those beyond 50,000. It
// does nothing if that was done within a day, or is being done by another process.
// A long-lived program need not call it: it is for those that share Dir.
func (c *Client) Prune(ctx context.Context) error {
	if c.Dir == "" {
		return nil
	}
	if err := pruneAnswers(ctx, c.Dir, time.Now(), maxAnswers); err != nil {
		return fmt.Errorf("prune what is remembered of caches: %w", err)
	}
	return nil
}

// pruneAnswers is Prune for a time and a number.
func pruneAnswers(ctx context.Context, dir string, now time.Time, most int) error {
	mark := filepath.Join(dir, ".pruned")
	if info, err := os.Stat(mark); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil // nothing was ever remembered
		}
	} else if err == nil && now.Sub(info.ModTime()).Abs() < pruneEvery {
		return nil
	}
	lock, err := filelock.Try(filepath.Join(dir, ".lock"))
	if errors.Is(err, filelock.ErrHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		return err
	}
	retry := now.Add(pruneRetry - pruneEvery)
	if err := os.Chtimes(mark, retry, retry); err != nil {
		return err
	}
	kept, err := removeExpired(ctx, dir, now)
	if err != nil {
		return err
	}
	slices.SortFunc(kept, func(a, b keptAnswer) int { return a.asked.Compare(b.asked) })
	for _, k := range kept[:max(0, len(kept)-most)] {
		os.Remove(k.name) // again next time, if it does not work
	}
	return os.Chtimes(mark, now, now)
}

// A keptAnswer is a file that may be of use.
type keptAnswer struct {
	name  string
	asked time.Time
}

// removeExpired removes what is of no use, and lists the rest.
func removeExpired(ctx context.Context, dir string, now time.Time) (kept []keptAnswer, err error) {
	dir, err = filepath.EvalSymlinks(dir) // WalkDir would not follow one
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // another process removed it
		case err != nil || ctx.Err() != nil:
			return errors.Join(err, context.Cause(ctx))
		case !e.Type().IsRegular() || filepath.Dir(path) == dir:
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		if strings.HasPrefix(e.Name(), ".") {
			if now.Sub(info.ModTime()).Abs() > leftover {
				os.Remove(path)
			}
			return nil
		}
		if r, ok := readTimes(path); ok && r.holds(now) {
			kept = append(kept, keptAnswer{path, r.from})
		} else {
			os.Remove(path)
		}
		return nil
	})
	return kept, err
}

// readTimes reads the first line of an answer.
func readTimes(name string) (remembered, bool) {
	f, err := os.Open(name)
	if err != nil {
		return remembered{}, false
	}
	defer f.Close()
	var line [64]byte
	n, err := io.ReadFull(f, line[:])
	if err != nil && err != io.ErrUnexpectedEOF {
		return remembered{}, false
	}
	first, _, ok := bytes.Cut(line[:n], []byte("\n"))
	r, ok2 := parseTimes(first)
	return r, ok && ok2
}
