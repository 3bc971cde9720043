// Package filelock has locks between processes that vanish with their holder,
// however that ends, and leave no file behind when it ends well.
//
//	l, err := filelock.Acquire(ctx, dir+"/lock")
//	if err != nil { … }
//	defer l.Release()
//
// A lock is flock(2) on a file that is made for the purpose. It belongs to the open
// file: two acquired in one process exclude each other too, and children that
// inherit the file share it. To look who has it takes nothing, and so
// keeps nobody from acquiring it.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld says that somebody else has the lock.
var ErrHeld = errors.New("lock is held by another process")

// A Lock is held until Release, or the end of the process and of the children
// that inherited it.
type Lock struct {
	file *os.File
	once sync.Once
}

// Acquire waits for the lock named by a file, which is made if need be, with mode 0600,
// in a directory that must exist. The error wraps the cause if ctx ends first.
func Acquire(ctx context.Context, name string) (*Lock, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		l, err := Try(name)
		if !errors.Is(err, ErrHeld) {
			return l, err
		}
		select { // the kernel's own waiting could not be interrupted
		case <-ctx.Done():
			return nil, fmt.Errorf("lock %s: %w", name, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// Try is Acquire without waiting: the error is [ErrHeld] when somebody else has the lock.
func Try(name string) (*Lock, error) {
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && isNamed(f, name) {
			if err := show(f, unix.F_WRLCK); err != nil {
				f.Close()
				return nil, fmt.Errorf("lock %s: %w", name, err)
			}
			return &Lock{file: f}, nil
		}
		f.Close()
		switch {
		case err == nil, errors.Is(err, syscall.EINTR):
			// Its last holder has just removed the file: the next one of that name counts.
		case errors.Is(err, syscall.EWOULDBLOCK):
			return nil, ErrHeld
		default:
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
	}
}

// show sets or removes what [Holder] looks at. What flock has locked can be told only by trying to lock it, which
// for a moment keeps others from it; a lock of fcntl(2) that belongs to the open file, too, can be asked for.
func show(f *os.File, kind int16) error {
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind})
}

// isShown reports whether somebody shows that he holds the lock.
func isShown(f *os.File) (bool, error) {
	asked := unix.Flock_t{Type: unix.F_RDLCK}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &asked)
	return asked.Type != unix.F_UNLCK, err
}

// isNamed reports whether f is still the file of that name.
func isNamed(f *os.File, name string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(name)
	return err == nil && os.SameFile(mine, there)
}

// File is the open file, for a child that is to share the lock.
func (l *Lock) File() *os.File { return l.file }

// Note writes down who holds the lock, for [Holder]. It replaces what was noted before.
func (l *Lock) Note(text []byte) error {
	if err := l.file.Truncate(0); err != nil {
		return fmt.Errorf("note holder of lock: %w", err)
	}
	if _, err := l.file.WriteAt(text, 0); err != nil {
		return fmt.Errorf("note holder of lock: %w", err)
	}
	return nil
}

// Holder returns what the holder of a lock has noted, at most 64 KiB: nothing if it
// has not yet. held is false when nobody holds it.
func Holder(name string) (note []byte, held bool, err error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("look at lock %s: %w", name, err)
	}
	defer f.Close()
	held, err = isShown(f)
	if err != nil {
		return nil, false, fmt.Errorf("look at lock %s: %w", name, err)
	}
	if !held {
		return nil, false, nil // left by a holder that was killed
	}
	note, err = io.ReadAll(io.LimitReader(f, 64<<10))
	return note, true, err
}

// Release gives up the lock, also on behalf of children, and removes its file.
// Calls after the first do nothing.
func (l *Lock) Release() {
	l.once.Do(func() {
		// The file is removed while the lock is held, so it is nobody else's.
		os.Remove(l.file.Name())
		show(l.file, unix.F_UNLCK)
		syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN)
		l.file.Close()
	})
}
