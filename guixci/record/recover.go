package record

import "database/sql"

// A Recovery is what [Open] found unfinished, because the process that had it was killed.
type Recovery struct {
	Evaluations []int64  // now aborted, their pending jobs cancelled
	Builds      []string // derivations whose build was running; their jobs are scheduled again
}

// Recovered returns what Open had to put aside; both lists are empty after an orderly end.
func (r *Record) Recovered() Recovery { return r.recovered }

// recover puts aside what nobody can be working on: we hold the lock.
// The running build is cancelled in the history, since how it would have ended
// is not known, and the jobs of evaluations that were complete wait again (see [Record.Pending]).
func (r *Record) recover() (err error) {
	return r.write("recover record", func(tx *sql.Tx) error {
		found := Recovery{}
		if found.Evaluations, err = column[int64](tx, `SELECT id FROM evaluations WHERE status = ? ORDER BY id`, EvaluationStarted); err != nil {
			return err
		}
		if found.Builds, err = column[string](tx, `SELECT derivation FROM builds WHERE status < 0 ORDER BY id`); err != nil {
			return err
		}
		r.recovered = found
		for _, step := range []struct {
			query string
			args  []any
		}{
			{`UPDATE builds SET status = ?, cause = ? WHERE status < 0`, []any{Cancelled, Interrupted}},
			{`UPDATE jobs SET status = ?, build = NULL WHERE status IN (?, ?)`, []any{Scheduled, Running, Submitted}},
			{`UPDATE jobs SET status = ? WHERE status < 0 AND evaluation IN (SELECT id FROM evaluations WHERE status = ?)`, []any{Cancelled, EvaluationStarted}},
			{`UPDATE evaluations SET status = ? WHERE status = ?`, []any{EvaluationAborted, EvaluationStarted}},
		} {
			if _, err := tx.Exec(step.query, step.args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// column is the first column of a query's rows.
func column[T any](tx *sql.Tx, query string, args ...any) (values []T, err error) {
	found, err := tx.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		var v T
		if err := found.Scan(&v); err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, found.Err()
}
