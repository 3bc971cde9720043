// Package storedb is a [substitute.Source] of what is in the store of this machine,
// by way of guix-daemon's database, which it only reads.
//
//	db, err := storedb.Open("")
//	…
//	defer db.Close()
//	handler := &substitute.Handler{Source: db, Key: key}
//
// To ask the database takes a quarter of the time of asking the daemon, and the daemon need not
// run. Where the database cannot be read, ask the daemon: store.Pool is a Source too.
// The tables are those of nix/libstore/schema.sql in Guix.
package storedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
)

// DefaultPath is where guix-daemon has its database.
const DefaultPath = "/var/guix/db/db.sqlite"

// A DB is a database. Its methods may be called concurrently. When the file is replaced it is opened
// anew; while there is none, or it is being opened, Info returns an error that is not [substitute.ErrNotFound].
type DB struct {
	path string

	mu      sync.Mutex // guards what follows
	now     *opened    // nil while there is none
	opening bool       // somebody is, without mu; there is none then
	closed  bool
	known   map[string]*substitute.Info
	version int64     // of the database that known is true of
	era     int       // grows whenever known is forgotten
	checked time.Time // when version was seen last
	watch   *sql.Conn // on which versions are compared
}

// opened is an open file.
type opened struct {
	file    os.FileInfo
	db      *sql.DB
	infos   *sql.Stmt
	reading chan struct{} // has one for each who reads
}

const (
	// Answers are given from memory for this long after the database was
	// last seen unchanged.
	trust = 20 * time.Millisecond
	// maxKnown bounds what is remembered, to some 30 MB.
	maxKnown = 50_000
	// readers is how many read at a time, each on a connection, which has a cache of its own.
	readers = 4
	// Who has the database to himself is waited for, but a wait cannot be broken off: it is a series of short ones.
	busyFor, busyTimes = 100 * time.Millisecond, 50
)

// infoQuery has the references in one string: a second query would take as long as the first.
const infoQuery = `SELECT path, hash, deriver, narSize, (SELECT group_concat(r.path, ' ')
	FROM Refs JOIN ValidPaths r ON reference = r.id WHERE referrer = item.id)
	FROM ValidPaths item WHERE path >= ? ORDER BY path LIMIT 1`

// Open opens a database; "" is [DefaultPath]. It fails if the database cannot be read.
func Open(path string) (*DB, error) {
	if path == "" {
		path = DefaultPath
	}
	d := &DB{path: path}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.reopen(); err != nil {
		return nil, fmt.Errorf("open store database %q: %w", path, err)
	}
	return d, nil
}

func open(path string, file os.FileInfo) (_ *opened, err error) {
	d := &opened{file: file, reading: make(chan struct{}, readers)}
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: path}
	dsn.RawQuery = fmt.Sprintf("mode=ro&_pragma=busy_timeout(%d)&_pragma=query_only(1)", busyFor.Milliseconds())
	if d.db, err = sql.Open("sqlite", dsn.String()); err != nil {
		return nil, err
	}
	d.db.SetMaxOpenConns(readers + 1) // one is DB.watch
	d.db.SetMaxIdleConns(readers + 1)
	err = patiently(context.Background(), func() (err error) {
		d.infos, err = d.db.Prepare(infoQuery)
		return err
	})
	if err != nil {
		d.db.Close()
		return nil, err
	}
	return d, nil
}

var errOpening = errors.New("it is being opened")

// reopen opens the database if it is not the file that is open. The caller has d.mu, but not while this waits for who has
// the file to himself, or for the disk: others are told at once, and may ask the daemon.
func (d *DB) reopen() error {
	switch {
	case d.closed:
		return fs.ErrClosed
	case d.opening:
		return errOpening
	}
	// SQLite would make the file if it were missing, mode or not, in some cases.
	file, err := os.Stat(d.path)
	if err == nil && d.now != nil && os.SameFile(file, d.now.file) {
		return nil
	}
	d.close()
	if err != nil {
		return err
	}
	d.opening = true
	d.mu.Unlock()
	now, err := open(d.path, file)
	d.mu.Lock()
	d.opening = false
	if err == nil && d.closed {
		now.db.Close()
		err = fs.ErrClosed
	}
	if err == nil {
		d.now = now
	}
	return err
}

// close closes what is open, under those who are reading. The caller has d.mu.
func (d *DB) close() (err error) {
	if d.watch != nil {
		d.watch.Close()
		d.watch = nil
	}
	if d.now != nil {
		err = d.now.db.Close()
		d.now = nil
	}
	d.known = nil
	d.era++
	return err
}

// Close closes the database.
func (d *DB) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.close()
}

// Info describes the valid item with the given hash part.
func (d *DB) Info(ctx context.Context, hashPart string) (*substitute.Info, error) {
	prefix := substitute.StoreDir + "/" + hashPart
	for {
		info, at, era, err := d.remembered(ctx, hashPart)
		if info != nil {
			return info, nil
		}
		if _, err := substitute.ParseStorePath(prefix + "-x"); err != nil || len(hashPart) != 32 {
			return nil, fmt.Errorf("%w: %q is no hash part", substitute.ErrNotFound, hashPart)
		}
		if err == nil {
			info, err = at.read(ctx, prefix)
		}
		switch {
		case err == nil:
			d.remember(hashPart, info, era)
			return info, nil
		case at != nil && !errors.Is(err, substitute.ErrNotFound) && ctx.Err() == nil && d.replaced(at):
			continue
		}
		return nil, fmt.Errorf("read store database: %w", err)
	}
}

// replaced reports whether at has been closed because there is another file.
func (d *DB) replaced(at *opened) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now != nil && d.now != at
}

func (d *opened) read(ctx context.Context, prefix string) (*substitute.Info, error) {
	var size sql.NullInt64
	var path, hash string
	var deriver, refs sql.NullString
	err := d.query(ctx, prefix+"-", &path, &hash, &deriver, &size, &refs)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !strings.HasPrefix(path, prefix+"-") {
		return nil, fmt.Errorf("%w: %q", substitute.ErrNotFound, prefix)
	}
	if err != nil {
		return nil, err
	}
	info := &substitute.Info{NarSize: size.Int64}
	if info.StorePath, err = substitute.ParseStorePath(path); err != nil {
		return nil, err
	}
	if info.NarHash, err = substitute.ParseHash(hash); err != nil {
		return nil, err
	}
	if deriver.String != "" && deriver.String != "unknown-deriver" {
		if info.Deriver, err = substitute.ParseStorePath(deriver.String); err != nil {
			return nil, err
		}
	}
	info.References, err = parsePaths(refs.String)
	return info, err
}

// query scans the first row from a path on. It hides ctx from SQL: for a query that can be broken off two goroutines
// are started, and that takes half as long as the query.
func (d *opened) query(ctx context.Context, from string, values ...any) error {
	select {
	case d.reading <- struct{}{}:
		defer func() { <-d.reading }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return patiently(ctx, func() error { return d.infos.QueryRow(from).Scan(values...) })
}

// patiently calls f again while somebody else has the database to himself.
func patiently(ctx context.Context, f func() error) error {
	for times := 1; ; times++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := f()
		var failed *sqlite.Error
		if !errors.As(err, &failed) || failed.Code()&0xff != sqlitelib.SQLITE_BUSY || times == busyTimes {
			return err
		}
	}
}

// parsePaths takes names apart, and sorts them.
func parsePaths(names string) (paths []substitute.StorePath, err error) {
	if names == "" {
		return nil, nil
	}
	paths = make([]substitute.StorePath, 0, strings.Count(names, " ")+1)
	for name := range strings.SplitSeq(names, " ") {
		path, err := substitute.ParseStorePath(name)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths, nil
}

// remembered returns what is known of an item, if the database has not changed
// since, or where to read it, and the era in which that is so.
func (d *DB) remembered(ctx context.Context, hashPart string) (_ *substitute.Info, at *opened, era int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if since := now.Sub(d.checked); d.now == nil || since < 0 || since > trust {
		if err := d.reopen(); err != nil {
			return nil, nil, 0, err
		}
		version, err := d.dataVersion(ctx)
		if d.known == nil || err != nil || version != d.version || len(d.known) >= maxKnown {
			d.known, d.version = make(map[string]*substitute.Info), version
			d.era++
		}
		d.checked = now
	}
	return d.known[hashPart], d.now, d.era, nil
}

// dataVersion is a number that changes when somebody changes the database. The
// caller has d.mu.
func (d *DB) dataVersion(ctx context.Context) (version int64, err error) {
	if d.watch == nil {
		if d.watch, err = d.now.db.Conn(context.WithoutCancel(ctx)); err != nil {
			return 0, err
		}
	}
	err = d.watch.QueryRowContext(context.WithoutCancel(ctx), "PRAGMA data_version").Scan(&version)
	if err != nil {
		d.watch.Close()
		d.watch = nil
	}
	return version, err
}

// remember keeps what was read in the given era, unless that is over.
func (d *DB) remember(hashPart string, info *substitute.Info, era int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if era == d.era {
		d.known[hashPart] = info
	}
}

// WriteNAR writes the archive of an item that Info described.
func (d *DB) WriteNAR(ctx context.Context, w io.Writer, info *substitute.Info) error {
	if _, err := substitute.ParseStorePath(string(info.StorePath)); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	there, err := d.Info(ctx, info.StorePath.Hash())
	if err != nil {
		return err
	}
	if there.StorePath != info.StorePath {
		return fmt.Errorf("%w: %s", substitute.ErrNotFound, info.StorePath)
	}
	counted := &writer{ctx: ctx, w: w}
	err = nar.Dump(counted, string(info.StorePath))
	if counted.n == 0 && errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %v", substitute.ErrNotFound, err)
	}
	if err != nil {
		return fmt.Errorf("write archive of %s: %w", info.StorePath, err)
	}
	return nil
}

// A writer counts, and stops when its context ends.
type writer struct {
	ctx context.Context
	w   io.Writer
	n   int64
}

func (w *writer) Write(b []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	n, err := w.w.Write(b)
	w.n += int64(n)
	return n, err
}

var _ substitute.Source = (*DB)(nil)
