package inferior

import (
	"errors"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/inferior/inferiortest"
	"github.com/genenetwork/guixci/inferior/sexp"
)

// What a child has answered before its end is heard, and its end told as such, also if it is a
// write that finds it gone.
func TestEndsWhileMoreIsSent(t *testing.T) {
	for _, c := range []struct {
		program  string
		first    string
		answered int
		want     string
	}{
		{"parts", "(hello)", 1, "the inferior ended (exit status 9)\n  out of luck"},
		{"eats", "(eat)", 0, "too much memory: at most 100 MiB allowed (signal: killed)"},
	} {
		s, err := Start(t.Context(), Options{Program: inferiortest.Path(t, c.program), Memory: 100 << 20})
		if err != nil {
			t.Fatal(err)
		}
		first, err := sexp.Parse(c.first)
		if err != nil {
			t.Fatal(err)
		}
		exprs := func(yield func(sexp.Value) bool) {
			if yield(first) {
				<-s.child.exited
				yield(sexp.Int(2))
			}
		}
		answered := 0
		var last error
		for v, err := range s.EvalAll(t.Context(), exprs) {
			if last = err; err == nil && v.String() == c.first {
				answered++
			}
		}
		if answered != c.answered || !errors.Is(last, ErrClosed) || !strings.HasSuffix(last.Error(), c.want) {
			t.Errorf("%s: %d answers, then %v, want %d and %s", c.program, answered, last, c.answered, c.want)
		}
	}
}
