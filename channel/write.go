package channel

import (
	"bytes"
	"io"
	"strings"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// WriteTo writes a channels.scm that Guix reads as the same channels,
// laid out like "guix describe -f channels".
func (l List) WriteTo(w io.Writer) (int64, error) {
	return listCode(l, nil).WriteTo(w)
}

// listCode returns the text of a channels.scm. A comment, where there is one,
// stands above the channel of that index.
func listCode(l List, comments []string) *bytes.Buffer {
	var b bytes.Buffer
	b.WriteString("(list")
	for i, c := range l {
		gap := "\n      "
		if i == 0 && (comments == nil || comments[i] == "") {
			gap = " "
		}
		if comments != nil && comments[i] != "" {
			b.WriteString("\n      ;; " + strings.ReplaceAll(comments[i], "\n", " "))
		}
		b.WriteString(gap)
		writeIndented(&b, c.code(), len("      "))
	}
	b.WriteString(")\n")
	return &b
}

// code returns the expression that makes c.
func (c Channel) code() *sexp.List {
	fields := []sexp.Value{
		sexp.Symbol("channel"),
		field("name", sexp.Quote(sexp.Symbol(c.Name))),
		field("url", sexp.String(c.URL)),
		field("branch", sexp.String(c.withDefaults().Branch)),
	}
	if c.Commit != "" {
		fields = append(fields, field("commit", sexp.String(c.Commit)))
	}
	if i := c.Introduction; i != nil {
		fields = append(fields, field("introduction", sexp.L(
			sexp.Symbol("make-channel-introduction"),
			sexp.String(i.Commit),
			field("openpgp-fingerprint", sexp.String(i.Signer.String())),
		)))
	}
	return sexp.L(fields...)
}

func field(name sexp.Symbol, value sexp.Value) *sexp.List { return sexp.L(name, value) }

// writeIndented writes a list on one line if it is short, else its
// elements one below the other.
func writeIndented(b *bytes.Buffer, v sexp.Value, indent int) {
	l, isList := v.(*sexp.List)
	if text := v.String(); !isList || len(l.Items) < 2 || len(text)+indent <= 78 {
		b.WriteString(text)
		return
	}
	b.WriteString("(" + l.Items[0].String())
	for i, item := range l.Items[1:] {
		if i == 0 && len(l.Items) == 2 {
			b.WriteString(" ")
			writeIndented(b, item, indent+2+len(l.Items[0].String()))
			continue
		}
		b.WriteString("\n" + strings.Repeat(" ", indent+2))
		writeIndented(b, item, indent+2)
	}
	b.WriteString(")")
}
