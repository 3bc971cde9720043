package record

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"iter"
	"time"
)

// rows yields what scan makes of each row of a query. The connection is given back when
// the loop ends, early or not; an error is the last thing yielded.
func rows[T any](r *Record, what string, scan func(*sql.Rows) (T, error), query string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		found, err := r.db.Query(query, args...)
		if err != nil {
			yield(zero, spaceError(r.dir, fmt.Errorf("%s: %w", what, err)))
			return
		}
		defer found.Close()
		for found.Next() {
			value, err := scan(found)
			if err != nil {
				yield(zero, fmt.Errorf("%s: %w", what, err))
				return
			}
			if !yield(value, nil) {
				return
			}
		}
		if err := found.Err(); err != nil {
			yield(zero, fmt.Errorf("%s: %w", what, err))
		}
	}
}

// collect gathers a sequence, stopping at its error.
func collect[T any](seq iter.Seq2[T, error]) (all []T, err error) {
	for value, err := range seq {
		if err != nil {
			return nil, err
		}
		all = append(all, value)
	}
	return all, nil
}

// stamp is t as the tables hold it.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func unstamp(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func orNow(t time.Time) time.Time {
	if t.IsZero() {
		return time.Now()
	}
	return t
}

func raw(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return json.RawMessage(text)
}
