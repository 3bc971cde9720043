package inferior

import (
	"context"
	"fmt"
	"slices"

	"github.com/genenetwork/guixci/inferior/sexp"
)

func (e *evaluation) enumerate(ctx context.Context, s *Session) error {
	if len(e.Systems) == 0 {
		v, err := s.Eval(ctx, sexp.L(sexp.Symbol("%current-system")))
		if err != nil {
			return err
		}
		system, _ := sexp.Text(v)
		e.Systems = []string{system}
	}
	reply, err := s.Eval(ctx, sexp.L(sexp.Symbol("guixci/enumerate"), sexp.Quote(e.request())))
	if err != nil {
		return err
	}
	entries, err := decodeEntries(reply)
	if err != nil {
		return err
	}
	if e.entries != nil && !slices.Equal(entries, e.entries) {
		return fmt.Errorf("a second session lists %d packages that are not the %d that the first listed", len(entries), len(e.entries))
	}
	e.entries = entries
	e.Logger.Debug("packages listed", "count", len(entries), "channels", e.Channels, "modes", e.Modes)
	return nil
}

// An entry is what is known of something before it is lowered.
type entry struct {
	stem, suffix  string // what the name of the job is made of
	systemless    bool   // the name does not tell the system
	distinct      string // what tells it from others of that name; empty for the first of them
	name, version string
	location      Location
}

// jobName is the name of the job for a system; distinct is what to put after the
// name of the package.
func (p *entry) jobName(system, distinct string) string {
	if p.systemless {
		return p.stem + distinct
	}
	return p.stem + distinct + "." + system + p.suffix
}

func decodeEntries(reply sexp.Value) ([]entry, error) {
	items, ok := sexp.Items(reply)
	if !ok {
		return nil, fmt.Errorf("list of packages is %.80q", reply)
	}
	entries := make([]entry, len(items))
	for i, item := range items {
		fields, _ := sexp.Items(item)
		if len(fields) != 8 {
			return nil, fmt.Errorf("identity of a package is %.80q", item)
		}
		p := &entries[i]
		p.distinct, _ = sexp.Text(fields[0])
		p.stem, _ = sexp.Text(fields[1])
		p.suffix, _ = sexp.Text(fields[2])
		p.systemless = !sexp.True(fields[2])
		p.name, _ = sexp.Text(fields[3])
		p.version, _ = sexp.Text(fields[4])
		p.location.File, _ = sexp.Text(fields[5])
		p.location.Line = integer(fields[6])
		p.location.Column = integer(fields[7])
	}
	return entries, nil
}

func integer(v sexp.Value) int {
	n, _ := v.(sexp.Int)
	return int(n)
}
