package record

import (
	"database/sql"
	"encoding/json"
	"errors"
	"iter"
)

// A Job is one thing an evaluation wants to exist: a package on a system, most often.
// It is known again in later evaluations by its name and system, so that these
// should be unique within one; two jobs with the same ones have one weather.
// In its JSON form the statuses and weathers are Cuirass's numbers.
type Job struct {
	ID         int64           `json:"id"`
	Evaluation int64           `json:"evaluation"`
	Name       string          `json:"name"`
	System     string          `json:"system"`
	Derivation string          `json:"derivation,omitempty"` // empty for a job that could not be lowered
	Error      string          `json:"error,omitempty"`      // why not
	Metadata   json.RawMessage `json:"metadata,omitempty"`   // version, location and so on; the caller's shape
	Status     Status          `json:"status"`               // its build's; Failed for a job that could not be lowered
	Weather    Weather         `json:"weather"`
	Build      int64           `json:"build,omitempty"`   // number of its build; 0 for none yet
	Cause      string          `json:"cause,omitempty"`   // of its build, finer than Status
	Culprit    string          `json:"culprit,omitempty"` // derivation of the dependency that failed
	Log        string          `json:"log,omitempty"`     // file name of its build's log
}

// AddJobs records jobs of an evaluation, in one transaction. It takes Name, System,
// Derivation, Error and Metadata; the rest follows from the builds.
func (r *Record) AddJobs(evaluation int64, jobs ...Job) error {
	return r.write("record jobs", func(tx *sql.Tx) error {
		var specification string
		err := tx.QueryRow(`SELECT specification FROM evaluations WHERE id = ?`, evaluation).Scan(&specification)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		} else if err != nil {
			return err
		}
		insert, err := tx.Prepare(`INSERT INTO jobs (evaluation, specification, name, system, derivation, error, metadata, status, weather)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`)
		if err != nil {
			return err
		}
		defer insert.Close()
		for _, j := range jobs {
			if err := addJob(tx, insert, evaluation, specification, j); err != nil {
				return err
			}
		}
		return nil
	})
}

func addJob(tx *sql.Tx, insert *sql.Stmt, evaluation int64, specification string, j Job) error {
	status, now := Scheduled, WeatherUnknown
	if j.Derivation == "" {
		status = Failed
		before, err := statusBefore(tx, pastJob{evaluation: evaluation, specification: specification, name: j.Name, system: j.System})
		if err != nil {
			return err
		}
		now = weather(status, before)
	}
	_, err := insert.Exec(evaluation, specification, j.Name, j.System, j.Derivation, j.Error, string(j.Metadata), status, now)
	return err
}

// A pastJob is what must be known of a job to find its predecessor.
type pastJob struct {
	id, evaluation              int64
	specification, name, system string
}

// statusBefore is the status of the same job in the last earlier evaluation
// that says something about it; Scheduled if there is none.
func statusBefore(tx *sql.Tx, j pastJob) (Status, error) {
	status := Scheduled
	err := tx.QueryRow(`SELECT status FROM jobs WHERE specification = ? AND name = ? AND system = ? AND evaluation < ?
		AND status >= 0 AND status <> ? ORDER BY evaluation DESC, id DESC LIMIT 1`,
		j.specification, j.name, j.system, j.evaluation, Cancelled).Scan(&status)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return status, err
}

// settleJobs gives the pending jobs of a derivation the status of its build.
func settleJobs(tx *sql.Tx, derivation string, build int64, status Status) error {
	pending, err := pendingJobs(tx, derivation)
	if err != nil {
		return err
	}
	for _, j := range pending {
		before := Scheduled
		if status.Final() {
			if before, err = statusBefore(tx, j); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(`UPDATE jobs SET status = ?, weather = ?, build = ? WHERE id = ?`,
			status, weather(status, before), build, j.id); err != nil {
			return err
		}
	}
	return nil
}

func pendingJobs(tx *sql.Tx, derivation string) (jobs []pastJob, err error) {
	found, err := tx.Query(`SELECT id, evaluation, specification, name, system FROM jobs WHERE derivation = ? AND status < 0`, derivation)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		var j pastJob
		if err := found.Scan(&j.id, &j.evaluation, &j.specification, &j.name, &j.system); err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, found.Err()
}

const jobQuery = `SELECT j.id, j.evaluation, j.name, j.system, j.derivation, j.error, j.metadata, j.status, j.weather,
	coalesce(j.build, 0), coalesce(b.cause, ''), coalesce(b.culprit, ''), coalesce(b.log, '')
	FROM jobs j LEFT JOIN builds b ON b.id = j.build `

// Jobs yields the jobs of an evaluation, in the order they were added.
// An error ends the sequence.
func (r *Record) Jobs(evaluation int64) iter.Seq2[Job, error] {
	return rows(r, "read jobs", scanJob, jobQuery+`WHERE j.evaluation = ? ORDER BY j.id`, evaluation)
}

// History yields what became of one job of a specification, newest evaluation first.
// An error ends the sequence.
func (r *Record) History(specification, name, system string) iter.Seq2[Job, error] {
	return rows(r, "read history of job", scanJob, jobQuery+`WHERE j.specification = ? AND j.name = ? AND j.system = ?
		ORDER BY j.evaluation DESC, j.id DESC`, specification, name, system)
}

// Pending yields the jobs that are neither finished nor aborted, oldest first:
// what a new process has to take up again. An error ends the sequence.
func (r *Record) Pending() iter.Seq2[Job, error] {
	return rows(r, "read pending jobs", scanJob, jobQuery+`WHERE j.status < 0 ORDER BY j.id`)
}

func scanJob(row *sql.Rows) (j Job, err error) {
	var metadata string
	err = row.Scan(&j.ID, &j.Evaluation, &j.Name, &j.System, &j.Derivation, &j.Error, &metadata,
		&j.Status, &j.Weather, &j.Build, &j.Cause, &j.Culprit, &j.Log)
	j.Metadata = raw(metadata)
	return j, err
}

// A Turn says when something last went from good to bad or back.
type Turn struct {
	Bad bool // as it is now
	// Since is the first evaluation since when it has been as it is now; 0 if nothing is known.
	Since int64
	// Before is the last evaluation before that, in which it was the other way; 0 if
	// it never was. What made the difference lies between the Locks of the two.
	Before int64
}

// see takes in what an evaluation says, the newest first, and reports whether that was the last
// that matters.
func (t *Turn) see(evaluation int64, bad bool) (done bool) {
	switch {
	case t.Since == 0:
		t.Since, t.Bad = evaluation, bad
	case t.Bad == bad:
		t.Since = evaluation
	default:
		t.Before = evaluation
		return true
	}
	return false
}

// JobTurn tells since when a job of a specification is as it is.
// Pending builds, cancelled ones, and those that failed by the machinery's fault say nothing and are passed over.
func (r *Record) JobTurn(specification, name, system string) (t Turn, err error) {
	for j, err := range r.History(specification, name, system) {
		if err != nil {
			return Turn{}, err
		}
		if j.Status.Decided() && t.see(j.Evaluation, j.Status != Succeeded) {
			break
		}
	}
	return t, nil
}

// PullTurn tells since when the verdict on a specification's locks is as it is.
// Aborted evaluations are passed over, unless they have a verdict: they got as far.
func (r *Record) PullTurn(specification string) (t Turn, err error) {
	for e, err := range r.Evaluations(specification) {
		if err != nil {
			return Turn{}, err
		}
		judged := e.Status == EvaluationSucceeded || e.Status == EvaluationFailed || len(e.Verdict) > 0
		if judged && t.see(e.ID, e.Status == EvaluationFailed) {
			break
		}
	}
	return t, nil
}
