package record

import (
	"database/sql"
	"encoding/json"
	"iter"
)

// A Specification is what is watched and built, under its name.
type Specification struct {
	Name string
	Data json.RawMessage // the caller's shape
}

// PutSpecification records a specification, replacing the one of the same name.
func (r *Record) PutSpecification(s Specification) error {
	return r.write("record specification", func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO specifications (name, data) VALUES (?, ?)
			ON CONFLICT (name) DO UPDATE SET data = excluded.data`, s.Name, string(s.Data))
		return err
	})
}

// Specifications yields the specifications by name. An error ends the sequence.
func (r *Record) Specifications() iter.Seq2[Specification, error] {
	return rows(r, "read specifications", func(row *sql.Rows) (s Specification, err error) {
		var data string
		err = row.Scan(&s.Name, &data)
		s.Data = raw(data)
		return s, err
	}, `SELECT name, data FROM specifications ORDER BY name`)
}
