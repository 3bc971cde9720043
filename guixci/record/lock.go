package record

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A HeldError says that another process is writing the record.
type HeldError struct {
	Dir string // the state directory
	PID int    // of the process that has it; 0 if it could not be told
}

func (e *HeldError) Error() string {
	who := "another guixci"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("open record: state directory %q is held by %s: wait for it, stop it, or name another with --state", e.Dir, who)
}

// hold takes the state directory for this process. The kernel's lock is what
// counts and vanishes with the process, however that ends; the number in the
// file only tells the others whom they are waiting for, and the file stays.
func hold(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, spaceError(dir, fmt.Errorf("lock record: %w", err))
	}
	err = flock(f)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = &HeldError{Dir: dir, PID: readPID(f)}
	} else if err == nil {
		err = writePID(f)
	}
	if err != nil {
		return nil, errors.Join(spaceError(dir, err), f.Close())
	}
	return f, nil
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("lock record: %w", err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("lock record: %w", err)
	}
	return nil
}

func readPID(f *os.File) int {
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}
