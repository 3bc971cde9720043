package record

import (
	"database/sql"
	"encoding/json"
	"iter"
	"time"
)

// An Event is something that happened, for whoever follows: "build", "switch", "green".
type Event struct {
	ID         int64 // rising; ask for what comes after the last one seen
	Time       time.Time
	Kind       string
	Evaluation int64           // 0 if it concerns none
	Data       json.RawMessage // the caller's shape
}

// AddEvent records an event and returns its number. A zero Time means now.
func (r *Record) AddEvent(e Event) (id int64, err error) {
	err = r.write("record event", func(tx *sql.Tx) error {
		res, err := tx.Exec(`INSERT INTO events (time, kind, evaluation, data) VALUES (?, ?, ?, ?)`,
			stamp(orNow(e.Time)), e.Kind, e.Evaluation, string(e.Data))
		if err != nil {
			return err
		}
		id, err = res.LastInsertId()
		return err
	})
	return id, err
}

// Events yields the events after the one numbered after (0 for all),
// oldest first. An error ends the sequence.
func (r *Record) Events(after int64) iter.Seq2[Event, error] {
	return rows(r, "read events", scanEvent,
		`SELECT id, time, kind, evaluation, data FROM events WHERE id > ? ORDER BY id`, after)
}

func scanEvent(row *sql.Rows) (e Event, err error) {
	var time int64
	var data string
	err = row.Scan(&e.ID, &time, &e.Kind, &e.Evaluation, &data)
	e.Time, e.Data = unstamp(time), raw(data)
	return e, err
}
