package inferior

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// open returns a session that has listed the packages.
func (e *evaluation) open(ctx context.Context) (_ *Session, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.EnumerateTimeout,
		fmt.Errorf("packages not listed within %v", e.EnumerateTimeout))
	defer cancel()
	s, err := Start(ctx, e.Session)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for _, program := range e.programs() {
		if err := s.load(ctx, program); err != nil {
			return nil, err
		}
	}
	return s, e.enumerate(ctx, s)
}

// load evaluates each datum of a program.
func (s *Session) load(ctx context.Context, program string) error {
	r := sexp.NewReader(strings.NewReader(program))
	for {
		form, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := s.Eval(ctx, form); err != nil {
			return err
		}
	}
}

// enumerate makes the session list the packages. The first session says what there is
// to do; the others must agree, since numbers are all that is said of packages later.
func (e *evaluation) enumerate(ctx context.Context, s *Session) error {
	if e.entries == nil && len(e.Systems) == 0 {
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
	if e.entries == nil {
		e.entries = entries
	} else if !slices.Equal(entries, e.entries) {
		return fmt.Errorf("a second session lists %d packages that are not the %d that the first listed", len(entries), len(e.entries))
	}
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
