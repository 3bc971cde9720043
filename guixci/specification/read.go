package specification

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/inferior/sexp"
)

// maxFile limits the bytes of a file with specifications.
const maxFile = 4 << 20

// Load reads a file of specifications, in Scheme or JSON. If it is a program, guix runs it; nil
// means the zero [channel.Evaluator]. Errors are those of [Read], and
// *[channel.EvaluationError] for a program that comes to nothing.
func Load(ctx context.Context, name string, guix *channel.Evaluator) ([]Specification, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	specs, err := Read(name, f)
	var program *channel.NotDataError
	if !errors.As(err, &program) {
		return specs, err
	}
	if guix == nil {
		guix = &channel.Evaluator{}
	}
	return evaluate(ctx, guix, name)
}

// Read reads specifications that are plain data: Scheme or, if it begins with a
// bracket or a brace, JSON. The name is used in errors. They are
// *[channel.NotDataError] for a program, *[sexp.SyntaxError] for what cannot be read and
// *[Error] for what a specification cannot be; all name file, line and column.
//
// In Scheme it understands list, cons, cons*, append, quoted data, specification with
// its fields and inherit, build-output, email, mastodon and what
// [channel.ReadList] does, and skips use-modules.
func Read(name string, r io.Reader) ([]Specification, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read specifications %q: %w", name, err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("read specifications %q: larger than %d bytes", name, maxFile)
	}
	if start := bytes.TrimSpace(text); bytes.HasPrefix(start, []byte("[")) || bytes.HasPrefix(start, []byte("{")) {
		return readJSON(name, text)
	}
	reader := sexp.NewReader(bytes.NewReader(text))
	reader.File, reader.MaxDepth = name, 100
	found, err := readFile(name, reader)
	if err != nil {
		return nil, err
	}
	return checked(name, found)
}

// readFile returns the value of the last expression of a file.
func readFile(name string, reader *sexp.Reader) ([]located, error) {
	l := literal{file: name}
	var last sexp.Value
	at := sexp.Pos{Line: 1, Column: 1}
	for {
		form, pos, err := reader.NextAt()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if _, ok := sexp.Tagged(form, "use-modules"); ok {
			continue
		}
		if last != nil { // to see what that is for, it would have to be run
			return nil, channel.NotData(name, last, at)
		}
		last, at = form, pos
	}
	if last == nil {
		return nil, l.fail(at, "the file does not end in a list of specifications")
	}
	return l.specifications(last, at)
}

// A place is somewhere in a file.
type place struct {
	file string
	pos  sexp.Pos
}

// located is a specification and where it and its fields are written.
type located struct {
	Specification
	at     place
	fields map[string]place
}

// where is the place of a field, or of the whole.
func (l *located) where(field string) place {
	if p, ok := l.fields[field]; ok {
		return p
	}
	return l.at
}

// checked returns the specifications of a file if nothing is wrong with them.
func checked(name string, found []located) ([]Specification, error) {
	specs := make([]Specification, len(found))
	seen := map[string]bool{}
	for i, l := range found {
		err := l.Check()
		if err == nil && seen[l.Name] {
			err = l.Wrong("name", "there is another one of that name before it")
		}
		var wrong *Error
		if errors.As(err, &wrong) {
			p := l.where(wrong.Field)
			wrong.File, wrong.Pos = p.file, p.pos
			return nil, wrong
		}
		seen[l.Name] = true
		specs[i] = l.Specification
	}
	return specs, nil
}
