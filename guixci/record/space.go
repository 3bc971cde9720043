package record

import (
	"errors"
	"fmt"
	"syscall"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// A SpaceError says that the disk of the state directory is full.
// What was to be written is not in the record; what was there is.
type SpaceError struct {
	Dir string // where space must be freed
	Err error  // what was being done, and the system's words
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%v: no space left for the state directory %q: free some there and run again", e.Err, e.Dir)
}

// Unwrap returns the cause.
func (e *SpaceError) Unwrap() error { return e.Err }

// spaceError wraps err in a SpaceError if it means a full disk,
// and returns it as it is otherwise.
func spaceError(dir string, err error) error {
	if !noSpace(err) {
		return err
	}
	return &SpaceError{Dir: dir, Err: err}
}

// noSpace recognises a full disk: SQLite answers "full" where writing failed,
// and an input/output error where the shared index could not grow.
func noSpace(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() {
	case lib.SQLITE_FULL, lib.SQLITE_IOERR_SHMSIZE, lib.SQLITE_IOERR_WRITE:
		return true
	}
	return false
}
