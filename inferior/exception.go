package inferior

import (
	"fmt"
	"strings"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// An Exception is a Scheme exception, thrown by code that an inferior evaluated.
type Exception struct {
	// Key is what was thrown: unbound-variable, wrong-type-arg, misc-error, …
	// For a SRFI-35 condition it is the name of its type, or %exception.
	Key string
	// Args are the arguments thrown with it; objects that cannot be
	// written are [sexp.Opaque].
	Args []sexp.Value
	// Stack has the frames, innermost first. It is empty for protocol 0.0.
	Stack []Frame
}

// A Frame is one procedure call that was going on.
type Frame struct {
	Procedure string // its name; empty if it has none
	File      string // empty if unknown
	Line      int    // counts from 1; 0 if unknown
	Column    int    // counts from 0, as Guile does
}

// Error returns "KEY: message".
func (e *Exception) Error() string {
	m := e.Message()
	if m == "" {
		return e.Key
	}
	return e.Key + ": " + m
}

// Message returns what Guile would say: the thrown format with its arguments
// filled in where the exception has that usual shape, (SUBR FORMAT ARGS …), the
// message of a condition if it has one, else the arguments as they are written.
func (e *Exception) Message() string {
	if len(e.Args) >= 3 {
		if format, ok := e.Args[1].(sexp.String); ok {
			args, _ := sexp.Items(e.Args[2])
			return fill(string(format), args)
		}
	}
	var words []string
	for _, a := range e.Args {
		if printed, ok := a.(sexp.Opaque); ok {
			if message, ok := conditionMessage(string(printed)); ok {
				return message
			}
		}
		words = append(words, displayed(a))
	}
	return strings.Join(words, " ")
}

// Where returns the innermost frame whose file is known and is not one of
// Guile's own, which only say how exceptions are raised.
func (e *Exception) Where() (Frame, bool) {
	for _, f := range e.Stack {
		if f.File != "" && f.Line > 0 && !partOfGuile(f.File) {
			return f, true
		}
	}
	return Frame{}, false
}

func partOfGuile(file string) bool {
	for _, directory := range []string{"ice-9/", "srfi/", "rnrs/", "system/", "language/", "oop/"} {
		if strings.HasPrefix(file, directory) {
			return true
		}
	}
	return file == "guix/repl.scm"
}

// fill does what Guile's simple-format does: ~A displays, ~S writes.
func fill(format string, args []sexp.Value) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '~' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch format[i] {
		case 'A', 'a', 'S', 's':
			if len(args) == 0 {
				b.WriteByte('~')
				b.WriteByte(format[i])
				break
			}
			if format[i]|0x20 == 'a' {
				b.WriteString(displayed(args[0]))
			} else {
				b.WriteString(args[0].String())
			}
			args = args[1:]
		case '%':
			b.WriteByte('\n')
		default:
			b.WriteByte(format[i])
		}
	}
	return b.String()
}

// displayed is what Scheme's display prints: no quotes around strings.
func displayed(v sexp.Value) string {
	switch v := v.(type) {
	case sexp.String:
		return string(v)
	case sexp.Char:
		return string(v)
	}
	return v.String()
}

// conditionMessage reads the message out of a printed condition, such as
// #<&formatted-message format: "~a: patch not found\n" arguments: ("x.patch")>.
func conditionMessage(printed string) (message string, ok bool) {
	for _, field := range []string{" format: ", " message: "} {
		_, rest, found := strings.Cut(printed, field)
		if !found {
			continue
		}
		format, err := sexp.NewReader(strings.NewReader(rest)).Next()
		if text, ok := format.(sexp.String); ok && err == nil {
			var args []sexp.Value
			for _, field := range []string{" arguments: ", " irritants: "} {
				if _, rest, found := strings.Cut(printed, field); found {
					list, _ := sexp.NewReader(strings.NewReader(rest)).Next()
					args, _ = sexp.Items(list)
					break
				}
			}
			return strings.TrimSpace(fill(string(text), args)), true
		}
	}
	return "", false
}

// decodeReply reads (values …) or (exception …).
// An error that is not an *Exception says that the reply is neither.
func decodeReply(reply sexp.Value) (sexp.Value, error) {
	if rest, ok := sexp.Tagged(reply, "values"); ok {
		values := make([]sexp.Value, len(rest))
		for i, r := range rest {
			v, err := decodeValue(r)
			if err != nil {
				return nil, err
			}
			values[i] = v
		}
		if len(values) == 1 {
			return values[0], nil
		}
		return sexp.L(values...), nil
	}
	if rest, ok := sexp.Tagged(reply, "exception"); ok {
		e, err := decodeException(rest)
		if err != nil {
			return nil, err
		}
		return nil, e
	}
	return nil, fmt.Errorf("reply %.80q is neither values nor an exception", reply)
}

// decodeValue reads (value X) or (non-self-quoting ADDRESS "#<…>").
func decodeValue(v sexp.Value) (sexp.Value, error) {
	items, _ := sexp.Items(v)
	switch {
	case len(items) == 2 && items[0] == sexp.Value(sexp.Symbol("value")):
		return items[1], nil
	case len(items) == 3 && items[0] == sexp.Value(sexp.Symbol("non-self-quoting")):
		if text, ok := items[2].(sexp.String); ok {
			return sexp.Opaque(text), nil
		}
	}
	return nil, fmt.Errorf("%.80q is no value of the protocol", v)
}

// decodeException reads what follows the word exception: the shape of
// protocol 0.1.1, ((arguments KEY VALUE …) (stack FRAME …)), or of 0.0, (KEY VALUE …).
func decodeException(rest []sexp.Value) (*Exception, error) {
	var frames []sexp.Value
	thrown := rest
	if len(rest) == 2 {
		arguments, ok := sexp.Tagged(rest[0], "arguments")
		stack, ok2 := sexp.Tagged(rest[1], "stack")
		if ok && ok2 {
			thrown, frames = arguments, stack
		}
	}
	if len(thrown) == 0 {
		return nil, fmt.Errorf("exception without a key")
	}
	e := &Exception{Key: displayed(thrown[0])}
	for _, a := range thrown[1:] {
		v, err := decodeValue(a)
		if err != nil {
			return nil, err
		}
		e.Args = append(e.Args, v)
	}
	for _, f := range frames {
		e.Stack = append(e.Stack, decodeFrame(f))
	}
	return e, nil
}

// decodeFrame reads (PROC (FILE LINE COLUMN)); lines count from 0 there.
func decodeFrame(v sexp.Value) Frame {
	var f Frame
	items, _ := sexp.Items(v)
	if len(items) != 2 {
		return f
	}
	if sexp.True(items[0]) {
		f.Procedure = displayed(items[0])
	}
	if place, _ := sexp.Items(items[1]); len(place) == 3 {
		file, ok := place[0].(sexp.String)
		line, ok2 := place[1].(sexp.Int)
		column, ok3 := place[2].(sexp.Int)
		if ok && ok2 && ok3 {
			f.File, f.Line, f.Column = string(file), int(line)+1, int(column)
		}
	}
	return f
}
