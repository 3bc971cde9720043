package sexp_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// places compares values by what they are, not by where they stood.
var places = cmp.Options{cmpopts.IgnoreFields(sexp.List{}, "Pos", "At"), cmpopts.EquateEmpty()}

// data are texts Guile reads, the values they are, and how its write prints them.
// TestGuileAgrees asks Guile about both.
var data = []struct {
	text  string
	value sexp.Value
	print string // empty when equal to text
}{
	// Symbols.
	{"abc", sexp.Symbol("abc"), ""},
	{"+", sexp.Symbol("+"), ""},
	{"-", sexp.Symbol("-"), ""},
	{"...", sexp.Symbol("..."), ""},
	{"1+", sexp.Symbol("1+"), "#{1+}#"},
	{"-x", sexp.Symbol("-x"), ""},
	{"a.b", sexp.Symbol("a.b"), ""},
	{"->x", sexp.Symbol("->x"), ""},
	{"%default-channels", sexp.Symbol("%default-channels"), ""},
	{"Case", sexp.Symbol("Case"), ""},
	{"λ", sexp.Symbol("λ"), ""},
	{"x'y", sexp.Symbol("x'y"), ""},
	{"#{a b}#", sexp.Symbol("a b"), ""},
	{"#{}#", sexp.Symbol(""), ""},
	{"#{1}#", sexp.Symbol("1"), ""},
	{"#{a(b}#", sexp.Symbol("a(b"), `#{a\x28;b}#`},
	{"#{.}#", sexp.Symbol("."), ""},

	// Keywords.
	{"#:key", sexp.Keyword("key"), ""},
	{"#:a-b?", sexp.Keyword("a-b?"), ""},

	// Booleans and their like.
	{"#t", sexp.Bool(true), ""},
	{"#f", sexp.Bool(false), ""},
	{"#true", sexp.Bool(true), "#t"},
	{"#false", sexp.Bool(false), "#f"},
	{"#nil", sexp.Nil{}, ""},

	// Numbers.
	{"0", sexp.Int(0), ""},
	{"-12", sexp.Int(-12), ""},
	{"+7", sexp.Int(7), "7"},
	{"007", sexp.Int(7), "7"},
	{"9223372036854775807", sexp.Int(9223372036854775807), ""},
	{"9223372036854775808", sexp.Number("9223372036854775808"), ""},
	{"1.5", sexp.Number("1.5"), ""},
	{"-0.25", sexp.Number("-0.25"), ""},
	{"1/3", sexp.Number("1/3"), ""},
	{"2/6", sexp.Number("1/3"), "1/3"},
	{"4/2", sexp.Int(2), "2"},
	{"#xff", sexp.Int(255), "255"},
	{"#b101", sexp.Int(5), "5"},
	{"#o17", sexp.Int(15), "15"},
	{"+inf.0", sexp.Number("+inf.0"), ""},
	{"-inf.0", sexp.Number("-inf.0"), ""},
	{"+nan.0", sexp.Number("+nan.0"), ""},

	// Characters.
	{`#\a`, sexp.Char('a'), ""},
	{`#\space`, sexp.Char(' '), ""},
	{`#\newline`, sexp.Char('\n'), ""},
	{`#\nul`, sexp.Char(0), ""},
	{`#\(`, sexp.Char('('), ""},
	{`#\x41`, sexp.Char('A'), `#\A`},
	{`#\101`, sexp.Char('A'), `#\A`},
	{`#\x`, sexp.Char('x'), ""},
	{`#\é`, sexp.Char('é'), ""},
	{`#\soh`, sexp.Char(1), ""},
	{`#\us`, sexp.Char(31), ""},
	{`#\linefeed`, sexp.Char('\n'), `#\newline`},

	// Strings.
	{`""`, sexp.String(""), ""},
	{`"abc"`, sexp.String("abc"), ""},
	{`"a\"b\\c"`, sexp.String(`a"b\c`), ""},
	{`"a\nb\tc"`, sexp.String("a\nb\tc"), ""},
	{`"\x41;"`, sexp.String("A;"), `"A;"`},
	{`"\x41\u0042\U000043"`, sexp.String("ABC"), `"ABC"`},
	{"\"a\\\nb\"", sexp.String("ab"), `"ab"`},
	{`"é☃"`, sexp.String("é☃"), ""},
	{`"\a\b\f\v\0"`, sexp.String("\a\b\f\v\x00"), `"\a\b\f\v\x00"`},

	// Lists.
	{"()", sexp.L(), ""},
	{"(a b)", sexp.L(sexp.Symbol("a"), sexp.Symbol("b")), ""},
	{"[a b]", sexp.L(sexp.Symbol("a"), sexp.Symbol("b")), "(a b)"},
	{"( a\n;c\nb #;(c d) #|e|# )", sexp.L(sexp.Symbol("a"), sexp.Symbol("b")), "(a b)"},
	{"(a . b)", sexp.Cons(sexp.Symbol("a"), sexp.Symbol("b")), ""},
	{"(a . (b c))", sexp.L(sexp.Symbol("a"), sexp.Symbol("b"), sexp.Symbol("c")), "(a b c)"},
	{"(a . (b . c))", sexp.Cons(sexp.Symbol("a"), sexp.Cons(sexp.Symbol("b"), sexp.Symbol("c"))), "(a b . c)"},
	{"(a . ())", sexp.L(sexp.Symbol("a")), "(a)"},
	{"((a) (b . 1))", sexp.L(sexp.L(sexp.Symbol("a")), sexp.Cons(sexp.Symbol("b"), sexp.Int(1))), ""},
	{"#(1 #(2) x)", sexp.Vector{sexp.Int(1), sexp.Vector{sexp.Int(2)}, sexp.Symbol("x")}, ""},
	{"#()", sexp.Vector{}, ""},
	{"#vu8(0 255)", sexp.Bytes{0, 255}, ""},
	{"#vu8()", sexp.Bytes{}, ""},

	// Quotes.
	{"'a", sexp.Quote(sexp.Symbol("a")), "(quote a)"},
	{"`(a ,b ,@c)", sexp.L(sexp.Symbol("quasiquote"), sexp.L(sexp.Symbol("a"),
		sexp.L(sexp.Symbol("unquote"), sexp.Symbol("b")), sexp.L(sexp.Symbol("unquote-splicing"), sexp.Symbol("c")))),
		"(quasiquote (a (unquote b) (unquote-splicing c)))"},
	{"(quote a b)", sexp.L(sexp.Symbol("quote"), sexp.Symbol("a"), sexp.Symbol("b")), ""},
	{"#'x", sexp.L(sexp.Symbol("syntax"), sexp.Symbol("x")), "(syntax x)"},
}

func TestRead(t *testing.T) {
	for _, test := range data {
		got, err := sexp.Parse(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		if diff := cmp.Diff(test.value, got, places); diff != "" {
			t.Errorf("%s: %s", test.text, diff)
		}
	}
}

// What is printed need not be what Guile prints, but must be the same value.
func TestPrintIsReadBack(t *testing.T) {
	for _, test := range data {
		got, err := sexp.Parse(test.value.String())
		if err != nil {
			t.Errorf("%s printed as %s: %v", test.text, test.value, err)
			continue
		}
		if diff := cmp.Diff(test.value, got, places); diff != "" {
			t.Errorf("%s printed as %s: %s", test.text, test.value, diff)
		}
	}
}

func TestReadErrors(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", "1:1: no datum"},
		{"  ;x", "no datum"},
		{")", "1:1: unexpected closing parenthesis"},
		{".", "1:1: a dot outside a list"},
		{"(a", "1:3: unexpected end of text in the list that starts at 1:1"},
		{"(\n(a)", "2:4: unexpected end of text in the list that starts at 1:1"},
		{"(a]", "1:3: ']' does not close the '(' at 1:1"},
		{"(. a)", "1:2: nothing before the dot"},
		{"(a . )", "nothing after the dot"},
		{"(a . b c)", "more than one datum after the dot"},
		{"(a . b . c)", "dot"},
		{"'", "unexpected end of text"},
		{"(')", "nothing to quote"},
		{"(#;)", "no datum to comment out"},
		{"#;", "unexpected end of text"},
		{`"abc`, "unexpected end of text"},
		{`"\q"`, `unknown escape \q in a string`},
		{`"\xg1"`, "bad hexadecimal escape"},
		{`"\ud800"`, "no character has the number #xd800"},
		{"#|", "unexpected end of text"},
		{"#| #| |#", "unexpected end of text"},
		{"#!x", "unexpected end of text"},
		{"#{a", "unexpected end of text"},
		{"#<a", "unexpected end of text"},
		{"#q", "unknown syntax #q"},
		{"#", "unexpected end of text"},
		{"#(a . b)", "a dot in a vector"},
		{"#vu8(256)", "256 is not a byte"},
		{"#vu8(a)", "a is not a byte"},
		{"#vu8", "unexpected end of text"},
		{"#vu8(1 . 2)", "a dot in a bytevector"},
		{`#\nosuch`, `unknown character name #\nosuch`},
		{`#\xd800`, `unknown character name #\xd800`},
		{"#:", "unexpected end of text"},
		{"#:(a)", "#: must be followed by a name"},
		{"(#:)", "#: must be followed by a name"},
		{"\xff", "1:1: not UTF-8 text"},
		{"a b", "more text after the datum: b"},
	} {
		v, err := sexp.Parse(test.text)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, error %v, want %q in it", test.text, v, err, test.want)
			continue
		}
		var syntax *sexp.SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%q: error of type %T", test.text, err)
		}
	}
}

func TestReaderLimits(t *testing.T) {
	for _, open := range []string{"(", "[", "'", "#(", ",@", "#'", "(a . ", "#;", "#:", "#|", "#<"} {
		if _, err := sexp.Parse(strings.Repeat(open, 100_000)); err == nil {
			t.Errorf("%q a hundred thousand times is read", open)
		}
	}
	r := sexp.NewReader(strings.NewReader(`(a) "` + strings.Repeat("x", 100) + `"`))
	r.MaxSize, r.File = 50, "f"
	if _, err := r.Next(); err != nil {
		t.Error(err)
	}
	for range 2 { // the error stays
		if _, err := r.Next(); err == nil || err.Error() != "f:1:54: datum larger than 50 bytes" {
			t.Errorf("error %v", err)
		}
	}
	r = sexp.NewReader(strings.NewReader("((()))"))
	r.MaxDepth = 2
	if _, err := r.Next(); err == nil || err.Error() != "1:3: nested deeper than 2" {
		t.Errorf("error %v", err)
	}
	deep := strings.Repeat("(", 1000) + strings.Repeat(")", 1000)
	if _, err := sexp.Parse(deep); err != nil {
		t.Errorf("a thousand levels: %v", err)
	}
}

func TestReaderSequence(t *testing.T) {
	r := sexp.NewReader(iotest.OneByteReader(strings.NewReader("a (b)\n \"c\" ; end")))
	var got []string
	for {
		v, pos, err := r.NextAt()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, pos.String()+" "+v.String())
	}
	if diff := cmp.Diff([]string{"1:1 a", "1:3 (b)", `2:2 "c"`}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

// A reply is returned when it is complete: the reader must not wait for more.
func TestReaderDoesNotReadAhead(t *testing.T) {
	in, out := io.Pipe()
	defer out.Close()
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(out, "(values (value 1))\n")
		written <- err
	}()
	v, err := sexp.NewReader(in).Next()
	if err != nil || v.String() != "(values (value 1))" {
		t.Errorf("%v, %v", v, err)
	}
	in.Close()
	<-written
}

func TestReaderPassesErrorsOn(t *testing.T) {
	broken := errors.New("broken pipe")
	for _, text := range []string{"", "(a", `"a`, "#| a", "a", ";", "#", `#\`} {
		r := sexp.NewReader(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)))
		if v, err := r.Next(); !errors.Is(err, broken) {
			t.Errorf("%q: %v, %v", text, v, err)
		}
	}
}

func TestPositions(t *testing.T) {
	const text = "; é\n(a \"é\"\n  (b . c) . (d))"
	v, err := sexp.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	l := v.(*sexp.List)
	slice := func(p sexp.Pos) string { return text[p.Start:p.End] }
	var got []string
	for _, at := range l.At {
		got = append(got, at.String()+" "+slice(at))
	}
	if diff := cmp.Diff([]string{"2:2 a", `2:4 "é"`, "3:3 (b . c)", "3:14 d"}, got); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(slice(l.Pos), "(a") || !strings.HasSuffix(slice(l.Pos), "(d))") {
		t.Errorf("the list is %q", slice(l.Pos))
	}
}

func TestOpaque(t *testing.T) {
	for _, text := range []string{
		"#<package hello@2.12 gnu/packages/base.scm:92 7f>",
		"#<a #<b c> d>",
		`#<a "quoted > \" >">`,
		"#<procedure a->b (x)>",
		"#<unspecified>",
	} {
		v, err := sexp.Parse("(1 " + text + " 2)")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(sexp.L(sexp.Int(1), sexp.Opaque(text), sexp.Int(2)), v, places); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestMatching(t *testing.T) {
	v, err := sexp.Parse(`(channel (name x) (tags a b) (pair . 1) "str" (empty) (name y))`)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := sexp.Field(v, "name"); !ok || got != sexp.Symbol("x") {
		t.Errorf("name: %v, %v", got, ok)
	}
	if got, ok := sexp.Rest(v, "tags"); !ok || len(got) != 2 {
		t.Errorf("tags: %v, %v", got, ok)
	}
	if got, ok := sexp.Field(v, "pair"); !ok || got != sexp.Int(1) {
		t.Errorf("pair: %v, %v", got, ok)
	}
	if got, ok := sexp.Field(v, "empty"); ok {
		t.Errorf("empty: %v", got)
	}
	if _, ok := sexp.Field(v, "absent"); ok {
		t.Error("absent is there")
	}
	if rest, ok := sexp.Tagged(v, "channel"); !ok || len(rest) != 6 {
		t.Errorf("tagged: %v, %v", rest, ok)
	}
	if _, ok := sexp.Tagged(sexp.Cons(sexp.Symbol("a"), sexp.Int(1)), "a"); ok {
		t.Error("a pair is tagged")
	}
}

func FuzzRoundTrip(f *testing.F) {
	for _, test := range data {
		f.Add(test.text)
	}
	f.Add(`(a #<b> #:c "d\x00;" #\x0 'e #{f g}# #vu8(1) . #nil)`)
	f.Fuzz(func(t *testing.T, text string) {
		v, err := sexp.Parse(text)
		if err != nil {
			return
		}
		printed := v.String()
		again, err := sexp.Parse(printed)
		if err != nil {
			t.Fatalf("%q is printed as %q: %v", text, printed, err)
		}
		if diff := cmp.Diff(v, again, places); diff != "" {
			t.Errorf("%q is printed as %q, which is something else: %s", text, printed, diff)
		}
	})
}
