package specification

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/sexp"
)

// A literal finds the value of expressions in a file that need no running.
type literal struct{ file string }

func (l literal) fail(at sexp.Pos, format string, args ...any) error {
	return &sexp.SyntaxError{File: l.file, Pos: at, Msg: fmt.Sprintf(format, args...)}
}

func (l literal) notData(v sexp.Value, at sexp.Pos) error { return channel.NotData(l.file, v, at) }

// An argument is an expression and its place.
type argument struct {
	value sexp.Value
	at    sexp.Pos
}

// call splits (procedure argument …); ok is false for anything else.
func call(v sexp.Value) (procedure sexp.Symbol, arguments []argument, ok bool) {
	l, isList := v.(*sexp.List)
	if !isList || len(l.Items) == 0 || l.Tail != nil {
		return "", nil, false
	}
	procedure, ok = l.Items[0].(sexp.Symbol)
	for i, item := range l.Items[1:] {
		a := argument{value: item}
		if l.At != nil {
			a.at = l.At[i+1]
		}
		arguments = append(arguments, a)
	}
	return procedure, arguments, ok
}

// elements returns the expressions that a list expression has the values of.
func (l literal) elements(v sexp.Value, at sexp.Pos) ([]argument, error) {
	procedure, arguments, ok := call(v)
	lists := 0 // how many of the last arguments are lists themselves
	switch {
	case !ok:
		return nil, l.notData(v, at)
	case procedure == "list":
	case procedure == "cons" && len(arguments) == 2, procedure == "cons*" && len(arguments) > 0:
		lists = 1
	case procedure == "append":
		lists = len(arguments)
	case procedure == "quote" && len(arguments) == 1:
		if items, ok := sexp.Items(arguments[0].value); ok && len(items) == 0 {
			return nil, nil
		}
		return nil, l.fail(at, "a quoted list holds no records")
	default:
		return nil, l.notData(v, at)
	}
	first := len(arguments) - lists
	all := arguments[:first:first]
	for _, a := range arguments[first:] {
		more, err := l.elements(a.value, a.at)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// datum is the value of an expression that is constant data.
func (l literal) datum(v sexp.Value, at sexp.Pos) (argument, error) {
	switch v.(type) {
	case sexp.String, sexp.Bool, sexp.Int:
		return argument{v, at}, nil
	}
	procedure, arguments, ok := call(v)
	switch {
	case ok && procedure == "quote" && len(arguments) == 1:
		return arguments[0], nil
	case ok && procedure == "list":
		made := sexp.L()
		for _, a := range arguments {
			item, err := l.datum(a.value, a.at)
			if err != nil {
				return argument{}, err
			}
			made.Items, made.At = append(made.Items, item.value), append(made.At, item.at)
		}
		return argument{made, at}, nil
	}
	return argument{}, l.notData(v, at)
}

func (l literal) specifications(v sexp.Value, at sexp.Pos) (all []located, err error) {
	elements, err := l.elements(v, at)
	if err != nil {
		return nil, err
	}
	for _, e := range elements {
		s, err := l.specification(e.value, e.at)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// defaults are the fields that a file does not give.
func defaults() Specification {
	return Specification{Build: Build{Mode: string(inferior.ModeAll)}, Channels: channel.List{channel.DefaultGuix()}, Priority: 9}
}

func (l literal) specification(v sexp.Value, at sexp.Pos) (located, error) {
	s := located{Specification: defaults(), at: place{l.file, at}, fields: map[string]place{}}
	procedure, fields, ok := call(v)
	if !ok || procedure != "specification" {
		return s, l.notData(v, at)
	}
	for i, f := range fields {
		name, value, err := l.field(f, procedure)
		if err != nil {
			return s, err
		}
		if name == "inherit" && i == 0 {
			parent, err := l.specification(value.value, value.at)
			if err != nil {
				return s, err
			}
			s.Specification = parent.Specification
			continue
		}
		if _, twice := s.fields[string(name)]; twice {
			return s, l.fail(f.at, "field %s is given twice", name)
		}
		s.fields[string(name)] = place{l.file, value.at}
		if err := l.set(&s.Specification, name, value); err != nil {
			return s, err
		}
	}
	if _, ok := s.fields["name"]; !ok && s.Name == "" {
		return s, l.fail(at, "the specification lacks a name")
	}
	return s, nil
}

// field splits (NAME VALUE).
func (l literal) field(f argument, record sexp.Symbol) (name sexp.Symbol, value argument, err error) {
	name, values, ok := call(f.value)
	if !ok || len(values) != 1 {
		return "", value, l.fail(f.at, "%.40s is not a field of %s", f.value, record)
	}
	return name, values[0], nil
}

// setters read the value of each field.
var setters = map[sexp.Symbol]func(l literal, s *Specification, v argument) error{
	"name":          func(l literal, s *Specification, v argument) error { return l.text(&s.Name, v) },
	"build":         literal.build,
	"channels":      literal.channels,
	"build-outputs": literal.outputs,
	"notifications": literal.notifications,
	"period":        func(l literal, s *Specification, v argument) error { return l.seconds(&s.Period, v) },
	"priority": func(l literal, s *Specification, v argument) error {
		n, err := l.number(v)
		s.Priority = int(n)
		return err
	},
	"systems":    func(l literal, s *Specification, v argument) error { return l.strings(&s.Systems, v) },
	"is-active?": literal.active,
	"properties": literal.properties,

	"green":           literal.green,
	"timeout":         func(l literal, s *Specification, v argument) error { return l.seconds(&s.Timeout, v) },
	"max-silent-time": func(l literal, s *Specification, v argument) error { return l.seconds(&s.MaxSilent, v) },
	"sessions": func(l literal, s *Specification, v argument) error {
		n, err := l.number(v)
		s.Sessions = int(n)
		return err
	},
	"session-memory": func(l literal, s *Specification, v argument) (err error) {
		s.SessionMemory, err = l.number(v)
		return err
	},
}

// set sets one field to the value of an expression.
func (l literal) set(s *Specification, name sexp.Symbol, v argument) error {
	setter, ok := setters[name]
	if !ok {
		known := slices.Sorted(maps.Keys(setters))
		return l.fail(v.at, "a specification has no field %q, only %v", name, known)
	}
	return setter(l, s, v)
}

func (l literal) build(s *Specification, v argument) error {
	d, err := l.datum(v.value, v.at)
	if err != nil {
		return err
	}
	if s.Build, err = buildOf(d.value); err != nil {
		return l.fail(d.at, "%v", err)
	}
	return nil
}

func (l literal) channels(s *Specification, v argument) (err error) {
	s.Channels, err = channel.ReadExpression(l.file, v.value, v.at)
	for i, c := range s.Channels {
		if c.Branch == "" {
			s.Channels[i].Branch = channel.DefaultGuix().Branch
		}
	}
	return err
}

func (l literal) active(s *Specification, v argument) error {
	d, err := l.datum(v.value, v.at)
	s.Inactive = !sexp.True(d.value)
	return err
}

func (l literal) properties(s *Specification, v argument) error {
	d, err := l.datum(v.value, v.at)
	if err != nil {
		return err
	}
	if items, ok := sexp.Items(d.value); !ok || len(items) > 0 {
		s.Properties = d.value.String()
	}
	return nil
}

func (l literal) green(s *Specification, v argument) error {
	d, err := l.datum(v.value, v.at)
	if err != nil {
		return err
	}
	s.Green = record.Policy{}
	if d.value == sexp.Value(sexp.Symbol("all")) {
		return nil
	}
	return l.strings(&s.Green.Jobs, v)
}

// text reads a string or a symbol.
func (l literal) text(to *string, v argument) error {
	d, err := l.datum(v.value, v.at)
	if err != nil {
		return err
	}
	text, ok := sexp.Text(d.value)
	if !ok {
		return l.fail(d.at, "%.40s is not a string", d.value)
	}
	*to = text
	return nil
}

// strings reads a list of strings.
func (l literal) strings(to *[]string, v argument) error {
	d, err := l.datum(v.value, v.at)
	if err != nil {
		return err
	}
	list, _ := d.value.(*sexp.List)
	if list == nil || list.Tail != nil {
		return l.fail(d.at, "%.40s is not a list of strings", d.value)
	}
	*to = nil
	for i, item := range list.Items {
		text, ok := sexp.Text(item)
		if !ok || text == "" {
			return l.fail(list.At[i], "%.40s is not a string", item)
		}
		*to = append(*to, text)
	}
	return nil
}

func (l literal) number(v argument) (int64, error) {
	d, err := l.datum(v.value, v.at)
	if err != nil {
		return 0, err
	}
	n, ok := d.value.(sexp.Int)
	if !ok {
		return 0, l.fail(d.at, "%.40s is not an integer", d.value)
	}
	return int64(n), nil
}

const mostSeconds = 1 << 32 // more than a century

func (l literal) seconds(to *time.Duration, v argument) error {
	n, err := l.number(v)
	if err != nil {
		return err
	}
	if n < 0 || n > mostSeconds {
		return l.fail(v.at, "%d is not a number of seconds", n)
	}
	*to = time.Duration(n) * time.Second
	return nil
}

// texts reads the fields of a record, all of which are strings. Those not given
// keep what to points at; without a default they must be.
func (l literal) texts(r argument, fields []argument, to map[sexp.Symbol]*string, required ...sexp.Symbol) error {
	record, _, _ := call(r.value)
	missing := slices.Clone(required)
	for _, f := range fields {
		name, value, err := l.field(f, record)
		if err != nil {
			return err
		}
		if to[name] == nil {
			return l.fail(f.at, "%s has no field %q", record, name)
		}
		if err := l.text(to[name], value); err != nil {
			return err
		}
		missing = slices.DeleteFunc(missing, func(s sexp.Symbol) bool { return s == name })
	}
	if len(missing) > 0 {
		return l.fail(r.at, "the %s lacks %s", record, missing[0])
	}
	return nil
}

func (l literal) outputs(s *Specification, v argument) error {
	elements, err := l.elements(v.value, v.at)
	s.Outputs = nil
	for _, e := range elements {
		procedure, fields, ok := call(e.value)
		if !ok || procedure != "build-output" {
			return l.notData(e.value, e.at)
		}
		b := BuildOutput{Output: "out"}
		to := map[sexp.Symbol]*string{"job": &b.Job, "type": &b.Type, "output": &b.Output, "path": &b.Path}
		if err := l.texts(e, fields, to, "job", "type"); err != nil {
			return err
		}
		s.Outputs = append(s.Outputs, b)
	}
	return err
}

func (l literal) notifications(s *Specification, v argument) error {
	elements, err := l.elements(v.value, v.at)
	s.Notifications = nil
	for _, e := range elements {
		procedure, fields, ok := call(e.value)
		if !ok || procedure != "email" && procedure != "mastodon" {
			return l.notData(e.value, e.at)
		}
		n := Notification{Type: string(procedure)}
		to, required := map[sexp.Symbol]*string{}, []sexp.Symbol{}
		if procedure == "email" {
			to = map[sexp.Symbol]*string{"from": &n.From, "to": &n.To, "server": &n.Server}
			required = []sexp.Symbol{"from", "to", "server"}
		}
		if err := l.texts(e, fields, to, required...); err != nil {
			return err
		}
		s.Notifications = append(s.Notifications, n)
	}
	return err
}
