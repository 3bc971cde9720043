package storedb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/storedb"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// The database says what the store has: items can be read, hash to what it says.
func TestRealStore(t *testing.T) {
	guixtest.Require(t)
	db, err := storedb.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := store.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() // it keeps what it adds, and others may collect what is there
	kit := storetest.New(t, c)
	var inputs []*storetest.Build
	var paths []substitute.StorePath
	for i := range 20 {
		b := kit.Add(storetest.Spec{Name: fmt.Sprint("item", i), Script: "echo >$out", Inputs: inputs})
		inputs = append(inputs, b)
		paths = append(paths, b.Derivation)
	}
	substitutetest.TestSource(t, db, paths)
}

// made makes a database like guix-daemon's with some items in it.
func made(t *testing.T) (path string, writable *sql.DB) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "db.sqlite")
	w, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	exec(t, w, `CREATE TABLE ValidPaths (id integer PRIMARY KEY AUTOINCREMENT NOT NULL, path text UNIQUE NOT NULL, hash text NOT NULL,
		registrationTime integer NOT NULL, deriver text, narSize integer);
		CREATE TABLE Refs (referrer integer NOT NULL, reference integer NOT NULL, PRIMARY KEY (referrer, reference));`)
	return path, w
}

func exec(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatal(err)
	}
}

const insert = `INSERT INTO ValidPaths (id, path, hash, registrationTime, deriver, narSize) VALUES (?, ?, ?, 0, ?, ?)`

func TestReadsAndNotices(t *testing.T) {
	path, w := made(t)
	one, two := substitutetest.Path("one", ""), substitutetest.Path("two", "")
	hash := substitute.Hash{1, 2, 3}
	hex := "sha256:010203" + strings.Repeat("00", 29)
	exec(t, w, insert, 1, string(one), hex, "", 100)
	exec(t, w, insert, 2, string(two), hex, "/gnu/store/"+one.Base()+".drv", 200)
	exec(t, w, "INSERT INTO Refs VALUES (2, 1), (2, 2)")

	db, err := storedb.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	want := &substitute.Info{StorePath: two, NarHash: hash, NarSize: 200, Deriver: one + ".drv"}
	want.References = []substitute.StorePath{min(one, two), max(one, two)}
	for range 3 { // read, read again to be remembered, remembered
		got, err := db.Info(t.Context(), two.Hash())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("info (-want +got):\n%s", diff)
		}
	}
	exec(t, w, "DELETE FROM Refs; DELETE FROM ValidPaths")
	until(t, "deleted", db, two, func(_ *substitute.Info, err error) bool { return errors.Is(err, substitute.ErrNotFound) })
	exec(t, w, insert, 3, string(one), hex, nil, 300)
	if info, err := db.Info(t.Context(), one.Hash()); err != nil || info.NarSize != 300 {
		t.Errorf("new item: %+v, %v", info, err)
	}
}

// until asks until the answer is the wanted one: changes are noticed within milliseconds, of which
// nobody is told.
func until(t *testing.T, what string, db *storedb.DB, item substitute.StorePath, good func(*substitute.Info, error) bool) {
	t.Helper()
	look, late := time.NewTicker(time.Millisecond), time.After(2*time.Minute)
	defer look.Stop()
	for {
		info, err := db.Info(t.Context(), item.Hash())
		if good(info, err) {
			return
		}
		select {
		case <-look.C:
		case <-late:
			t.Fatalf("%s: %+v, %v", what, info, err)
		}
	}
}

// The file goes away, comes back as another, and as nonsense for a while.
func TestDatabaseReplaced(t *testing.T) {
	path, w := made(t)
	item := substitutetest.Path("one", "")
	hex := "sha256:010203" + strings.Repeat("00", 29)
	exec(t, w, insert, 1, string(item), hex, "", 100)
	db, err := storedb.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	sized := func(size int64) func(*substitute.Info, error) bool {
		return func(info *substitute.Info, err error) bool { return err == nil && info.NarSize == size }
	}
	lost := func(_ *substitute.Info, err error) bool { return err != nil && !errors.Is(err, substitute.ErrNotFound) }
	until(t, "at first", db, item, sized(100))
	exec(t, w, "PRAGMA wal_checkpoint(TRUNCATE)")
	w.Close()
	away := filepath.Join(t.TempDir(), "db.sqlite")
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
		for _, end := range []string{"-wal", "-shm"} {
			os.Remove(from + end) // nothing is in it
		}
	}
	move(path, away)
	until(t, "gone", db, item, lost)
	if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "nonsense", db, item, lost)
	other, w := made(t)
	exec(t, w, insert, 1, string(item), hex, "", 200)
	w.Close()
	move(other, path)
	until(t, "another", db, item, sized(200))
	move(away, path)
	until(t, "the first again", db, item, sized(100))
}

// Somebody has the database to himself: that is waited for, but not longer than the caller does.
func TestBusy(t *testing.T) {
	path, w := made(t)
	item := substitutetest.Path("one", "")
	exec(t, w, insert, 1, string(item), "sha256:010203"+strings.Repeat("00", 29), "", 100)
	// Without a write-ahead log, as guix-daemon has it when told so, readers are kept out.
	exec(t, w, "PRAGMA journal_mode=DELETE")
	db, err := storedb.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	alone, err := w.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	for _, statement := range []string{"BEGIN EXCLUSIVE", "UPDATE ValidPaths SET narSize = 200"} {
		if _, err := alone.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	impatient, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errImpatient)
	defer cancel()
	if _, err := db.Info(impatient, item.Hash()); !errors.Is(err, errImpatient) {
		t.Errorf("while it is busy: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		info, err := db.Info(t.Context(), item.Hash())
		if err == nil && info.NarSize != 200 {
			err = fmt.Errorf("size %d", info.NarSize)
		}
		got <- err
	}()
	if _, err := alone.ExecContext(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// While a database is being opened on a disk that does not answer, only one request waits for it.
func TestOpeningHangs(t *testing.T) {
	path, w := made(t)
	db, err := storedb.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	fifo := path + "-fifo"
	if err := syscall.Mkfifo(fifo, 0o600); err != nil { // who opens it waits for the other end
		t.Fatal(err)
	}
	if err := os.Rename(fifo, path); err != nil {
		t.Fatal(err)
	}
	const requests = 5
	answers := make(chan error, requests)
	for range requests {
		go func() {
			for { // it may not have been looked at again
				_, err := db.Info(t.Context(), substitutetest.Path("item", "").Hash())
				if !errors.Is(err, substitute.ErrNotFound) {
					answers <- err
					return
				}
			}
		}()
	}
	late := time.After(2 * time.Minute)
	for n := range requests {
		if n == requests-1 { // the last one waits for this
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			end, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer end.Close()
		}
		select {
		case err := <-answers:
			if err == nil {
				t.Error("an answer, without a database")
			}
		case <-late:
			t.Fatalf("%d of %d requests were answered", n, requests)
		}
	}
}

var errImpatient = errors.New("impatient")

func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	if _, err := storedb.Open(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing database: %v", err)
	}
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if db, err := storedb.Open(bad); err == nil {
		if _, err := db.Info(context.Background(), strings.Repeat("0", 32)); err == nil {
			t.Error("not a database: no error")
		}
		db.Close()
	}
}
