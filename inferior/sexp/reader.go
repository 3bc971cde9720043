package sexp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A SyntaxError is text that Guile's reader would refuse, or that exceeds a limit.
type SyntaxError struct {
	File string // as given to the Reader; may be empty
	Pos  Pos
	Msg  string
}

func (e *SyntaxError) Error() string {
	if e.File == "" {
		return fmt.Sprintf("%v: %s", e.Pos, e.Msg)
	}
	return fmt.Sprintf("%s:%v: %s", e.File, e.Pos, e.Msg)
}

// A Reader reads data one after another. It reads no further than the end of
// the datum it returns (one more character after an atom), so it can
// sit on a pipe whose other end waits for an answer.
type Reader struct {
	// File is the name used in errors.
	File string
	// MaxDepth limits how deep lists nest; 0 means 1000.
	MaxDepth int
	// MaxSize limits the bytes of one top-level datum, and of white space and
	// comments before it; 0 means 64 MiB.
	MaxSize int

	in    *bufio.Reader
	pos   Pos // of the next character; Start is the byte offset
	last  Pos // before the last character, for unread
	start int // offset at which this top-level datum began
	depth int
	err   error // sticky
}

// NewReader returns a Reader on r.
func NewReader(r io.Reader) *Reader {
	return &Reader{in: bufio.NewReader(r), pos: Pos{Line: 1, Column: 1}}
}

// Parse reads the one datum that text is.
func Parse(text string) (Value, error) {
	r := NewReader(strings.NewReader(text))
	v, err := r.Next()
	if err == io.EOF {
		return nil, r.fail(r.pos, "no datum")
	}
	if err != nil {
		return nil, err
	}
	switch extra, err := r.Next(); {
	case err == io.EOF:
		return v, nil
	case err != nil:
		return nil, err
	default:
		return nil, r.fail(r.last, "more text after the datum: %.40s", extra)
	}
}

// Pos returns the place of the next character, which is where the
// last datum ended.
func (r *Reader) Pos() Pos { return r.pos }

// Next returns the next datum, or io.EOF when there is none.
// Any other error is a *[SyntaxError] or comes from the underlying reader;
// it is returned again by later calls.
func (r *Reader) Next() (Value, error) {
	v, _, err := r.NextAt()
	return v, err
}

// NextAt is Next that also says where the datum stands.
func (r *Reader) NextAt() (Value, Pos, error) {
	if r.err != nil {
		return nil, Pos{}, r.err
	}
	r.start, r.depth = r.pos.Start, 0
	v, pos, err := r.datum()
	if err == nil && v == nil {
		err = io.EOF
	}
	if err == errClose {
		err = r.fail(pos, "unexpected closing parenthesis")
	}
	if err == errDot {
		err = r.fail(pos, "a dot outside a list")
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = r.fail(r.pos, "unexpected end of text")
	}
	r.err = err
	return v, pos, err
}

// Signals within a list, never seen by callers.
var (
	errClose = errors.New("closing parenthesis")
	errDot   = errors.New("dot")
)

func (r *Reader) fail(pos Pos, format string, args ...any) error {
	return &SyntaxError{File: r.File, Pos: pos, Msg: fmt.Sprintf(format, args...)}
}

// rune reads a character; at the end it returns io.EOF.
func (r *Reader) rune() (rune, error) {
	limit := r.MaxSize
	if limit == 0 {
		limit = 64 << 20
	}
	if r.pos.Start-r.start >= limit {
		return 0, r.fail(r.pos, "datum larger than %d bytes", limit)
	}
	c, n, err := r.in.ReadRune()
	if err != nil {
		return 0, err
	}
	r.last = r.pos
	r.pos.Start += n
	if c == '\n' {
		r.pos.Line++
		r.pos.Column = 1
	} else {
		r.pos.Column++
	}
	if c == utf8.RuneError && n == 1 {
		return 0, r.fail(r.last, "not UTF-8 text")
	}
	return c, nil
}

func (r *Reader) unread() {
	r.in.UnreadRune()
	r.pos = r.last
}

// inner is rune where the text must go on.
func (r *Reader) inner() (rune, error) {
	c, err := r.rune()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return c, err
}

func delimiter(c rune) bool {
	return unicode.IsSpace(c) || strings.ContainsRune(`()[]";`, c)
}

// datum reads the next datum, skipping white space and comments.
// At the end of the text it returns nil and no error.
func (r *Reader) datum() (Value, Pos, error) {
	for {
		c, err := r.rune()
		if err == io.EOF {
			return nil, r.pos, nil
		}
		if err != nil {
			return nil, r.pos, err
		}
		pos := r.last
		var v Value
		switch {
		case unicode.IsSpace(c):
			continue
		case c == ';':
			if err := r.line(); err != nil && err != io.EOF {
				return nil, pos, err
			}
			continue
		case c == '(' || c == '[':
			v, err = r.list(pos, c)
		case c == ')' || c == ']':
			return nil, pos, errClose
		case c == '"':
			v, err = r.str()
		case c == '\'':
			v, err = r.abbreviation(pos, "quote")
		case c == '`':
			v, err = r.abbreviation(pos, "quasiquote")
		case c == ',':
			v, err = r.unquote(pos)
		case c == '#':
			v, err = r.hash(pos)
			if err == nil && v == nil {
				continue // a comment
			}
		default:
			r.unread()
			v, err = r.atom(pos)
		}
		pos.End = r.pos.Start
		return v, pos, err
	}
}

func (r *Reader) line() error {
	for {
		c, err := r.rune()
		if err != nil || c == '\n' {
			return err
		}
	}
}

// enter counts one level of nesting; the caller leaves it with r.depth--.
func (r *Reader) enter(pos Pos) error {
	limit := r.MaxDepth
	if limit == 0 {
		limit = 1000
	}
	if r.depth++; r.depth > limit {
		return r.fail(pos, "nested deeper than %d", limit)
	}
	return nil
}

// required reads a datum that must be there.
func (r *Reader) required() (Value, Pos, error) {
	v, at, err := r.datum()
	if err == nil && v == nil {
		err = io.ErrUnexpectedEOF
	}
	return v, at, err
}

func (r *Reader) list(start Pos, open rune) (Value, error) {
	if err := r.enter(start); err != nil {
		return nil, err
	}
	defer func() { r.depth-- }()
	l := &List{Pos: start}
	for {
		v, at, err := r.required()
		switch {
		case err == errClose:
			return r.closed(l, open, at)
		case err == errDot:
			if len(l.Items) == 0 {
				return nil, r.fail(at, "nothing before the dot")
			}
			return r.dotted(l, open)
		case err == io.ErrUnexpectedEOF:
			return nil, r.fail(r.pos, "unexpected end of text in the list that starts at %v", start)
		case err != nil:
			return nil, err
		}
		l.Items = append(l.Items, v)
		l.At = append(l.At, at)
	}
}

// closed ends l at the closing character just read.
func (r *Reader) closed(l *List, open rune, at Pos) (Value, error) {
	l.Pos.End = r.pos.Start
	r.unread()
	c, err := r.inner()
	if err == nil && (open == '(') != (c == ')') {
		err = r.fail(at, "%q does not close the %q at %v", c, open, l.Pos)
	}
	return l, err
}

func (r *Reader) dotted(l *List, open rune) (Value, error) {
	tail, at, err := r.required()
	if err == errClose {
		return nil, r.fail(at, "nothing after the dot")
	}
	if err != nil {
		return nil, err
	}
	_, at, err = r.required()
	if err == nil {
		return nil, r.fail(at, "more than one datum after the dot")
	}
	if err != errClose {
		return nil, err
	}
	if rest, ok := tail.(*List); ok { // (a . (b c)) is (a b c)
		l.Items = append(l.Items, rest.Items...)
		l.At = append(l.At, rest.At...)
		l.Tail = rest.Tail
	} else {
		l.Tail = tail
	}
	return r.closed(l, open, at)
}

func (r *Reader) abbreviation(start Pos, name Symbol) (Value, error) {
	if err := r.enter(start); err != nil {
		return nil, err
	}
	defer func() { r.depth-- }()
	v, at, err := r.required()
	if err == errClose || err == errDot {
		err = r.fail(start, "nothing to %s", name)
	}
	if err != nil {
		return nil, err
	}
	start.End = r.pos.Start
	return &List{Items: []Value{name, v}, Pos: start, At: []Pos{start, at}}, nil
}

func (r *Reader) unquote(start Pos) (Value, error) {
	c, err := r.inner()
	if err != nil {
		return nil, err
	}
	if c == '@' {
		return r.abbreviation(start, "unquote-splicing")
	}
	r.unread()
	return r.abbreviation(start, "unquote")
}

// token reads up to the next delimiter.
func (r *Reader) token() (string, error) {
	var b strings.Builder
	for {
		c, err := r.rune()
		if err == io.EOF {
			return b.String(), nil
		}
		if err != nil {
			return "", err
		}
		if delimiter(c) {
			r.unread()
			return b.String(), nil
		}
		b.WriteRune(c)
	}
}

func (r *Reader) atom(pos Pos) (Value, error) {
	s, err := r.token()
	if err != nil {
		return nil, err
	}
	if s == "." {
		return nil, errDot
	}
	if v, ok := number(s); ok {
		return v, nil
	}
	return Symbol(s), nil
}

func (r *Reader) str() (Value, error) {
	var b strings.Builder
	for {
		c, err := r.inner()
		if err != nil {
			return nil, err
		}
		switch c {
		case '"':
			return String(b.String()), nil
		case '\\':
			if err := r.escape(&b); err != nil {
				return nil, err
			}
		default:
			b.WriteRune(c)
		}
	}
}

var stringEscapes = map[rune]rune{
	'"': '"', '\\': '\\', '|': '|', '(': '(', 'a': 7, 'b': 8, 'f': 12,
	'n': '\n', 'r': '\r', 't': '\t', 'v': 11, '0': 0, '/': '/',
}

// escape reads what follows a backslash in a string.
func (r *Reader) escape(b *strings.Builder) error {
	at := r.last
	c, err := r.inner()
	if err != nil {
		return err
	}
	if plain, ok := stringEscapes[c]; ok {
		b.WriteRune(plain)
		return nil
	}
	switch c {
	case 'x':
		return r.hexEscape(b, at, 2)
	case 'u':
		return r.hexEscape(b, at, 4)
	case 'U':
		return r.hexEscape(b, at, 6)
	case '\n':
		return nil // the line goes on; Guile keeps its indentation
	}
	return r.fail(at, "unknown escape \\%c in a string", c)
}

// hexEscape reads width hexadecimal digits, or, R6RS and R7RS fashion
// after \x, any number of them and a semicolon.
func (r *Reader) hexEscape(b *strings.Builder, at Pos, width int) error {
	digits := ""
	for len(digits) < width {
		c, err := r.inner()
		if err != nil {
			return err
		}
		if c == ';' && width == 2 && digits != "" {
			return r.putHex(b, at, digits)
		}
		if !isHex(c) {
			return r.fail(at, "bad hexadecimal escape in a string")
		}
		digits += string(c)
	}
	return r.putHex(b, at, digits)
}

func isHex(c rune) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func (r *Reader) putHex(b *strings.Builder, at Pos, digits string) error {
	n, err := strconv.ParseUint(digits, 16, 32)
	if err != nil || !utf8.ValidRune(rune(n)) {
		return r.fail(at, "no character has the number #x%s", digits)
	}
	b.WriteRune(rune(n))
	return nil
}

// hash reads what follows "#". A comment gives nil.
func (r *Reader) hash(pos Pos) (Value, error) {
	c, err := r.inner()
	if err != nil {
		return nil, err
	}
	switch c {
	case '(':
		return r.vector(pos)
	case ';':
		_, _, err := r.required()
		if err == errClose || err == errDot {
			err = r.fail(pos, "no datum to comment out")
		}
		return nil, err
	case '|':
		return nil, r.block('|', '#')
	case '!':
		return r.bang(pos)
	case '\\':
		return r.char(pos)
	case ':':
		v, at, err := r.required()
		if name, ok := v.(Symbol); ok {
			return Keyword(name), err
		}
		if err == nil || err == errClose || err == errDot {
			err = r.fail(at, "#: must be followed by a name")
		}
		return nil, err
	case '<':
		return r.opaque()
	case '{':
		return r.extendedSymbol(pos)
	case '\'', '`', ',':
		return r.syntaxQuote(pos, c)
	}
	r.unread()
	return r.hashWord(pos)
}

// syntaxQuote reads #'x and its kin, the abbreviations of (syntax x).
func (r *Reader) syntaxQuote(pos Pos, c rune) (Value, error) {
	if c == ',' {
		next, err := r.inner()
		if err != nil {
			return nil, err
		}
		if next == '@' {
			return r.abbreviation(pos, "unsyntax-splicing")
		}
		r.unread()
		return r.abbreviation(pos, "unsyntax")
	}
	if c == '`' {
		return r.abbreviation(pos, "quasisyntax")
	}
	return r.abbreviation(pos, "syntax")
}

func (r *Reader) vector(pos Pos) (Value, error) {
	v, err := r.list(pos, '(')
	if err != nil {
		return nil, err
	}
	l := v.(*List)
	if l.Tail != nil {
		return nil, r.fail(pos, "a dot in a vector")
	}
	return Vector(l.Items), nil
}

// hashWord reads the literals that are a word: #t, #f, #nil, #xFF, #vu8(…).
func (r *Reader) hashWord(pos Pos) (Value, error) {
	word, err := r.token()
	if err != nil {
		return nil, err
	}
	switch word {
	case "t", "true":
		return Bool(true), nil
	case "f", "false":
		return Bool(false), nil
	case "nil":
		return Nil{}, nil
	case "vu8", "u8":
		return r.bytes(pos)
	}
	if v, ok := radix(word); ok {
		return v, nil
	}
	return nil, r.fail(pos, "unknown syntax #%.20s", word)
}

// radix reads an integer in the base a letter names.
func radix(word string) (Value, bool) {
	if len(word) < 2 {
		return nil, false
	}
	base, ok := map[byte]int{'x': 16, 'd': 10, 'o': 8, 'b': 2, 'X': 16, 'D': 10, 'O': 8, 'B': 2}[word[0]]
	if !ok {
		return nil, false
	}
	n, err := strconv.ParseInt(word[1:], base, 64)
	return Int(n), err == nil
}

func (r *Reader) bytes(pos Pos) (Value, error) {
	if c, err := r.inner(); err != nil || c != '(' {
		if err == nil {
			err = r.fail(pos, "no list after #vu8")
		}
		return nil, err
	}
	v, err := r.list(pos, '(')
	if err != nil {
		return nil, err
	}
	l := v.(*List)
	if l.Tail != nil {
		return nil, r.fail(pos, "a dot in a bytevector")
	}
	b := make(Bytes, len(l.Items))
	for i, item := range l.Items {
		n, ok := item.(Int)
		if !ok || n < 0 || n > 255 {
			return nil, r.fail(pos, "%.20s is not a byte", item)
		}
		b[i] = byte(n)
	}
	return b, nil
}

// block skips a comment up to its closing pair of characters.
// Those of bars nest, "#!" ones do not.
func (r *Reader) block(first, second rune) error {
	depth, previous := 1, rune(0)
	for depth > 0 {
		c, err := r.inner()
		if err != nil {
			return err
		}
		switch {
		case previous == first && c == second:
			depth, previous = depth-1, 0
		case first == '|' && previous == '#' && c == '|':
			depth, previous = depth+1, 0
		default:
			previous = c
		}
	}
	return nil
}

// bang reads "#!": a directive such as #!fold-case, or a comment up to "!#".
func (r *Reader) bang(pos Pos) (Value, error) {
	word, err := r.token()
	if err != nil {
		return nil, err
	}
	switch word {
	case "default", "eof", "unspecific":
		return Opaque("#!" + word), nil
	case "r6rs", "fold-case", "no-fold-case", "curly-infix":
		return nil, nil
	}
	if strings.HasSuffix(word, "!#") {
		return nil, nil
	}
	return nil, r.block('!', '#')
}

// readNames are the character names Guile reads, those it writes among them.
var readNames = func() map[string]rune {
	names := map[string]rune{
		"null": 0, "linefeed": 10, "nl": 10, "altmode": 27, "esc": 27, "rubout": 127,
		"del": 127, "bel": 7, "bs": 8, "ht": 9, "lf": 10, "vt": 11, "ff": 12, "np": 12, "cr": 13, "sp": 32,
	}
	for c, name := range strings.Fields("soh stx etx eot enq ack - - - - - - - so si dle " +
		"dc1 dc2 dc3 dc4 nak syn etb can em sub - fs gs rs us") { // of ASCII, from 1 on
		names[name] = rune(c + 1)
	}
	delete(names, "-")
	for c, name := range charNames {
		names[name] = c
	}
	return names
}()

func (r *Reader) char(pos Pos) (Value, error) {
	first, err := r.inner() // even a delimiter: #\( is a character
	if err != nil {
		return nil, err
	}
	rest, err := r.token()
	if err != nil {
		return nil, err
	}
	if rest == "" {
		return Char(first), nil
	}
	name := string(first) + rest
	if c, ok := readNames[strings.ToLower(name)]; ok {
		return Char(c), nil
	}
	if utf8.RuneCountInString(rest) == 1 && rest == "\u25cc" {
		return Char(first), nil
	}
	if first == '\u25cc' && utf8.RuneCountInString(rest) == 1 {
		c, _ := utf8.DecodeRuneInString(rest) // a combining mark is shown on a dotted circle
		return Char(c), nil
	}
	base, digits := 8, name
	if first == 'x' || first == 'U' || first == 'u' {
		base, digits = 16, rest
	}
	if n, err := strconv.ParseUint(digits, base, 32); err == nil && utf8.ValidRune(rune(n)) {
		return Char(n), nil
	}
	return nil, r.fail(pos, `unknown character name #\%.20s`, name)
}

// extendedSymbol reads #{any text}#.
func (r *Reader) extendedSymbol(pos Pos) (Value, error) {
	var b strings.Builder
	for {
		c, err := r.inner()
		if err != nil {
			return nil, err
		}
		switch c {
		case '}':
			next, err := r.inner()
			if err != nil {
				return nil, err
			}
			if next == '#' {
				return Symbol(b.String()), nil
			}
			b.WriteRune(c)
			r.unread()
		case '\\':
			if err := r.symbolEscape(&b); err != nil {
				return nil, err
			}
		default:
			b.WriteRune(c)
		}
	}
}

// symbolEscape reads \xHEX; in an extended symbol.
func (r *Reader) symbolEscape(b *strings.Builder) error {
	at := r.last
	if c, err := r.inner(); err != nil || c != 'x' {
		if err == nil {
			err = r.fail(at, "unknown escape in a symbol")
		}
		return err
	}
	digits := ""
	for {
		c, err := r.inner()
		if err != nil {
			return err
		}
		if c == ';' {
			return r.putHex(b, at, digits)
		}
		if !isHex(c) || len(digits) == 8 {
			return r.fail(at, "bad hexadecimal escape in a symbol")
		}
		digits += string(c)
	}
}

// opaque reads the rest of #<…>, which may hold further ones and strings
// with any character in them.
func (r *Reader) opaque() (Value, error) {
	b := []byte("#<")
	depth := 1
	quoted, previous := false, rune('<')
	for depth > 0 {
		c, err := r.inner()
		if err != nil {
			return nil, err
		}
		b = utf8.AppendRune(b, c)
		switch {
		case quoted:
			if c == '\\' {
				if c, err = r.inner(); err != nil {
					return nil, err
				}
				b = utf8.AppendRune(b, c)
			} else if c == '"' {
				quoted = false
			}
		case c == '"':
			quoted = true
		case c == '<' && previous == '#':
			depth++
		case c == '>' && previous != '-' && previous != '=':
			depth--
		}
		previous = c
	}
	return Opaque(b), nil
}
