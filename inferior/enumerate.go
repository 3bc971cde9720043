package inferior

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A listing is a session that has listed the packages.
type listing struct {
	*Session
	numbers []int // by which it knows the entries
}

// open returns a session that has listed the packages. One that is cautious
// adds everything to the store, known or not.
func (e *evaluation) open(ctx context.Context, cautious bool) (_ *listing, err error) {
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
	if _, err := s.Eval(ctx, sexp.L(sexp.Symbol("set!"), sexp.Symbol("guixci/cautious?"), sexp.Bool(cautious))); err != nil {
		return nil, err
	}
	numbers, err := e.enumerate(ctx, s)
	return &listing{s, numbers}, err
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

// enumerate makes the session list the packages, and returns the numbers by which it
// knows them. The first session says what there is to do; the others must agree.
func (e *evaluation) enumerate(ctx context.Context, s *Session) (numbers []int, err error) {
	if e.entries == nil && len(e.Systems) == 0 {
		v, err := s.Eval(ctx, sexp.L(sexp.Symbol("%current-system")))
		if err != nil {
			return nil, err
		}
		system, _ := sexp.Text(v)
		e.Systems = []string{system}
	}
	reply, err := s.Eval(ctx, sexp.L(sexp.Symbol("guixci/enumerate"), sexp.Quote(e.request())))
	if err != nil {
		return nil, err
	}
	entries, numbers, err := decodeEntries(reply)
	if err != nil {
		return nil, err
	}
	if e.entries == nil {
		e.entries = entries
	} else if !slices.Equal(entries, e.entries) {
		return nil, fmt.Errorf("a second session lists %d packages that are not the %d that the first listed", len(entries), len(e.entries))
	}
	e.Logger.Debug("packages listed", "count", len(entries), "channels", e.Channels, "modes", e.Modes)
	return numbers, nil
}

// An entry is what is known of something before it is lowered.
type entry struct {
	stem, suffix  string // what the name of the job is made of
	systemless    bool   // the name does not tell the system
	distinct      string // what tells it from others of that name; empty for the first of them
	name, version string
	location      Location
}

// compare orders entries by file, so that neighbours share what they load,
// then by what tells them apart.
func (p *entry) compare(q *entry) int {
	return cmp.Or(
		strings.Compare(p.location.File, q.location.File),
		cmp.Compare(p.location.Line, q.location.Line),
		cmp.Compare(p.location.Column, q.location.Column),
		strings.Compare(p.name, q.name),
		strings.Compare(p.version, q.version),
		strings.Compare(p.suffix, q.suffix))
}

// jobName is the name of the job for a system; distinct is what to put after the
// name of the package.
func (p *entry) jobName(system, distinct string) string {
	if p.systemless {
		return p.stem + distinct
	}
	return p.stem + distinct + "." + system + p.suffix
}

// decodeEntries reads the number of entries that are packages and the rows of all
// entries. It returns the entries with the packages sorted, since a session finds them in any
// order, and the places in which they were found.
func decodeEntries(reply sexp.Value) (sorted []entry, places []int, err error) {
	rows, ok := sexp.Items(reply)
	if !ok || len(rows) == 0 {
		return nil, nil, fmt.Errorf("list of packages is %.80q", reply)
	}
	packages := integer(rows[0])
	rows = rows[1:]
	if packages < 0 || packages > len(rows) {
		return nil, nil, fmt.Errorf("list of packages has %d rows for %d packages", len(rows), packages)
	}
	entries := make([]entry, len(rows))
	file := ""
	for i, row := range rows {
		places = append(places, i)
		if err := entries[i].decode(row, file); err != nil {
			return nil, nil, err
		}
		file = entries[i].location.File
	}
	slices.SortStableFunc(places[:packages], func(i, j int) int { return entries[i].compare(&entries[j]) })
	sorted = make([]entry, len(entries))
	for i, place := range places {
		sorted[i] = entries[place]
	}
	return sorted, places, nil
}

// decode reads a row (NAME VERSION LINE COLUMN FILE DISTINCTION STEM SUFFIX), without
// FILE and what follows if it is that of the row before, and without DISTINCTION and
// what follows if these are the usual ones.
func (p *entry) decode(row sexp.Value, file string) error {
	fields, _ := sexp.Items(row)
	if n := len(fields); n != 4 && n != 5 && n != 8 {
		return fmt.Errorf("identity of a package is %.80q", row)
	}
	p.name, _ = sexp.Text(fields[0])
	p.version, _ = sexp.Text(fields[1])
	p.location = Location{File: file, Line: integer(fields[2]), Column: integer(fields[3])}
	p.stem = p.name
	if len(fields) > 4 {
		p.location.File, _ = sexp.Text(fields[4])
	}
	if len(fields) > 5 {
		p.distinct, _ = sexp.Text(fields[5])
		p.stem, _ = sexp.Text(fields[6])
		p.suffix, _ = sexp.Text(fields[7])
		p.systemless = !sexp.True(fields[7])
	}
	return nil
}

func integer(v sexp.Value) int {
	n, _ := v.(sexp.Int)
	return int(n)
}
