package sexp_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// readAndWrite is a program for "guix repl". Its argument is a file with a list of
// pairs of texts; for each pair it writes how Guile's write prints the datum that the
// first one is, or #f if Guile does not read it, and whether the second one is
// the same datum.
const readAndWrite = `
(use-modules (ice-9 match) (ice-9 textual-ports))
(fluid-set! read-eval? #t)
(define (parse text) (call-with-input-string text read))
(define (same? a b)
  (or (equal? a b)
      (and (number? a) (number? b) (nan? a) (nan? b))))
(call-with-input-file (cadr (command-line))
  (lambda (port)
    (set-port-encoding! port "UTF-8")
    (set-port-encoding! (current-output-port) "UTF-8")
    (for-each
     (match-lambda
       ((text ours)
        (let ((value (false-if-exception (list (parse text))))
              (back  (false-if-exception (list (parse ours)))))
          (write (list (and value (call-with-output-string (lambda (p) (write (car value) p))))
                       (and value back (same? (car value) (car back)))))
          (newline))))
     (read port))))
`

// guileReads has Guile read pairs of texts.
func guileReads(t *testing.T, pairs *sexp.List) []guileSaid {
	t.Helper()
	dir := t.TempDir()
	script, input := filepath.Join(dir, "script.scm"), filepath.Join(dir, "input")
	for name, text := range map[string]string{script: readAndWrite, input: pairs.String()} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "guix", "repl", "--", script, input)
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "HOME="+dir)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	r := sexp.NewReader(bytes.NewReader(out))
	said := make([]guileSaid, len(pairs.Items))
	for i := range said {
		v, err := r.Next()
		if err != nil {
			t.Fatalf("%v after %d answers\n%s", err, i, &stderr)
		}
		items, _ := sexp.Items(v)
		if text, ok := items[0].(sexp.String); ok {
			said[i].read, said[i].wrote = true, string(text)
		}
		said[i].same = sexp.True(items[1])
	}
	return said
}

type guileSaid struct {
	read  bool   // the first text
	wrote string // for it
	same  bool   // the second text is the same datum
}

// TestGuileAgrees compares, for every text of the table, the value we read
// with Guile's, what Guile prints with what we expect, and whether Guile reads what
// we print as the same.
func TestGuileAgrees(t *testing.T) {
	guixtest.Require(t)
	pairs := sexp.L()
	for _, test := range data {
		pairs.Items = append(pairs.Items, sexp.Strings(test.text, test.value.String()))
	}
	for i, said := range guileReads(t, pairs) {
		test := data[i]
		want := test.print
		if want == "" {
			want = test.text
		}
		if !said.read || said.wrote != want {
			t.Errorf("%s: Guile prints %s (read: %v), want %s", test.text, said.wrote, said.read, want)
		}
		if !said.same {
			t.Errorf("%s: we print %s, which Guile reads as something else", test.text, test.value)
		}
		if v, err := sexp.Parse(said.wrote); err != nil || !cmp.Equal(v, test.value, places) {
			t.Errorf("%s: Guile prints %s, which we read as %v, %v", test.text, said.wrote, v, err)
		}
	}
}

// TestGuileReadsCharacters prints many characters as such, in a string and in
// a symbol, and has Guile compare them with their numbers.
func TestGuileReadsCharacters(t *testing.T) {
	guixtest.Require(t)
	var chars []rune
	for c := rune(0); c < 0x500; c++ {
		chars = append(chars, c)
	}
	for c := rune(0x500); c < 0x20000; c += 0x3d {
		if utf8.ValidRune(c) {
			chars = append(chars, c)
		}
	}
	chars = append(chars, 0x200b, 0x2028, 0x2029, 0xfeff, 0xfffd, 0xffff, 0x10ffff, 0xe000)
	pairs, values := sexp.L(), []sexp.Value{}
	for _, c := range chars {
		text := "a" + string(c) + "b"
		number := sexp.Int(c).String()
		add := func(program string, v sexp.Value) {
			values = append(values, v)
			pairs.Items = append(pairs.Items, sexp.Strings(program, v.String()))
		}
		add(`#.(integer->char `+number+`)`, sexp.Char(c))
		add(`#.(string #\a (integer->char `+number+`) #\b)`, sexp.String(text))
		add(`#.(string->symbol (string #\a (integer->char `+number+`) #\b))`, sexp.Symbol(text))
		add(`#.(string->symbol (string (integer->char `+number+`)))`, sexp.Symbol(string(c)))
	}
	for i, said := range guileReads(t, pairs) {
		switch back, err := sexp.Parse(said.wrote); {
		case !said.read:
			t.Errorf("Guile does not read %s", pairs.Items[i])
		case !said.same:
			t.Errorf("we print %s for what Guile prints as %s", values[i], said.wrote)
		case err != nil || !cmp.Equal(back, values[i], places):
			t.Errorf("Guile prints %s for %s, which we read as %v, %v", said.wrote, values[i], back, err)
		}
	}
}
