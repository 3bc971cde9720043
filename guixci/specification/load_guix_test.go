package specification_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/specification"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// Guix makes of a file what we make of it, and of a program what it computes.
func TestLoad(t *testing.T) {
	guixtest.Require(t)
	name := filepath.Join(t.TempDir(), "specs.scm")
	load := func(text string, guix *channel.Evaluator) ([]specification.Specification, error) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return specification.Load(t.Context(), name, guix)
	}
	for _, text := range []string{everything, "(define ours\n" + strings.TrimPrefix(everything, "(use-modules (cuirass specification))\n") + ")\n(display \"noise\")\nours\n"} {
		got, err := load(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wantEverything(), got); diff != "" {
			t.Errorf("specifications (-want +got):\n%s", diff)
		}
	}

	got, err := load(`(use-modules (srfi srfi-1))
(define base
  (specification (name 'base) (period (* 60 60)) (build '(packages "hello"))))
(map (lambda (n) (specification (inherit base) (name (format #f "s~a" n)) (priority n))) (iota 3))`, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range got {
		if s.Name != "s"+string(rune('0'+i)) || s.Priority != i || s.Period != time.Hour || s.Build.String() != `(packages "hello")` {
			t.Errorf("specification %d: %+v", i, s)
		}
	}

	const head = "(define (spec n)\n  "
	for _, test := range []struct {
		text, want string
		guix       *channel.Evaluator
	}{
		{head + "(specification (name 'x)\n   (priority (* n 6))))\n(list (spec 2))", name + `:3:14: specification "x": its priority is 12`, nil},
		{head + "(specification (name 'x)\n   (systems (list n))))\n(list (spec 2))", name + `:3:13: 2 is not a string`, nil},
		{head + "(specification (name 'x)\n   (build car)))\n(list (spec 2))", name + `:3:11: read build mode: "#<procedure car`, nil},
		{head + "(specification (name 'x)\n   (nmae n)))\n(list (spec 2))", "specs.scm:2:2: error: (placed-specification", nil},
		{"(list (car '()))", "specs.scm:1:6", nil},
		{"(begin 5)", "not a list of specifications", nil},
		{"(let loop () (loop))", "longer than 2s", &channel.Evaluator{Timeout: 2 * time.Second}},
	} {
		_, err := load(test.text, test.guix)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s\nerror %v\nwant  %s", test.text, err, test.want)
		}
	}
	if _, err := load("(begin 5)", &channel.Evaluator{Guix: []string{"/nonexistent/guix"}}); err == nil {
		t.Error("loaded without a guix")
	} else if failed := (*channel.EvaluationError)(nil); !errors.As(err, &failed) {
		t.Errorf("error of type %T", err)
	}
}
