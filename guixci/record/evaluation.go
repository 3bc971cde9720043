package record

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"
)

// An Evaluation is one Lock of one specification, and what came of it.
type Evaluation struct {
	ID            int64
	Specification string
	LockDigest    string          // empty if the channels could not be resolved
	Lock          json.RawMessage // the Lock as JSON; empty likewise
	Status        EvaluationStatus
	Verdict       json.RawMessage // empty until it is known; the caller's shape
	Started       time.Time
	Finished      time.Time // zero until finished
}

// BeginEvaluation records that an evaluation has started and returns its
// number. Of e it takes Specification, LockDigest, Lock, and Started (zero means now).
// Until [Record.FinishEvaluation] it counts as started; if the process dies before, as aborted.
func (r *Record) BeginEvaluation(e Evaluation) (id int64, err error) {
	err = r.write("record evaluation", func(tx *sql.Tx) error {
		res, err := tx.Exec(`INSERT INTO evaluations (specification, lock_digest, lock, status, verdict, started, finished)
			VALUES (?, ?, ?, ?, '', ?, 0)`, e.Specification, e.LockDigest, string(e.Lock), EvaluationStarted, stamp(orNow(e.Started)))
		if err != nil {
			return err
		}
		id, err = res.LastInsertId()
		return err
	})
	return id, err
}

// JudgeEvaluation records the verdict of an evaluation that goes on: a green one.
// It returns an error wrapping [ErrNotFound] if there is no such evaluation under way.
func (r *Record) JudgeEvaluation(id int64, verdict json.RawMessage) error {
	return r.write("judge evaluation", func(tx *sql.Tx) error {
		res, err := tx.Exec(`UPDATE evaluations SET verdict = ? WHERE id = ? AND status = ?`, string(verdict), id, EvaluationStarted)
		return one(res, err, id)
	})
}

// one makes sure that an evaluation was there to be changed.
func one(res sql.Result, err error, id int64) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, fmt.Errorf("evaluation %d: %w", id, ErrNotFound))
	}
	return nil
}

// FinishEvaluation records how evaluation id ended. After
// [EvaluationSucceeded] all its jobs are known, their builds may go on;
// after any other end its jobs still without a build are cancelled.
// It returns an error wrapping [ErrNotFound] if there is no such evaluation.
func (r *Record) FinishEvaluation(id int64, status EvaluationStatus, verdict json.RawMessage) error {
	return r.write("finish evaluation", func(tx *sql.Tx) error {
		res, err := tx.Exec(`UPDATE evaluations SET status = ?, verdict = ?, finished = ? WHERE id = ?`,
			status, string(verdict), stamp(time.Now()), id)
		if err := one(res, err, id); err != nil || status == EvaluationSucceeded {
			return err
		}
		_, err = tx.Exec(`UPDATE jobs SET status = ? WHERE evaluation = ? AND status < 0`, Cancelled, id)
		return err
	})
}

const evaluationColumns = `id, specification, lock_digest, lock, status, verdict, started, finished`

// Evaluation returns evaluation id, or an error wrapping [ErrNotFound].
func (r *Record) Evaluation(id int64) (*Evaluation, error) {
	return r.oneEvaluation(fmt.Sprintf("read evaluation %d", id),
		`SELECT `+evaluationColumns+` FROM evaluations WHERE id = ?`, id)
}

// Evaluations yields the evaluations of a specification, or of all if it is
// empty, newest first. An error ends the sequence.
func (r *Record) Evaluations(specification string) iter.Seq2[Evaluation, error] {
	return rows(r, "read evaluations", scanEvaluation, `SELECT `+evaluationColumns+` FROM evaluations
		WHERE ? IN ('', specification) ORDER BY id DESC`, specification)
}

// EvaluationOf returns the newest evaluation of a specification on the Lock with that
// digest which was not aborted, or an error wrapping [ErrNotFound].
// It is how an unchanged Lock is found to be done already.
func (r *Record) EvaluationOf(specification, lockDigest string) (*Evaluation, error) {
	return r.oneEvaluation("find evaluation", `SELECT `+evaluationColumns+` FROM evaluations
		WHERE specification = ? AND lock_digest = ? AND status <> ? ORDER BY id DESC LIMIT 1`,
		specification, lockDigest, EvaluationAborted)
}

// A Policy says which jobs must have succeeded for an evaluation to be green.
type Policy struct {
	// Jobs are names, each of which must be there and have succeeded on every
	// system it was evaluated for. None means all jobs.
	Jobs []string `json:"jobs,omitempty"`
}

// LastGreen returns the newest evaluation of a specification whose own verdict is green
// and whose jobs satisfy the policy; its Lock is the one to pull from.
// The error wraps [ErrNotFound] if there is none.
func (r *Record) LastGreen(specification string, policy Policy) (*Evaluation, error) {
	query := `SELECT ` + evaluationColumns + ` FROM evaluations e
		WHERE specification = ? AND status = ? AND lock_digest <> ''`
	args := []any{specification, EvaluationSucceeded}
	if len(policy.Jobs) == 0 {
		query += ` AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.evaluation = e.id AND j.status <> 0)`
	}
	for _, name := range policy.Jobs {
		query += ` AND (SELECT count(*) > 0 AND max(status <> 0) = 0 FROM jobs j
			WHERE j.specification = e.specification AND j.name = ? AND j.evaluation = e.id)`
		args = append(args, name)
	}
	what := fmt.Sprintf("find last green lock of %q", specification)
	return r.oneEvaluation(what, query+` ORDER BY id DESC LIMIT 1`, args...)
}

func (r *Record) oneEvaluation(what, query string, args ...any) (*Evaluation, error) {
	for e, err := range rows(r, what, scanEvaluation, query, args...) {
		if err != nil {
			return nil, err
		}
		return &e, nil
	}
	return nil, fmt.Errorf("%s: %w", what, ErrNotFound)
}

func scanEvaluation(row *sql.Rows) (e Evaluation, err error) {
	var lock, verdict string
	var started, finished int64
	err = row.Scan(&e.ID, &e.Specification, &e.LockDigest, &lock, &e.Status, &verdict, &started, &finished)
	e.Lock, e.Verdict = raw(lock), raw(verdict)
	e.Started, e.Finished = unstamp(started), unstamp(finished)
	return e, err
}
