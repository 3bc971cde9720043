package record

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	_ "modernc.org/sqlite" // the only importer: the rest of guixci sees this package's types

	"github.com/genenetwork/guixci/internal/filelock"
)

// ErrNotFound is what a question about something the record does not know
// answers, found with errors.Is.
var ErrNotFound = errors.New("not in the record")

const (
	fileName = "record.db"
	lockName = "record.lock"
)

// A Record is the open record of one state directory.
// Its methods may be called concurrently.
type Record struct {
	dir       string
	db        *sql.DB
	held      *filelock.Lock // nil when opened read-only
	recovered Recovery

	mu sync.Mutex // one write transaction at a time, in the order they were asked for
}

// Open opens the record of the state directory dir for writing, making both
// if need be (the directory with mode 0700), brings it to the present version and sets
// aside what a killed process left unfinished.
//
// If another process has it, the error is a *[HeldError]; if the disk is full, a
// *[SpaceError]. The caller must Close the Record.
func Open(dir string) (*Record, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, spaceError(dir, fmt.Errorf("make state directory: %w", err))
	}
	held, err := hold(dir)
	if err != nil {
		return nil, err
	}
	r := &Record{dir: dir, held: held}
	if err := r.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("open record: %w", err), r.Close())
	}
	return r, nil
}

// OpenReadOnly opens the record of dir for reading beside whoever writes it.
// Methods that write return an error. The error wraps fs.ErrNotExist if there is no record yet.
func OpenReadOnly(dir string) (*Record, error) {
	if _, err := os.Stat(filepath.Join(dir, fileName)); err != nil {
		return nil, fmt.Errorf("open record: %w", err)
	}
	r := &Record{dir: dir}
	if err := r.connect("ro"); err != nil {
		return nil, fmt.Errorf("open record: %w", err)
	}
	if err := r.checkVersion(); err != nil {
		return nil, errors.Join(fmt.Errorf("open record: %w", err), r.Close())
	}
	return r, nil
}

// prepare does what a writer does first.
func (r *Record) prepare() error {
	if err := r.connect("rwc"); err != nil {
		return err
	}
	if err := r.migrate(); err != nil {
		return err
	}
	return r.recover()
}

// connect opens the database file. Commits are durable (synchronous=FULL), so that
// what has been said stays true even when the machine loses power;
// readers do not wait for the writer (WAL).
func (r *Record) connect(mode string) error {
	file, err := filepath.Abs(filepath.Join(r.dir, fileName))
	if err != nil {
		return err
	}
	query := url.Values{"mode": {mode}, "_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(10000)", "synchronous(FULL)", "foreign_keys(1)"}}
	if mode != "ro" {
		query.Add("_pragma", "journal_mode(WAL)")
	}
	source := url.URL{Scheme: "file", Path: file, RawQuery: query.Encode()}
	r.db, err = sql.Open("sqlite", source.String())
	return err
}

// Close closes the record and lets go of the state directory.
// It may be called twice.
func (r *Record) Close() error {
	var errs []error
	if r.db != nil {
		errs = append(errs, r.db.Close())
	}
	if r.held != nil {
		r.held.Release()
		r.held = nil
	}
	return errors.Join(errs...)
}

// write runs f in one transaction: all of it is on disk, or none.
// what names the deed for the error, as in "record job".
func (r *Record) write(what string, f func(*sql.Tx) error) error {
	if r.held == nil {
		return fmt.Errorf("%s: record in %q is not open for writing", what, r.dir)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.transact(f); err != nil {
		return spaceError(r.dir, fmt.Errorf("%s: %w", what, err))
	}
	return nil
}

func (r *Record) transact(f func(*sql.Tx) error) error {
	tx, err := r.db.Begin()
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}
