package store

import (
	"bytes"
	"errors"
	"fmt"
)

// An atermReader takes apart the text of a derivation: strings, lists and
// tuples. The first error sticks; offset tells where.
type atermReader struct {
	text   []byte
	offset int
	err    error
	buf    []byte // of the string read last, if it had escapes
}

func (r *atermReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("offset %d: %s", r.offset, fmt.Sprintf(format, args...))
	}
}

// errShort is when the text ends too early: there may be more to come.
var errShort = errors.New("unexpected end")

func (r *atermReader) short() {
	if r.err == nil {
		r.err = errShort
	}
}

// literal takes exactly s.
func (r *atermReader) literal(s string) {
	if r.err != nil {
		return
	}
	rest := r.text[r.offset:]
	if n := min(len(s), len(rest)); string(rest[:n]) != s[:n] {
		r.fail("want %q", s)
		return
	} else if n < len(s) {
		r.short()
		return
	}
	r.offset += len(s)
}

// list takes [e,e,…], calling element to take each.
func (r *atermReader) list(element func()) {
	r.literal("[")
	if r.peek() == ']' {
		r.literal("]")
		return
	}
	for r.err == nil {
		element()
		if r.peek() == ']' {
			r.literal("]")
			return
		}
		r.literal(",")
	}
}

// peek returns the next byte, zero if there is none.
func (r *atermReader) peek() byte {
	if r.err != nil {
		return 0
	}
	if r.offset == len(r.text) {
		r.short()
		return 0
	}
	return r.text[r.offset]
}

// bytes takes a string. The result is valid until the next one is taken.
func (r *atermReader) bytes() []byte {
	r.literal(`"`)
	if r.err != nil {
		return nil
	}
	rest := r.text[r.offset:]
	r.buf = r.buf[:0]
	for {
		i := bytes.IndexAny(rest, "\"\\\n\r\t")
		if i < 0 {
			r.short()
			return nil
		}
		switch {
		case rest[i] == '"':
			r.offset = len(r.text) - len(rest) + i + 1
			if len(r.buf) == 0 {
				return rest[:i]
			}
			r.buf = append(r.buf, rest[:i]...)
			return r.buf
		case rest[i] != '\\':
			r.offset = len(r.text) - len(rest) + i
			r.fail("%q in a string is not escaped", rest[i])
			return nil
		case i+1 == len(rest):
			r.short()
			return nil
		}
		c, ok := unescape(rest[i+1])
		if !ok {
			r.offset = len(r.text) - len(rest) + i
			r.fail("unknown escape %q", rest[i:i+2])
			return nil
		}
		r.buf = append(append(r.buf, rest[:i]...), c)
		rest = rest[i+2:]
	}
}

func (r *atermReader) string() string { return string(r.bytes()) }

func (r *atermReader) strings() (all []string) {
	r.list(func() { all = append(all, r.string()) })
	return all
}

func unescape(c byte) (byte, bool) {
	switch c {
	case '"', '\\':
		return c, true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	}
	return 0, false
}

// appendString appends s in quotes, escaped as Guix does it.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// appendList appends [e,e,…].
func appendList[T any](b []byte, all []T, element func([]byte, T) []byte) []byte {
	b = append(b, '[')
	for i, e := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = element(b, e)
	}
	return append(b, ']')
}

// appendTuple appends ("s","s",…).
func appendTuple(b []byte, all ...string) []byte {
	b = append(b, '(')
	for i, s := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ')')
}
