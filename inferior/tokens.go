package inferior

import (
	"bytes"
	"strings"
)

// A token of Scheme text is a parenthesis or a word. Strings and comments are
// none. Channels' own files are searched by tokens rather than read as data, because
// any reader extension may be in use in them (#~ and #$ are in Guix).
type token struct {
	text         string
	line, column int // from 1 and from 0
}

// A scanner yields the tokens of a text.
type scanner struct {
	rest         []byte
	line, column int
}

// tokens returns all tokens of text.
func tokens(text []byte) []token {
	s := &scanner{rest: text, line: 1}
	var all []token
	for len(s.rest) > 0 {
		t := token{line: s.line, column: s.column}
		if t.text = s.next(); t.text != "" {
			all = append(all, t)
		}
	}
	return all
}

// next returns the token at the current place, or steps over what is none.
func (s *scanner) next() string {
	switch c := s.rest[0]; {
	case bytes.IndexByte([]byte("()[]"), c) >= 0:
		return s.take(1)
	case c == ';':
		s.take(end(s.rest, "\n"))
	case c == '"':
		s.take(stringLength(s.rest))
	case bytes.HasPrefix(s.rest, []byte("#|")):
		s.take(end(s.rest, "|#"))
	case bytes.HasPrefix(s.rest, []byte("#\\")):
		s.take(min(len(s.rest), 3)) // the rest of a long name is a word of no interest
	case bytes.IndexByte([]byte("'`,@"), c) >= 0 || c <= ' ':
		s.take(1)
	case bytes.HasPrefix(s.rest, []byte("#~")), bytes.HasPrefix(s.rest, []byte("#$")), bytes.HasPrefix(s.rest, []byte("#+")):
		s.take(2)
	default:
		return s.take(wordLength(s.rest))
	}
	return ""
}

// take steps over n bytes, which it returns.
func (s *scanner) take(n int) string {
	taken := string(s.rest[:n])
	s.rest = s.rest[n:]
	if lines := strings.Count(taken, "\n"); lines > 0 {
		s.line += lines
		s.column = 0
		taken = taken[strings.LastIndexByte(taken, '\n')+1:]
	}
	s.column += len(taken)
	return taken
}

// end is where text is after the first mark, or its length.
func end(text []byte, mark string) int {
	if i := bytes.Index(text, []byte(mark)); i >= 0 {
		return i + len(mark)
	}
	return len(text)
}

func stringLength(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

func wordLength(text []byte) int {
	for i, c := range text {
		if i > 0 && (c <= ' ' || bytes.IndexByte([]byte("()[]\";'`,"), c) >= 0) {
			return i
		}
	}
	return len(text)
}

// find returns where text first has a word or a list, written as Scheme writes it.
func find(text []byte, datum string) (at token, found bool) {
	all, want := tokens(text), tokens([]byte(datum))
	for i := 0; len(want) > 0 && i+len(want) <= len(all); i++ {
		if startsWith(all[i:], want) {
			return all[i], true
		}
	}
	return token{}, false
}

func startsWith(all, want []token) bool {
	for i := range want {
		if all[i].text != want[i].text {
			return false
		}
	}
	return true
}
