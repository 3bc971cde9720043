package record

import (
	"database/sql"
	"fmt"
)

// migrations are the steps from each version of the tables to the next one.
// A step that has been released is never edited: a new one is appended.
// Times are nanoseconds since 1970, 0 for "not yet"; JSON is text.
var migrations = []string{
	// Version 1.
	`
CREATE TABLE specifications (
  name TEXT PRIMARY KEY,
  data TEXT NOT NULL                  -- JSON, as the caller gave it
);
CREATE TABLE evaluations (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  specification TEXT NOT NULL,
  lock_digest   TEXT NOT NULL,        -- '' if the channels could not be resolved
  lock          TEXT NOT NULL,        -- JSON
  status        INTEGER NOT NULL,
  verdict       TEXT NOT NULL,        -- JSON
  started       INTEGER NOT NULL,
  finished      INTEGER NOT NULL
);
CREATE INDEX evaluations_specification ON evaluations (specification, id);
CREATE INDEX evaluations_lock ON evaluations (lock_digest);
CREATE TABLE builds (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  derivation TEXT NOT NULL,
  status     INTEGER NOT NULL,
  cause      TEXT NOT NULL,           -- finer than status
  culprit    TEXT NOT NULL,           -- derivation of the dependency that failed
  attempts   INTEGER NOT NULL,
  started    INTEGER NOT NULL,
  stopped    INTEGER NOT NULL,
  log        TEXT NOT NULL,           -- file name
  telling    TEXT NOT NULL,           -- JSON array of lines
  forgotten  INTEGER NOT NULL         -- 1 once somebody asked for a retry
);
CREATE INDEX builds_derivation ON builds (derivation, id);
CREATE INDEX builds_running ON builds (status) WHERE status < 0;
CREATE TABLE jobs (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  evaluation    INTEGER NOT NULL REFERENCES evaluations (id),
  specification TEXT NOT NULL,        -- of the evaluation, for the index below
  name          TEXT NOT NULL,
  system        TEXT NOT NULL,
  derivation    TEXT NOT NULL,        -- '' if the job could not be lowered
  error         TEXT NOT NULL,        -- why not
  metadata      TEXT NOT NULL,        -- JSON
  status        INTEGER NOT NULL,
  weather       INTEGER NOT NULL,
  build         INTEGER REFERENCES builds (id)
);
CREATE INDEX jobs_evaluation ON jobs (evaluation);
CREATE INDEX jobs_history ON jobs (specification, name, system, evaluation);
CREATE INDEX jobs_pending ON jobs (derivation) WHERE status < 0;
CREATE TABLE events (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  time       INTEGER NOT NULL,
  kind       TEXT NOT NULL,
  evaluation INTEGER NOT NULL,        -- 0 if it concerns none
  data       TEXT NOT NULL            -- JSON
);
CREATE INDEX events_evaluation ON events (evaluation, id);
`,
}

// migrate brings the tables to the present version, each step in a
// transaction of its own, so that a kill in between leaves a known version.
func (r *Record) migrate() error {
	version, err := r.version()
	if err != nil {
		return err
	}
	for ; version < len(migrations); version++ {
		err := r.write(fmt.Sprintf("migrate record to version %d", version+1), func(tx *sql.Tx) error {
			if _, err := tx.Exec(migrations[version]); err != nil {
				return err
			}
			_, err := tx.Exec(fmt.Sprintf("PRAGMA user_version = %d", version+1))
			return err
		})
		if err != nil {
			return err
		}
	}
	return r.checkVersion()
}

// checkVersion refuses a record this program does not understand.
func (r *Record) checkVersion() error {
	version, err := r.version()
	if err != nil {
		return err
	}
	if version != len(migrations) {
		return fmt.Errorf("record in %q has version %d, this guixci knows version %d: use the guixci that wrote it, or a newer one", r.dir, version, len(migrations))
	}
	return nil
}

func (r *Record) version() (int, error) {
	var version int
	if err := r.db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return 0, spaceError(r.dir, fmt.Errorf("read version of record in %q: %w", r.dir, err))
	}
	return version, nil
}
