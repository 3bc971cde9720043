package inferior

import "testing"

func TestFind(t *testing.T) {
	text := []byte(`;; needle in a comment
#| needle |# "needle \" needle" #\( haystack-needle
(define-module (a  b
                c) #:use-module (x needle))
#~(begin #$needle ',other)
`)
	for _, c := range []struct {
		datum        string
		line, column int
	}{
		{"needle", 4, 35},
		{"(a b c)", 3, 15},
		{"(x needle)", 4, 32},
		{"haystack-needle", 2, 36},
		{"other", 5, 20},
		{"other)", 5, 20},
		{"thread", 0, 0},
		{"(a b c d)", 0, 0},
		{"", 0, 0},
	} {
		at, found := find(text, c.datum)
		if found != (c.line > 0) || at.line != c.line || at.column != c.column {
			t.Errorf("%q at %d:%d, want %d:%d", c.datum, at.line, at.column, c.line, c.column)
		}
	}
}

func FuzzTokens(f *testing.F) {
	f.Add(`(a "b\`)
	f.Add(`#|`)
	f.Add(`#\`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, token := range tokens([]byte(text)) {
			if token.text == "" || token.line < 1 || token.column < 0 {
				t.Errorf("%+v", token)
			}
		}
	})
}
