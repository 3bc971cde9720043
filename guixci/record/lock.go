package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/genenetwork/guixci/internal/filelock"
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
	return fmt.Sprintf("open record: state directory %q is held by %s", e.Dir, who)
}

// Advice says what to do about it.
func (e *HeldError) Advice() string {
	return "wait for that process, stop it, or name another state directory with --state"
}

// hold takes the state directory for this process. The number in the
// file only tells the others whom they are waiting for.
func hold(dir string) (*filelock.Lock, error) {
	name := filepath.Join(dir, lockName)
	l, err := filelock.Try(name)
	if errors.Is(err, filelock.ErrHeld) {
		note, _, _ := filelock.Holder(name) // empty, or no number, if it cannot be told
		pid, _ := strconv.Atoi(strings.TrimSpace(string(note)))
		return nil, &HeldError{Dir: dir, PID: pid}
	}
	if err != nil {
		return nil, spaceError(dir, fmt.Errorf("lock record: %w", err))
	}
	if err := l.Note([]byte(strconv.Itoa(os.Getpid()) + "\n")); err != nil {
		l.Release()
		return nil, spaceError(dir, fmt.Errorf("lock record: %w", err))
	}
	return l, nil
}
