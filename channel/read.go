package channel

import (
	"fmt"
	"io"
	"slices"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A NotDataError says that a channels file is a program: to know its channels it
// would have to be run. [ReadList] never runs anything.
type NotDataError struct {
	File string
	Pos  sexp.Pos
	Form string // the expression, shortened
}

// NotData returns the *[NotDataError] about an expression.
func NotData(file string, v sexp.Value, at sexp.Pos) error {
	form := []rune(v.String())
	if len(form) > 60 {
		form = append(form[:59], '…')
	}
	return &NotDataError{File: file, Pos: at, Form: string(form)}
}

func (e *NotDataError) Error() string {
	return fmt.Sprintf("%s:%v: %s is not plain data: write the channels out as (list (channel …) …), "+
		`as "guix describe -f channels" prints them`, e.File, e.Pos, e.Form)
}

// ReadList reads a channels.scm, or what "guix describe -f channels" printed.
// The name is used in errors.
//
// It understands list, cons, cons*, append, quoted empty lists, channel with all
// its fields and inherit, make-channel-introduction, openpgp-fingerprint,
// %default-channels and %default-guix-channel, and skips use-modules.
// Any other expression is a *[NotDataError]; what Guix would refuse as well is a
// *[sexp.SyntaxError]. Both name file, line and column.
func ReadList(name string, r io.Reader) (List, error) {
	reader := sexp.NewReader(r)
	reader.File = name
	reader.MaxDepth, reader.MaxSize = 100, 4<<20
	entries, err := evaluate(name, reader)
	if err != nil {
		return nil, err
	}
	return entries.list(), nil
}

// ReadExpression is [ReadList] for an expression that was read from a file of that name
// already and stands at pos in it: the value of a field, for one.
func ReadExpression(name string, expression sexp.Value, pos sexp.Pos) (List, error) {
	e := evaluator{file: name}
	v, err := e.eval(expression, pos)
	if err != nil {
		return nil, err
	}
	list, ok := v.(entries)
	if !ok {
		return nil, e.fail(pos, "%.40s is not a list of channels", expression)
	}
	return list.list(), nil
}

// An entry is a channel of a list, and where it is written.
type entry struct {
	Channel
	at     sexp.Pos // of the expression; a symbol for the default channels
	commit sexp.Pos // of the value of its own commit field; zero when it has none
	symbol sexp.Symbol
}

// entries are the channels of a list expression. More may be put in at room, if it is
// not zero: a place within a (list …) where all that stands are channels.
type entries struct {
	items []entry
	room  sexp.Pos
}

func (e entries) list() List {
	list := make(List, len(e.items))
	for i, item := range e.items {
		list[i] = item.Channel
	}
	return list
}

// evaluate returns the value of the last expression of a file.
func evaluate(name string, reader *sexp.Reader) (entries, error) {
	e := evaluator{file: name}
	var last any // no list: an error, like the empty file in Guix
	at := sexp.Pos{Line: 1, Column: 1}
	for {
		form, pos, err := reader.NextAt()
		if err == io.EOF {
			break
		}
		if err != nil {
			return entries{}, err
		}
		if _, ok := sexp.Tagged(form, "use-modules"); ok {
			continue
		}
		if last, err = e.eval(form, pos); err != nil {
			return entries{}, err
		}
		at = pos
	}
	list, ok := last.(entries)
	if !ok {
		return list, e.fail(at, "the file does not end in a list of channels")
	}
	return list, nil
}

// An evaluator finds the value of expressions that need no running:
// entries, an entry, an *Introduction, a Fingerprint or a sexp.Value.
type evaluator struct{ file string }

func (e evaluator) fail(at sexp.Pos, format string, args ...any) error {
	return &sexp.SyntaxError{File: e.file, Pos: at, Msg: fmt.Sprintf(format, args...)}
}

func (e evaluator) notData(v sexp.Value, at sexp.Pos) error {
	return NotData(e.file, v, at)
}

func (e evaluator) eval(v sexp.Value, at sexp.Pos) (any, error) {
	switch v := v.(type) {
	case sexp.String, sexp.Bool:
		return v, nil
	case sexp.Symbol:
		official := entry{Channel: DefaultGuix(), at: at, symbol: v}
		switch v {
		case "%default-channels":
			return entries{items: []entry{official}}, nil
		case "%default-guix-channel":
			return official, nil
		}
	case *sexp.List:
		if len(v.Items) > 0 && v.Tail == nil {
			return e.apply(v, at)
		}
	}
	return nil, e.notData(v, at)
}

func (e evaluator) apply(l *sexp.List, at sexp.Pos) (any, error) {
	switch l.Items[0] {
	case sexp.Symbol("list"):
		list, err := e.list(l, 0)
		list.room = l.At[len(l.At)-1]
		return list, err
	case sexp.Symbol("cons"):
		if len(l.Items) != 3 {
			return nil, e.fail(at, "cons takes two arguments")
		}
		return e.list(l, 1)
	case sexp.Symbol("cons*"):
		if len(l.Items) < 2 {
			return nil, e.fail(at, "cons* takes at least one argument")
		}
		return e.list(l, 1)
	case sexp.Symbol("append"):
		return e.list(l, len(l.Items)-1)
	case sexp.Symbol("quote"):
		return e.quoted(l, at)
	case sexp.Symbol("channel"):
		return e.channel(l, at)
	case sexp.Symbol("make-channel-introduction"):
		return e.introduction(l, at)
	case sexp.Symbol("openpgp-fingerprint"):
		return e.fingerprint(l, at)
	}
	return nil, e.notData(l, at)
}

// list joins the arguments of l, the last ones of which are lists themselves.
func (e evaluator) list(l *sexp.List, lists int) (result entries, err error) {
	for i, arg := range l.Items[1:] {
		at := l.At[i+1]
		v, err := e.eval(arg, at)
		if err != nil {
			return result, err
		}
		wantList := i+1 >= len(l.Items)-lists
		switch v := v.(type) {
		case entries:
			if !wantList {
				return result, e.fail(at, "a list of channels where one channel is wanted")
			}
			result.items = append(result.items, v.items...)
			result.room = v.room
		case entry:
			if wantList {
				return result, e.fail(at, "a channel where a list of channels is wanted")
			}
			result.items = append(result.items, v)
		default:
			return result, e.fail(at, "%.40s is not a channel", arg)
		}
	}
	return result, nil
}

// quoted evaluates (quote x). A quoted list holds symbols and lists, never
// channels, so only the empty one can be a channel list.
func (e evaluator) quoted(l *sexp.List, at sexp.Pos) (any, error) {
	if len(l.Items) != 2 {
		return nil, e.fail(at, "quote takes one argument")
	}
	if items, ok := sexp.Items(l.Items[1]); ok && len(items) == 0 {
		return entries{}, nil
	}
	return l.Items[1], nil
}

func (e evaluator) channel(l *sexp.List, at sexp.Pos) (entry, error) {
	c := entry{Channel: Channel{Branch: defaultBranch}, at: at}
	var seen []string
	for i, item := range l.Items[1:] {
		at := l.At[i+1]
		f, ok := item.(*sexp.List)
		if !ok || len(f.Items) != 2 || f.Tail != nil {
			return c, e.fail(at, "%.40s is not a field of a channel", item)
		}
		name, _ := sexp.Text(f.Items[0])
		if slices.Contains(seen, name) {
			return c, e.fail(at, "field %s is given twice", name)
		}
		seen = append(seen, name)
		if name == "inherit" && i > 0 {
			return c, e.fail(at, "inherit must be the first field")
		}
		if err := e.field(&c, name, f); err != nil {
			return c, err
		}
	}
	if c.Name == "" {
		return c, e.fail(at, "the channel lacks a name")
	}
	if c.URL == "" {
		return c, e.fail(at, "channel %s lacks a url", c.Name)
	}
	return c, nil
}

// field sets one field of c to the value of f.
func (e evaluator) field(c *entry, name string, f *sexp.List) (err error) {
	at := f.At[1]
	v, err := e.eval(f.Items[1], at)
	if err != nil {
		return err
	}
	wrong := func(want string) error { return e.fail(at, "the %s of a channel must be %s", name, want) }
	text, isText := v.(sexp.String)
	unset := v == any(sexp.Bool(false))
	switch name {
	case "name":
		symbol, ok := v.(sexp.Symbol)
		if !ok || symbol == "" {
			return wrong("a symbol, such as 'guix")
		}
		c.Name = string(symbol)
	case "url":
		if !isText || text == "" {
			return wrong("a string")
		}
		c.URL = string(text)
	case "branch":
		if !isText && !unset {
			return wrong("a string")
		}
		c.Branch = string(text)
	case "commit":
		if !isText && !unset {
			return wrong("a string")
		}
		c.Commit, c.commit = Commit(text), at
	case "introduction":
		intro, ok := v.(*Introduction)
		if !ok && !unset {
			return wrong("a channel introduction")
		}
		c.Introduction = intro
	case "inherit":
		parent, ok := v.(entry)
		if !ok {
			return e.fail(at, "inherit needs a channel")
		}
		c.Channel = parent.Channel
	case "location":
	default:
		return e.fail(f.At[0], "a channel has no field %q", name)
	}
	return nil
}

func (e evaluator) introduction(l *sexp.List, at sexp.Pos) (*Introduction, error) {
	if len(l.Items) != 3 {
		return nil, e.fail(at, "make-channel-introduction takes a commit and a fingerprint")
	}
	text, _ := l.Items[1].(sexp.String)
	commit, err := ParseCommit(string(text))
	if err != nil {
		return nil, e.fail(l.At[1], "the commit of an introduction must be a string of 40 hexadecimal digits")
	}
	v, err := e.eval(l.Items[2], l.At[2])
	if err != nil {
		return nil, err
	}
	signer, ok := v.(Fingerprint)
	if !ok {
		return nil, e.fail(l.At[2], `the signer of an introduction must be (openpgp-fingerprint "…")`)
	}
	return &Introduction{Commit: commit, Signer: signer}, nil
}

func (e evaluator) fingerprint(l *sexp.List, at sexp.Pos) (any, error) {
	if len(l.Items) != 2 {
		return nil, e.fail(at, "openpgp-fingerprint takes one string")
	}
	text, ok := l.Items[1].(sexp.String)
	if !ok {
		return nil, e.notData(l, at)
	}
	f, err := ParseFingerprint(string(text))
	if err != nil {
		return nil, e.fail(l.At[1], "%v", err)
	}
	return f, nil
}
