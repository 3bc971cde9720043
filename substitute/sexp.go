package substitute

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A gsexp is an s-expression of libgcrypt, the form of keys, signatures and
// access-control lists: an atom, any bytes, or a list. They are not the data of
// Scheme programs, though they look alike: "abc", abc, #616263# and 3:abc
// are the same atom.
type gsexp struct {
	atom []byte // of an atom
	list []gsexp
	leaf bool // an atom
}

func atom(b []byte) gsexp           { return gsexp{atom: b, leaf: true} }
func symbol(s string) gsexp         { return atom([]byte(s)) }
func list(elements ...gsexp) gsexp  { return gsexp{list: elements} }
func (x gsexp) is(name string) bool { return x.leaf && string(x.atom) == name }

// head reports whether x is a list that begins with name.
func (x gsexp) head(name string) bool { return len(x.list) > 0 && x.list[0].is(name) }

// find returns the first list that begins with name, depth first, x itself
// included: gcry_sexp_find_token.
func (x gsexp) find(name string) (gsexp, bool) {
	if x.head(name) {
		return x, true
	}
	for _, e := range x.list {
		if found, ok := e.find(name); ok {
			return found, true
		}
	}
	return gsexp{}, false
}

// value returns the bytes in the element (name bytes) of the list x.
func (x gsexp) value(name string) ([]byte, error) {
	for _, e := range x.list {
		if e.head(name) && len(e.list) == 2 && e.list[1].leaf {
			return e.list[1].atom, nil
		}
	}
	return nil, fmt.Errorf("no (%s …)", name)
}

// canonical is the encoding that equal expressions, and only they, share.
func (x gsexp) canonical() string { return string(x.appendCanonical(nil)) }

func (x gsexp) appendCanonical(b []byte) []byte {
	if x.leaf {
		b = strconv.AppendInt(b, int64(len(x.atom)), 10)
		return append(append(b, ':'), x.atom...)
	}
	b = append(b, '(')
	for _, e := range x.list {
		b = e.appendCanonical(b)
	}
	return append(b, ')')
}

// advanced prints x exactly as gcry_sexp_sprint does in the format
// GCRYSEXP_FMT_ADVANCED: raw bytes above 0xa0 can occur in strings.
func (x gsexp) advanced() []byte {
	var p printer
	p.print(x)
	return append(p.out, '\n')
}

type printer struct {
	out    []byte
	indent int
}

func (p *printer) newline() {
	p.out = append(p.out, '\n')
	for range p.indent {
		p.out = append(p.out, ' ')
	}
}

func (p *printer) print(x gsexp) {
	if x.leaf {
		p.out = appendAtom(p.out, x.atom)
		return
	}
	if p.indent > 0 {
		p.newline()
	}
	p.out = append(p.out, '(')
	p.indent++
	for i, e := range x.list {
		p.print(e)
		switch last := i == len(x.list)-1; {
		case e.leaf && !last:
			p.out = append(p.out, ' ')
		case !e.leaf && (last || x.list[i+1].leaf):
			p.newline()
		}
	}
	p.indent--
	p.out = append(p.out, ')')
}

// appendAtom prints an atom as a token if it can be one, as a string if it looks
// like text, else in hexadecimal. A number whose bytes happen to look like text
// is printed as a string too: one signature in five thousand has such a number.
func appendAtom(b, atom []byte) []byte {
	switch {
	case isToken(atom):
		return append(b, atom...)
	case isText(atom):
		return appendQuoted(b, atom)
	}
	b = append(b, '#')
	for _, c := range atom {
		b = append(b, upperHex[c>>4], upperHex[c&0xf])
	}
	return append(b, '#')
}

const upperHex = "0123456789ABCDEF"

func isTokenByte(c byte) bool { return isAlnum(c) || strings.IndexByte("-./_:*+=", c) >= 0 }

func isToken(atom []byte) bool {
	if len(atom) == 0 || '0' <= atom[0] && atom[0] <= '9' {
		return false
	}
	for _, c := range atom {
		if !isTokenByte(c) {
			return false
		}
	}
	return true
}

func isText(atom []byte) bool {
	if len(atom) > 0 && atom[0] >= 0x80 {
		return false
	}
	for _, c := range atom {
		if (c < 0x20 || c >= 0x7f && c <= 0xa0) && strings.IndexByte("\b\t\v\n\f\r", c) < 0 {
			return false
		}
	}
	return true
}

const (
	escapedBytes = "\b\t\v\n\f\r\"'\\"
	escapeNames  = "btvnfr\"'\\"
)

func appendQuoted(b, atom []byte) []byte {
	b = append(b, '"')
	for _, c := range atom {
		if i := strings.IndexByte(escapedBytes, c); i >= 0 {
			b = append(b, '\\', escapeNames[i])
		} else {
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// Limits of what is parsed. Keys and signatures are far below them.
const (
	maxAtom  = 65535 // as in libgcrypt
	maxDepth = 64
)

// parseSexp reads one s-expression, in the canonical or the advanced form, and
// nothing but white space around it.
func parseSexp(text []byte) (gsexp, error) {
	p := parser{in: text}
	x, err := p.expr(0)
	if err == nil {
		p.space()
		if p.pos < len(p.in) {
			err = errors.New("more than one expression")
		}
	}
	if err != nil {
		return gsexp{}, fmt.Errorf("parse s-expression: byte %d: %v", p.pos, err)
	}
	return x, nil
}

type parser struct {
	in  []byte
	pos int
}

var errSexpEnd = errors.New("unexpected end")

func (p *parser) space() {
	for p.pos < len(p.in) && strings.IndexByte(" \t\n\v\f\r", p.in[p.pos]) >= 0 {
		p.pos++
	}
}

func (p *parser) expr(depth int) (gsexp, error) {
	p.space()
	if p.pos == len(p.in) {
		return gsexp{}, errSexpEnd
	}
	if p.in[p.pos] == '(' {
		return p.elements(depth)
	}
	if depth == 0 {
		return gsexp{}, errors.New("not a list")
	}
	b, err := p.atom()
	if err == nil && len(b) > maxAtom {
		err = fmt.Errorf("atom longer than %d bytes", maxAtom)
	}
	return atom(b), err
}

func (p *parser) elements(depth int) (gsexp, error) {
	if depth == maxDepth {
		return gsexp{}, fmt.Errorf("lists deeper than %d", maxDepth)
	}
	p.pos++
	var elements []gsexp
	for {
		p.space()
		if p.pos < len(p.in) && p.in[p.pos] == ')' {
			p.pos++
			return gsexp{list: elements}, nil
		}
		e, err := p.expr(depth + 1)
		if err != nil {
			return gsexp{}, err
		}
		elements = append(elements, e)
	}
}

// atom reads an atom in any of its spellings. All but a token may have their
// length before them; the one of the canonical form must.
func (p *parser) atom() ([]byte, error) {
	length, err := p.length()
	if err != nil {
		return nil, err
	}
	if p.pos == len(p.in) {
		return nil, errSexpEnd
	}
	var b []byte
	switch c := p.in[p.pos]; {
	case c == ':' && length >= 0:
		return p.verbatim(length)
	case c == '"':
		b, err = p.quoted()
	case c == '#':
		b, err = p.enclosed('#', decodeHex)
	case c == '|':
		b, err = p.enclosed('|', base64.StdEncoding.DecodeString)
	case length < 0 && isTokenByte(c):
		return p.token(), nil
	default:
		return nil, fmt.Errorf("unexpected %q", c)
	}
	if err == nil && length >= 0 && len(b) != length {
		err = fmt.Errorf("atom of %d bytes announced as %d", len(b), length)
	}
	return b, err
}

// length reads the digits before an atom; without any it is -1.
func (p *parser) length() (int, error) {
	start := p.pos
	for p.pos < len(p.in) && '0' <= p.in[p.pos] && p.in[p.pos] <= '9' {
		p.pos++
	}
	digits := string(p.in[start:p.pos])
	if digits == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n > maxAtom || digits[0] == '0' && len(digits) > 1 {
		return 0, fmt.Errorf("length %q of an atom", digits)
	}
	return n, nil
}

func (p *parser) verbatim(length int) ([]byte, error) {
	p.pos++ // the colon
	if length > len(p.in)-p.pos {
		return nil, errSexpEnd
	}
	b := p.in[p.pos : p.pos+length]
	p.pos += length
	return bytes.Clone(b), nil
}

func (p *parser) token() []byte {
	start := p.pos
	for p.pos < len(p.in) && isTokenByte(p.in[p.pos]) {
		p.pos++
	}
	return bytes.Clone(p.in[start:p.pos])
}

// enclosed reads what is between two marks, white space removed, and decodes it.
func (p *parser) enclosed(mark byte, decode func(string) ([]byte, error)) ([]byte, error) {
	end := bytes.IndexByte(p.in[p.pos+1:], mark)
	if end < 0 {
		return nil, errSexpEnd
	}
	b, err := decode(removeSpace(string(p.in[p.pos+1 : p.pos+1+end])))
	if err == nil {
		p.pos += end + 2
	}
	return b, err
}

func decodeHex(s string) ([]byte, error) { return hex.DecodeString(s) }

func removeSpace(s string) string {
	return strings.Map(func(c rune) rune {
		if strings.ContainsRune(" \t\n\v\f\r", c) {
			return -1
		}
		return c
	}, s)
}

func (p *parser) quoted() ([]byte, error) {
	p.pos++
	b := []byte{}
	for p.pos < len(p.in) {
		c := p.in[p.pos]
		p.pos++
		switch c {
		case '"':
			return b, nil
		case '\\':
			var err error
			if b, err = p.escape(b); err != nil {
				return nil, err
			}
		default:
			b = append(b, c)
		}
	}
	return nil, errSexpEnd
}

// escape reads what follows a backslash and appends what it stands for, nothing
// in the case of a line's end.
func (p *parser) escape(b []byte) ([]byte, error) {
	rest := string(p.in[p.pos:min(p.pos+3, len(p.in))])
	if rest == "" {
		return nil, errSexpEnd
	}
	if i := strings.IndexByte(escapeNames, rest[0]); i >= 0 {
		p.pos++
		return append(b, escapedBytes[i]), nil
	}
	digits, base := rest, 8
	switch rest[0] {
	case '\n', '\r':
		p.pos++
		if len(rest) > 1 && (rest[:2] == "\r\n" || rest[:2] == "\n\r") {
			p.pos++
		}
		return b, nil
	case 'x':
		digits, base = rest[1:], 16
	}
	v, err := strconv.ParseUint(digits, base, 8)
	if err != nil || len(rest) < 3 || strings.ContainsAny(digits, "+_") {
		return nil, fmt.Errorf("escape %q", `\`+rest)
	}
	p.pos += 3
	return append(b, byte(v)), nil
}
