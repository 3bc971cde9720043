package specification

import (
	"bytes"
	"context"
	_ "embed"
	"errors"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/inferior/sexp"
)

//go:embed evaluate.scm
var program []byte

// evaluate has a Guix say what a file that is a program comes to.
func evaluate(ctx context.Context, guix *channel.Evaluator, name string) ([]Specification, error) {
	out, said, err := guix.Run(ctx, program, name)
	if err != nil {
		return nil, err
	}
	failed := &channel.EvaluationError{File: name, Reason: "its last value is not a list of specifications", Output: said}
	v, err := sexp.NewReader(bytes.NewReader(out)).Next()
	specs, ok := sexp.Tagged(v, "specifications")
	if err != nil || !ok {
		return nil, failed
	}
	found := make([]located, len(specs))
	for i, v := range specs {
		if found[i], err = told(name, v); err != nil {
			return nil, err
		}
	}
	return checked(name, found)
}

// told reads (PLACE (NAME PLACE EXPRESSION) …). What is wrong with an expression is
// wrong where the file has it.
func told(name string, v sexp.Value) (located, error) {
	items, _ := sexp.Items(v)
	if len(items) == 0 {
		return located{}, errors.New("guix wrote no specification")
	}
	s := located{Specification: defaults(), at: placeOf(name, items[0]), fields: map[string]place{}}
	for _, item := range items[1:] {
		f, _ := sexp.Items(item)
		if len(f) != 3 {
			return s, errors.New("guix wrote a field without value")
		}
		field, _ := f[0].(sexp.Symbol)
		at := placeOf(name, f[1])
		s.fields[string(field)] = at
		if err := (literal{at.file}).set(&s.Specification, field, argument{f[2], at.pos}); err != nil {
			return s, moved(err, at)
		}
	}
	return s, nil
}

// placeOf reads (FILE LINE COLUMN).
func placeOf(name string, v sexp.Value) place {
	items, _ := sexp.Items(v)
	if len(items) != 3 {
		return place{file: name}
	}
	p := place{file: name}
	line, _ := items[1].(sexp.Int)
	column, _ := items[2].(sexp.Int)
	p.pos.Line, p.pos.Column = int(line), int(column)
	if file, ok := items[0].(sexp.String); ok {
		p.file = string(file)
	}
	return p
}

// moved is an error about what guix wrote at the place it comes from.
func moved(err error, at place) error {
	var syntax *sexp.SyntaxError
	var program *channel.NotDataError
	switch {
	case errors.As(err, &syntax):
		return &sexp.SyntaxError{File: at.file, Pos: at.pos, Msg: syntax.Msg}
	case errors.As(err, &program):
		return &sexp.SyntaxError{File: at.file, Pos: at.pos, Msg: program.Form + " is no plain data"}
	}
	return err
}
