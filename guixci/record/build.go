package record

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
)

// A Build is one attempt to make one derivation, whoever wanted it.
type Build struct {
	ID         int64
	Derivation string
	Status     Status
	Cause      string // finer than Status: "silent too long"
	Culprit    string // derivation of the dependency that failed
	Attempts   int
	Started    time.Time // zero if nothing had to be run
	Stopped    time.Time
	Log        string   // file name
	Telling    []string // the lines of the log that say why
}

// StartBuild records that a derivation is being built, with its log in the file of that
// name, and so are the jobs that wait for it. started zero means now.
func (r *Record) StartBuild(derivation string, started time.Time, log string) error {
	return r.write("record start of build", func(tx *sql.Tx) error {
		id, err := insertBuild(tx, Build{Derivation: derivation, Status: Running, Started: orNow(started), Log: log})
		if err != nil {
			return err
		}
		return settleJobs(tx, derivation, id, Running)
	})
}

// FinishBuild records how a build ended and settles the jobs that wait for its derivation.
// Of b everything counts but the ID. A build recorded as started is
// finished; saying the same twice changes nothing; one with neither a start nor
// news (the outputs were there, the failure was remembered) is joined with the one known.
func (r *Record) FinishBuild(b Build) error {
	if !b.Status.Final() {
		return fmt.Errorf("record build: status %d of %q is not final", b.Status, b.Derivation)
	}
	return r.write("record build", func(tx *sql.Tx) error {
		last, err := lastBuild(tx, b.Derivation)
		switch {
		case err != nil:
			return err
		case !last.Status.Final():
			err = updateBuild(tx, last.ID, b)
		case last.ID == 0 || !says(b, last):
			last.ID, err = insertBuild(tx, b)
		}
		if err != nil {
			return err
		}
		return settleJobs(tx, b.Derivation, last.ID, b.Status)
	})
}

// says reports whether b is what is known as last already.
func says(b, last Build) bool {
	if b.Started.IsZero() {
		return b.Status == last.Status
	}
	return b.Started.Equal(last.Started)
}

// lastBuild is the number, status and start of the newest build; number 0 if there is none.
func lastBuild(tx *sql.Tx, derivation string) (b Build, err error) {
	var started int64
	err = tx.QueryRow(`SELECT id, status, started FROM builds WHERE derivation = ? ORDER BY id DESC LIMIT 1`,
		derivation).Scan(&b.ID, &b.Status, &started)
	b.Started = unstamp(started)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return b, err
}

func insertBuild(tx *sql.Tx, b Build) (int64, error) {
	telling, err := json.Marshal(b.Telling)
	if err != nil {
		return 0, err
	}
	res, err := tx.Exec(`INSERT INTO builds (derivation, status, cause, culprit, attempts, started, stopped, log, telling, forgotten)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)`,
		b.Derivation, b.Status, b.Cause, b.Culprit, b.Attempts, stamp(b.Started), stamp(b.Stopped), b.Log, string(telling))
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

func updateBuild(tx *sql.Tx, id int64, b Build) error {
	telling, err := json.Marshal(b.Telling)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`UPDATE builds SET status = ?, cause = ?, culprit = ?, attempts = ?, stopped = ?, log = ?, telling = ? WHERE id = ?`,
		b.Status, b.Cause, b.Culprit, b.Attempts, stamp(b.Stopped), b.Log, string(telling), id)
	return err
}

const buildColumns = `id, derivation, status, cause, culprit, attempts, started, stopped, log, telling`

// LatestBuild returns the newest build of a derivation, of whatever status,
// or an error wrapping [ErrNotFound].
func (r *Record) LatestBuild(derivation string) (*Build, error) {
	return r.oneBuild(`SELECT `+buildColumns+` FROM builds WHERE derivation = ? ORDER BY id DESC LIMIT 1`, derivation)
}

// Builds yields the builds of a derivation, newest first. An error ends the sequence.
func (r *Record) Builds(derivation string) iter.Seq2[Build, error] {
	return rows(r, "read builds", scanBuild, `SELECT `+buildColumns+` FROM builds WHERE derivation = ? ORDER BY id DESC`, derivation)
}

// Interrupted is the Cause of a build that was running when the process that recorded it was killed.
const Interrupted = "interrupted"

// KnownBuild returns what is remembered of a derivation: that it succeeded, or that it
// failed by its own fault and nobody has asked for a retry since.
// Failures of the machinery, of dependencies and cancellations are not remembered.
// The error wraps [ErrNotFound] if there is nothing.
func (r *Record) KnownBuild(derivation string) (*Build, error) {
	return r.oneBuild(`SELECT `+buildColumns+` FROM builds
		WHERE derivation = ? AND status IN (0, 1) AND NOT forgotten ORDER BY id DESC LIMIT 1`, derivation)
}

// KnownFailures returns those of the derivations whose last remembered build
// failed by its own fault, by derivation. It asks in large portions,
// so 100,000 at a time are fine.
func (r *Record) KnownFailures(derivations []string) (map[string]Build, error) {
	failures := map[string]Build{}
	for some := range slices.Chunk(derivations, 1000) {
		args := make([]any, len(some))
		for i, d := range some {
			args[i] = d
		}
		marks := strings.TrimSuffix(strings.Repeat("?,", len(some)), ",")
		query := `SELECT ` + buildColumns + ` FROM builds WHERE id IN (SELECT max(id) FROM builds
			WHERE derivation IN (` + marks + `) AND status IN (0, 1) AND NOT forgotten GROUP BY derivation) AND status = 1`
		for b, err := range rows(r, "read known failures", scanBuild, query, args...) {
			if err != nil {
				return nil, err
			}
			failures[b.Derivation] = b
		}
	}
	return failures, nil
}

// Forget makes the failures of the derivations no longer remembered:
// somebody asked for a retry. They stay in the history.
func (r *Record) Forget(derivations ...string) error {
	return r.write("forget failures", func(tx *sql.Tx) error {
		for _, d := range derivations {
			if _, err := tx.Exec(`UPDATE builds SET forgotten = 1 WHERE derivation = ? AND status > 0`, d); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *Record) oneBuild(query string, derivation string) (*Build, error) {
	for b, err := range rows(r, "read build", scanBuild, query, derivation) {
		if err != nil {
			return nil, err
		}
		return &b, nil
	}
	return nil, fmt.Errorf("read build of %q: %w", derivation, ErrNotFound)
}

func scanBuild(row *sql.Rows) (b Build, err error) {
	var started, stopped int64
	var telling string
	err = row.Scan(&b.ID, &b.Derivation, &b.Status, &b.Cause, &b.Culprit, &b.Attempts, &started, &stopped, &b.Log, &telling)
	if err != nil {
		return Build{}, err
	}
	b.Started, b.Stopped = unstamp(started), unstamp(stopped)
	return b, json.Unmarshal([]byte(telling), &b.Telling)
}
