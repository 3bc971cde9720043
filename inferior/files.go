package inferior

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A fileLock is an exclusive lock between processes. It belongs to the open
// file: two acquired in one process exclude each other too, and children that
// inherit the file share it.
type fileLock struct {
	file *os.File
	once sync.Once
}

// lockPoll is how often a lock that somebody else holds is tried again: a
// blocking flock could not be given up.
const lockPoll = 100 * time.Millisecond

// acquire makes the file if need be and waits for its lock.
func acquire(ctx context.Context, path string) (*fileLock, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return &fileLock{file: file}, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			file.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// release gives up the lock, also on behalf of children. Calls after the first do nothing.
func (l *fileLock) release() {
	l.once.Do(func() {
		syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN)
		l.file.Close()
	})
}

// replaceFile writes a file that others read: it is the old one or the new
// one, whole, also after a crash.
func replaceFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// A watcher is a writer that calls found, once, when text passes.
type watcher struct {
	text  []byte
	found func()
	seen  []byte // the end of what passed, shorter than text
}

func (w *watcher) Write(b []byte) (int, error) {
	if w.found == nil {
		return len(b), nil
	}
	w.seen = append(w.seen, b...)
	if bytes.Contains(w.seen, w.text) {
		w.found()
		w.found, w.seen = nil, nil
		return len(b), nil
	}
	w.seen = w.seen[max(0, len(w.seen)-len(w.text)+1):]
	return len(b), nil
}
