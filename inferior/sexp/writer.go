package sexp

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

func (v Symbol) String() string  { return string(v.append(nil)) }
func (v String) String() string  { return string(v.append(nil)) }
func (v Keyword) String() string { return string(v.append(nil)) }
func (v Bool) String() string    { return string(v.append(nil)) }
func (v Char) String() string    { return string(v.append(nil)) }
func (v Int) String() string     { return string(v.append(nil)) }
func (v Number) String() string  { return string(v) }
func (v Nil) String() string     { return "#nil" }
func (v Vector) String() string  { return string(v.append(nil)) }
func (v Bytes) String() string   { return string(v.append(nil)) }
func (v Opaque) String() string  { return string(v) }
func (v *List) String() string   { return string(v.append(nil)) }

func (v Int) append(b []byte) []byte    { return strconv.AppendInt(b, int64(v), 10) }
func (v Number) append(b []byte) []byte { return append(b, v...) }
func (v Nil) append(b []byte) []byte    { return append(b, "#nil"...) }
func (v Opaque) append(b []byte) []byte { return append(b, v...) }

func (v Bool) append(b []byte) []byte {
	if v {
		return append(b, "#t"...)
	}
	return append(b, "#f"...)
}

func (v Keyword) append(b []byte) []byte {
	return Symbol(v).append(append(b, "#:"...))
}

// charNames are the names Guile writes; readers know more.
var charNames = map[rune]string{
	0: "nul", 7: "alarm", 8: "backspace", 9: "tab", 10: "newline", 11: "vtab",
	12: "page", 13: "return", 27: "escape", 32: "space", 127: "delete",
}

func (v Char) append(b []byte) []byte {
	b = append(b, `#\`...)
	if name, ok := charNames[rune(v)]; ok {
		return append(b, name...)
	}
	if !unicode.IsGraphic(rune(v)) || unicode.Is(unicode.Mn, rune(v)) {
		return strconv.AppendInt(append(b, 'x'), int64(v), 16)
	}
	return append(b, string(rune(v))...)
}

func (v String) append(b []byte) []byte {
	b = append(b, '"')
	for _, c := range string(v) {
		switch c {
		case '"', '\\':
			b = append(b, '\\', byte(c))
		case '\n':
			b = append(b, `\n`...)
		case '\t':
			b = append(b, `\t`...)
		case '\r':
			b = append(b, `\r`...)
		default:
			b = appendRune(b, c)
		}
	}
	return append(b, '"')
}

// appendRune writes a character of a string the way that Guile reads back
// whatever its reader options are: the fixed-width escapes.
func appendRune(b []byte, c rune) []byte {
	switch {
	case c >= ' ' && c < 0x7f, c > 0x7f && unicode.IsGraphic(c):
		return append(b, string(c)...)
	case c > 0xffff:
		return fmt.Appendf(b, `\U%06x`, c)
	case c > 0xff:
		return fmt.Appendf(b, `\u%04x`, c)
	}
	return fmt.Appendf(b, `\x%02x`, c)
}

func (v Symbol) append(b []byte) []byte {
	if plainSymbol(string(v)) {
		return append(b, v...)
	}
	b = append(b, "#{"...)
	for _, c := range string(v) {
		if c == '\\' || c == '}' || c == '{' || !unicode.IsGraphic(c) {
			b = fmt.Appendf(b, `\x%x;`, c)
		} else {
			b = append(b, string(c)...)
		}
	}
	return append(b, "}#"...)
}

// plainSymbol reports whether s, written as it is, is read as the symbol s.
func plainSymbol(s string) bool {
	if s == "" || s == "." || s[0] == '#' && s != "#" && !strings.HasPrefix(s, "#%") {
		return false
	}
	if s == "#" {
		return false
	}
	if s[0] == ':' || s[len(s)-1] == ':' {
		return false // a keyword, under some of the reader's options
	}
	for i, c := range s {
		if delimiter(c) || c == '\'' && i == 0 || c == '`' && i == 0 || c == ',' && i == 0 ||
			c == '{' || c == '}' || c == '|' || c == '\\' || !unicode.IsGraphic(c) || unicode.IsSpace(c) {
			return false
		}
	}
	_, isNumber := number(s)
	return !isNumber
}

var abbreviations = map[Symbol]string{
	"quote": "'", "quasiquote": "`", "unquote": ",", "unquote-splicing": ",@",
}

func (v *List) append(b []byte) []byte {
	if len(v.Items) == 2 && v.Tail == nil {
		if name, ok := v.Items[0].(Symbol); ok && abbreviations[name] != "" {
			mark := abbreviations[name]
			at := len(b) + len(mark)
			b = v.Items[1].append(append(b, mark...))
			if mark == "," && b[at] == '@' { // (unquote @x) is not ,@x
				b = append(b[:at], append([]byte(" "), b[at:]...)...)
			}
			return b
		}
	}
	b = append(b, '(')
	for i, item := range v.Items {
		if i > 0 {
			b = append(b, ' ')
		}
		b = item.append(b)
	}
	if v.Tail != nil {
		b = v.Tail.append(append(b, " . "...))
	}
	return append(b, ')')
}

func (v Vector) append(b []byte) []byte {
	return L(v...).appendPlain(append(b, '#'))
}

// appendPlain writes the list without abbreviating quote forms:
// #'x would not read as the vector #(quote x).
func (v *List) appendPlain(b []byte) []byte {
	b = append(b, '(')
	for i, item := range v.Items {
		if i > 0 {
			b = append(b, ' ')
		}
		b = item.append(b)
	}
	return append(b, ')')
}

func (v Bytes) append(b []byte) []byte {
	b = append(b, "#vu8("...)
	for i, c := range v {
		if i > 0 {
			b = append(b, ' ')
		}
		b = strconv.AppendUint(b, uint64(c), 10)
	}
	return append(b, ')')
}
