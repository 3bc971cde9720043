package specification

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/inferior/sexp"
)

// Write writes specifications as a file that [Read] reads as the same ones. Without fields of
// ours, Cuirass does, too. It fails for what [Specification.Check] refuses.
func Write(w io.Writer, specs ...Specification) error {
	var b bytes.Buffer
	b.WriteString("(list")
	for _, s := range specs {
		if err := s.Check(); err != nil {
			return fmt.Errorf("write specification: %w", err)
		}
		fields, err := s.fields()
		if err != nil {
			return fmt.Errorf("write specification %s: %w", s.Name, err)
		}
		b.WriteString("\n (specification")
		for _, f := range fields {
			b.WriteString("\n  " + f.String())
		}
		b.WriteString(")")
	}
	b.WriteString(")\n")
	_, err := w.Write(b.Bytes())
	return err
}

func field(name sexp.Symbol, v sexp.Value) *sexp.List { return sexp.L(name, v) }

func quoted(v ...sexp.Value) sexp.Value { return sexp.Quote(sexp.L(v...)) }

// fields are the expressions (NAME VALUE), less what is as in a file without them.
func (s Specification) fields() ([]*sexp.List, error) {
	build, err := s.Build.Sexp()
	if err != nil {
		return nil, err
	}
	channels, err := expression(s.Channels)
	if err != nil {
		return nil, err
	}
	fields := []*sexp.List{
		field("name", sexp.String(s.Name)), field("build", sexp.Quote(build)), field("channels", channels),
		field("priority", sexp.Int(s.Priority)),
	}
	add := func(given bool, name sexp.Symbol, v sexp.Value) {
		if given {
			fields = append(fields, field(name, v))
		}
	}
	add(len(s.Outputs) > 0, "build-outputs", s.outputs())
	add(len(s.Notifications) > 0, "notifications", s.notifications())
	add(len(s.Systems) > 0, "systems", quoted(sexp.Strings(s.Systems...).Items...))
	add(s.Inactive, "is-active?", sexp.Bool(false))
	if s.Properties != "" {
		properties, err := sexp.Parse(s.Properties)
		if err != nil {
			return nil, err
		}
		add(true, "properties", sexp.Quote(properties))
	}
	add(len(s.Green.Jobs) > 0, "green", quoted(sexp.Strings(s.Green.Jobs...).Items...))
	for _, f := range []struct {
		name sexp.Symbol
		n    int64
	}{
		{"period", int64(s.Period / time.Second)}, {"timeout", int64(s.Timeout / time.Second)},
		{"max-silent-time", int64(s.MaxSilent / time.Second)}, {"sessions", int64(s.Sessions)}, {"session-memory", s.SessionMemory},
	} {
		add(f.n != 0, f.name, sexp.Int(f.n))
	}
	return fields, nil
}

func (s Specification) outputs() sexp.Value {
	l := sexp.L(sexp.Symbol("list"))
	for _, o := range s.Outputs {
		l.Items = append(l.Items, sexp.L(sexp.Symbol("build-output"), field("job", sexp.String(o.Job)),
			field("type", sexp.String(o.Type)), field("output", sexp.String(o.Output)), field("path", sexp.String(o.Path))))
	}
	return l
}

func (s Specification) notifications() sexp.Value {
	l := sexp.L(sexp.Symbol("list"))
	for _, n := range s.Notifications {
		item := sexp.L(sexp.Symbol(n.Type))
		if n.Type == "email" {
			item.Items = append(item.Items, field("from", sexp.String(n.From)), field("to", sexp.String(n.To)), field("server", sexp.String(n.Server)))
		}
		l.Items = append(l.Items, item)
	}
	return l
}

// expression is the code of a list of channels.
func expression(list channel.List) (sexp.Value, error) {
	var text bytes.Buffer
	if _, err := list.WriteTo(&text); err != nil {
		return nil, err
	}
	return sexp.Parse(text.String())
}
