// Package sexp reads and writes Guile data.
//
// Everything Guix says to the outside is such data: channel files,
// .guix-channel and .guix-authorizations, provenance, the replies of
// "guix repl -t machine" and of Shepherd. Everything we say to Guix is built
// from the same values and printed, never pasted together as text, so that a
// file name with a quote in it stays a file name.
//
//	r := sexp.NewReader(strings.NewReader(`(channel (name guix) (url "…"))`))
//	v, err := r.Next()               // io.EOF at the end
//	url, ok := sexp.Field(v, "url")  // String("…")
//	fmt.Println(sexp.L(sexp.Symbol("display"), url))
//
// The lexical syntax is that of Guile 3.0's default reader and writer
// ("Scheme Read" and "Scheme Write" in its manual): square brackets are
// parentheses, bars are part of symbols, odd symbols are #{like this}#, and a
// printed object without a read syntax, #<package hello@2.12>, is an [Opaque]
// value instead of an error.
package sexp

import (
	"fmt"
	"math/big"
	"strconv"
)

// A Value is one datum: [Symbol], [String], [Keyword], [Bool], [Char], [Int],
// [Number], [Nil], *[List], [Vector], [Bytes] or [Opaque].
// String returns what Guile's write prints for it.
type Value interface {
	fmt.Stringer
	append(b []byte) []byte
}

type (
	// A Symbol is a name.
	Symbol string
	// A String is text.
	String string
	// A Keyword is #:name, held without the prefix.
	Keyword string
	// A Bool is #t or #f.
	Bool bool
	// A Char is one character.
	Char rune
	// An Int is an exact integer that fits.
	Int int64
	// A Number is any other number, as it was spelled: 1.5, 1/3, bignums, +inf.0.
	Number string
	// Nil is Guile's #nil, which is both false and the empty list to Emacs Lisp.
	Nil struct{}
	// A Vector is #(…).
	Vector []Value
	// Bytes is the bytevector #vu8(…).
	Bytes []byte
	// Opaque is the printed form of an object that cannot be read back,
	// from "#<" to the matching ">". It prints as it was read,
	// so sending it to Guile is an error on that side.
	Opaque string
)

// A List is a list: proper when Tail is nil, else ending in ". Tail".
// The empty list has no items.
type List struct {
	Items []Value
	Tail  Value
	// Pos says where the list starts and ends, and At where each item does.
	// Both are zero in a list a program built.
	Pos Pos
	At  []Pos
}

// A Pos is a place in the text a datum was read from.
// Line and Column count from 1, in lines and characters;
// Start and End are byte offsets, End being the first byte after.
// The zero Pos is no place.
type Pos struct {
	Line, Column int
	Start, End   int
}

// String returns "LINE:COLUMN", the way compilers print places.
func (p Pos) String() string { return fmt.Sprintf("%d:%d", p.Line, p.Column) }

// L returns the proper list of items.
func L(items ...Value) *List { return &List{Items: items} }

// Cons returns the list that starts with car and goes on with cdr.
func Cons(car, cdr Value) *List {
	if l, ok := cdr.(*List); ok {
		return &List{Items: append([]Value{car}, l.Items...), Tail: l.Tail}
	}
	return &List{Items: []Value{car}, Tail: cdr}
}

// Quote returns (quote v), which Guile evaluates to v.
func Quote(v Value) *List { return L(Symbol("quote"), v) }

// Strings returns the list of the given texts.
func Strings[S ~string](texts ...S) *List {
	l := &List{Items: make([]Value, len(texts))}
	for i, t := range texts {
		l.Items[i] = String(t)
	}
	return l
}

// Items returns the elements of a proper list.
// ok is false for anything else.
func Items(v Value) (items []Value, ok bool) {
	switch v := v.(type) {
	case *List:
		return v.Items, v.Tail == nil
	case Nil:
		return nil, true
	}
	return nil, false
}

// Tagged returns what follows tag in a proper list that starts with that symbol.
func Tagged(v Value, tag Symbol) (rest []Value, ok bool) {
	items, ok := Items(v)
	if !ok || len(items) == 0 || items[0] != Value(tag) {
		return nil, false
	}
	return items[1:], true
}

// Rest returns what follows key in the first element of the list v that is
// itself a list starting with that symbol: of (channel (name x) (tags a b)),
// Rest "tags" is a b. An element (key . value) has the one value.
func Rest(v Value, key Symbol) (rest []Value, ok bool) {
	l, isList := v.(*List)
	if !isList {
		return nil, false
	}
	for _, item := range l.Items {
		e, isList := item.(*List)
		if !isList || len(e.Items) == 0 || e.Items[0] != Value(key) {
			continue
		}
		if e.Tail != nil {
			return append(e.Items[1:len(e.Items):len(e.Items)], e.Tail), true
		}
		return e.Items[1:], true
	}
	return nil, false
}

// Field returns the first value that follows key, as [Rest] finds it.
func Field(v Value, key Symbol) (Value, bool) {
	rest, ok := Rest(v, key)
	if !ok || len(rest) == 0 {
		return nil, false
	}
	return rest[0], true
}

// Text returns the characters of a string or the name of a symbol.
func Text(v Value) (string, bool) {
	switch v := v.(type) {
	case String:
		return string(v), true
	case Symbol:
		return string(v), true
	}
	return "", false
}

// True reports whether Scheme takes v for true: everything but #f and #nil.
func True(v Value) bool {
	switch v := v.(type) {
	case Bool:
		return bool(v)
	case Nil:
		return false
	}
	return v != nil
}

// number reads the spelling of a number, ok being false when it is a symbol.
func number(s string) (Value, bool) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return Int(n), true
	}
	if s == "+inf.0" || s == "-inf.0" || s == "+nan.0" || s == "-nan.0" {
		return Number(s), true
	}
	if c := s[0]; c != '+' && c != '-' && c != '.' && (c < '0' || c > '9') {
		return nil, false
	}
	if isDecimal(s) {
		return Number(s), true
	}
	// A rational, if big.Rat takes it and it has nothing but digits and a bar:
	// Rat also reads "1e5" and "0x1", whose Scheme meaning differs.
	for i, c := range s {
		if (c < '0' || c > '9') && c != '/' && (i != 0 || c != '-' && c != '+') {
			return nil, false
		}
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return nil, false
	}
	if r.IsInt() {
		if r.Num().IsInt64() {
			return Int(r.Num().Int64()), true
		}
		return Number(r.Num().String()), true
	}
	return Number(r.String()), true
}

// isDecimal reports whether s is a sign, digits with at most one point, and
// an optional exponent: what Scheme calls an inexact decimal.
func isDecimal(s string) bool {
	i, digits, point := 0, 0, false
	if s[0] == '+' || s[0] == '-' {
		i++
	}
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c == '.' && !point:
			point = true
		case (c == 'e' || c == 'E') && digits > 0:
			exp := s[i+1:]
			if exp != "" && (exp[0] == '+' || exp[0] == '-') {
				exp = exp[1:]
			}
			_, err := strconv.ParseUint(exp, 10, 16)
			return err == nil
		default:
			return false
		}
	}
	return digits > 0 && point
}
