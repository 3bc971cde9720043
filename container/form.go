package container

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A FileError is a mistake in a deployment file.
type FileError struct {
	File string
	Pos  sexp.Pos
	Msg  string
}

func (e *FileError) Error() string { return fmt.Sprintf("%s:%v: %s", e.File, e.Pos, e.Msg) }

// A form is a list that starts with a symbol, (KEY ARGUMENT…), where it stands.
type form struct {
	file string
	pos  sexp.Pos
	key  string
	args []sexp.Value
	at   []sexp.Pos // of the arguments
}

// newForm reads v, which stands at pos, as a form.
func newForm(file string, v sexp.Value, pos sexp.Pos) (form, error) {
	list, ok := v.(*sexp.List)
	if !ok || list.Tail != nil || len(list.Items) == 0 {
		return form{}, &FileError{file, pos, fmt.Sprintf("%.40s is not of the form (NAME VALUE …)", v)}
	}
	key, ok := list.Items[0].(sexp.Symbol)
	if !ok {
		return form{}, &FileError{file, pos, fmt.Sprintf("%.40s should be a name", list.Items[0])}
	}
	return form{file, pos, string(key), list.Items[1:], list.At[1:]}, nil
}

func (f form) errorf(format string, args ...any) error {
	return &FileError{f.file, f.pos, f.key + ": " + fmt.Sprintf(format, args...)}
}

// place returns where the form stands.
func (f form) place() string { return fmt.Sprintf("%s:%v", f.file, f.pos) }

// placeOf returns where argument i stands.
func (f form) placeOf(i int) string { return fmt.Sprintf("%s:%v", f.file, f.at[i]) }

// errorAt is about argument i.
func (f form) errorAt(i int, format string, args ...any) error {
	return &FileError{f.file, f.at[i], f.key + ": " + fmt.Sprintf(format, args...)}
}

// A table says how to read the fields of a form. Each may be there once,
// except those whose name ends with "…".
type table map[string]func(form) error

// fields reads the arguments from index first on as fields.
func (f form) fields(first int, t table) error {
	seen := make(map[string]bool)
	for i := first; i < len(f.args); i++ {
		field, err := newForm(f.file, f.args[i], f.at[i])
		if err != nil {
			return err
		}
		read, many := t[field.key+"…"], true
		if read == nil {
			read, many = t[field.key], false
		}
		if read == nil {
			return &FileError{f.file, field.pos, fmt.Sprintf("%s has no field %q; it has %s", f.key, field.key, t.names())}
		}
		if seen[field.key] && !many {
			return &FileError{f.file, field.pos, fmt.Sprintf("field %q is there twice", field.key)}
		}
		seen[field.key] = true
		if err := read(field); err != nil {
			return err
		}
	}
	return nil
}

func (t table) names() string {
	var names []string
	for name := range t {
		names = append(names, strings.TrimSuffix(name, "…"))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// text returns argument i as text.
func (f form) text(i int) (string, error) {
	if i >= len(f.args) {
		return "", f.errorf("a string is missing")
	}
	s, ok := f.args[i].(sexp.String)
	if !ok {
		return "", f.errorAt(i, "%.40s is not a string", f.args[i])
	}
	return string(s), nil
}

// only returns the one argument as text.
func (f form) only() (string, error) {
	if len(f.args) != 1 {
		return "", f.errorf("wants one value, has %d", len(f.args))
	}
	return f.text(0)
}

// The readers of fields with one value of a kind.

func toText(to *string) func(form) error {
	return func(f form) (err error) { *to, err = f.only(); return err }
}

func toTexts(to *[]string) func(form) error {
	return func(f form) error {
		for i := range f.args {
			text, err := f.text(i)
			if err != nil {
				return err
			}
			*to = append(*to, text)
		}
		return nil
	}
}

func toInt(to *int) func(form) error {
	return func(f form) error {
		if len(f.args) != 1 {
			return f.errorf("wants one value, has %d", len(f.args))
		}
		n, ok := f.args[0].(sexp.Int)
		if !ok || n < 0 {
			return f.errorAt(0, "%.40s is not a natural number", f.args[0])
		}
		*to = int(n)
		return nil
	}
}

func toBool(to *bool) func(form) error {
	return func(f form) error {
		if len(f.args) != 1 {
			return f.errorf("wants one value, has %d", len(f.args))
		}
		b, ok := f.args[0].(sexp.Bool)
		if !ok {
			return f.errorAt(0, "%.40s is neither #t nor #f", f.args[0])
		}
		*to = bool(b)
		return nil
	}
}

func toDuration(to *time.Duration) func(form) error {
	return func(f form) error {
		if len(f.args) != 1 {
			return f.errorf("wants one value, has %d", len(f.args))
		}
		text, _ := f.args[0].(sexp.String)
		var err error
		if *to, err = time.ParseDuration(string(text)); err != nil || *to < 0 {
			return f.errorAt(0, "%.40s is not a time such as \"90s\" or \"1m30s\"", f.args[0])
		}
		return nil
	}
}

// toSize reads "64G" and the like, in powers of 1024. The unit must be there: nobody means bytes.
func toSize(to *int64) func(form) error {
	return func(f form) error {
		if len(f.args) != 1 {
			return f.errorf("wants one value, has %d", len(f.args))
		}
		value, _ := f.args[0].(sexp.String)
		text := string(value)
		digits := strings.TrimRight(text, "KMGT")
		n, err := strconv.ParseInt(digits, 10, 64)
		shift := map[string]int{"K": 10, "M": 20, "G": 30, "T": 40}
		by, known := shift[text[len(digits):]]
		if err != nil || !known || n < 0 || n > 1<<62>>by {
			return f.errorAt(0, "%.40s is not a size such as \"512M\" or \"64G\"", f.args[0])
		}
		*to = n << by
		return nil
	}
}
