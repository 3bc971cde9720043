package specification

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/inferior/sexp"
)

// jsonForm is the JSON form of a Specification: Cuirass's keys, as GET /specifications
// gives them, and ours. Times are in seconds.
type jsonForm struct {
	Name          string         `json:"name"`
	Build         *Build         `json:"build"`
	Channels      []jsonChannel  `json:"channels"`
	Outputs       []BuildOutput  `json:"build-outputs"`
	Notifications []Notification `json:"notifications"`
	Period        int64          `json:"period"`
	Priority      *int           `json:"priority"`
	Systems       []string       `json:"systems"`
	Active        *bool          `json:"is-active"`
	Properties    string         `json:"properties,omitempty"`

	Green         record.Policy `json:"green"`
	Timeout       int64         `json:"timeout,omitempty"`
	MaxSilent     int64         `json:"max-silent-time,omitempty"`
	Sessions      int           `json:"sessions,omitempty"`
	SessionMemory int64         `json:"session-memory,omitempty"`
}

// jsonChannel is a channel with exactly what was written, no more.
type jsonChannel struct {
	Name         string                `json:"name"`
	URL          string                `json:"url"`
	Branch       string                `json:"branch"`
	Commit       channel.Commit        `json:"commit,omitempty"`
	Introduction *channel.Introduction `json:"introduction,omitempty"`
}

// MarshalJSON returns an object with Cuirass's keys and ours.
func (s Specification) MarshalJSON() ([]byte, error) {
	active := !s.Inactive
	f := jsonForm{
		Name: s.Name, Build: &s.Build, Outputs: s.Outputs, Notifications: s.Notifications,
		Period: int64(s.Period / time.Second), Priority: &s.Priority, Systems: s.Systems, Active: &active, Properties: s.Properties,
		Green: s.Green, Timeout: int64(s.Timeout / time.Second), MaxSilent: int64(s.MaxSilent / time.Second),
		Sessions: s.Sessions, SessionMemory: s.SessionMemory,
	}
	for _, c := range s.Channels {
		f.Channels = append(f.Channels, jsonChannel(c))
	}
	for _, list := range []any{&f.Outputs, &f.Notifications, &f.Systems, &f.Channels} {
		emptyForNull(list)
	}
	return json.Marshal(f)
}

// emptyForNull has an empty list written as [], as Cuirass does.
func emptyForNull(list any) {
	switch l := list.(type) {
	case *[]BuildOutput:
		*l = append([]BuildOutput{}, *l...)
	case *[]Notification:
		*l = append([]Notification{}, *l...)
	case *[]string:
		*l = append([]string{}, *l...)
	case *[]jsonChannel:
		*l = append([]jsonChannel{}, *l...)
	}
}

// UnmarshalJSON reads what MarshalJSON or Cuirass writes. What is missing is as in a
// file without that field.
func (s *Specification) UnmarshalJSON(text []byte) error {
	var f jsonForm
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return err
	}
	*s = defaults()
	s.Name, s.Properties, s.Green.Jobs = f.Name, normal(f.Properties), nonEmpty(f.Green.Jobs)
	for _, t := range []struct {
		key string
		to  *time.Duration
		n   int64
	}{{"period", &s.Period, f.Period}, {"timeout", &s.Timeout, f.Timeout}, {"max-silent-time", &s.MaxSilent, f.MaxSilent}} {
		if t.n < 0 || t.n > mostSeconds {
			return &memberError{t.key, fmt.Sprintf("%d is not a number of seconds", t.n)}
		}
		*t.to = time.Duration(t.n) * time.Second
	}
	s.Sessions, s.SessionMemory = f.Sessions, f.SessionMemory
	s.Outputs, s.Notifications, s.Systems = nonEmpty(f.Outputs), nonEmpty(f.Notifications), nonEmpty(f.Systems)
	if f.Build != nil {
		s.Build = *f.Build
	}
	if f.Priority != nil {
		s.Priority = *f.Priority
	}
	s.Inactive = f.Active != nil && !*f.Active
	if f.Channels == nil {
		return nil
	}
	s.Channels = nil
	for i, c := range f.Channels {
		if c.Name == "" || c.URL == "" || c.Introduction != nil && !c.Introduction.Commit.Complete() {
			return &memberError{"channels", fmt.Sprintf("channel %d lacks a name, a url or a complete commit of its introduction", i+1)}
		}
		if c.Branch == "" {
			c.Branch = channel.DefaultGuix().Branch
		}
		s.Channels = append(s.Channels, channel.Channel(c))
	}
	return nil
}

// A memberError is what is wrong with a member of the object.
type memberError struct{ key, msg string }

func (e *memberError) Error() string { return e.msg }

// normal is a datum as it is written; empty for none.
func normal(text string) string {
	v, err := sexp.Parse(text)
	if err != nil {
		return text // for Check to refuse
	}
	if items, ok := sexp.Items(v); ok && len(items) == 0 {
		return ""
	}
	return v.String()
}

func nonEmpty[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

// MarshalJSON returns "MODE" or {"MODE": [ARGUMENT, …]}, as Cuirass does.
func (b Build) MarshalJSON() ([]byte, error) {
	if b.Mode == "" {
		b = Build{Mode: "channels"}
	} else if b.Arguments == nil {
		return json.Marshal(b.Mode)
	}
	return json.Marshal(map[string][]string{b.Mode: append([]string{}, b.Arguments...)})
}

// UnmarshalJSON reads both forms.
func (b *Build) UnmarshalJSON(text []byte) error {
	*b = Build{}
	if err := json.Unmarshal(text, &b.Mode); err == nil {
		return nil
	}
	var modes map[string][]string
	if err := json.Unmarshal(text, &modes); err != nil {
		return err
	}
	if len(modes) != 1 {
		return fmt.Errorf("field build has %d modes, and must have one", len(modes))
	}
	for mode, arguments := range modes {
		b.Mode, b.Arguments = mode, nonEmpty(arguments)
	}
	if v, err := b.Sexp(); err == nil && b.Mode != "" {
		if same, err := buildOf(v); err == nil && len(same.Arguments) == len(b.Arguments) {
			*b = same
		}
	}
	return nil
}

// readJSON reads one specification or an array of them.
func readJSON(name string, text []byte) ([]Specification, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	array := bytes.HasPrefix(bytes.TrimSpace(text), []byte("["))
	if array {
		d.Token() // the bracket
	}
	var found []located
	for d.More() {
		start := begin(text, int(d.InputOffset()))
		var item json.RawMessage
		err := d.Decode(&item)
		s := located{at: place{name, position(text, start)}}
		if err != nil {
			// The decoder counts bytes in its own way; it is the first mistake from here on.
			return nil, jsonError(name, text, start, errors.Join(json.Unmarshal(text[start:], new(any)), err))
		}
		if err := json.Unmarshal(item, &s.Specification); err != nil {
			return nil, itemError(name, text, start, item, err)
		}
		s.fields = map[string]place{}
		for key, m := range members(item) {
			s.fields[key] = place{name, position(text, start+m.value)}
		}
		found = append(found, s)
	}
	if array {
		if _, err := d.Token(); err != nil {
			return nil, jsonError(name, text, 0, err)
		}
	}
	if rest := begin(text, int(d.InputOffset())); rest < len(text) {
		return nil, &sexp.SyntaxError{File: name, Pos: position(text, rest), Msg: "more text after the specifications"}
	}
	return checked(name, found)
}

// begin is the offset of the next thing that is neither white space nor a comma.
func begin(text []byte, at int) int {
	return len(text) - len(bytes.TrimLeft(text[at:], " \t\r\n,"))
}

// A member is where the key and the value of an object's member begin.
type member struct{ key, value int }

// members are those of an object, which is one.
func members(object []byte) map[string]member {
	all := map[string]member{}
	d := json.NewDecoder(bytes.NewReader(object))
	d.Token() // the brace
	for d.More() {
		at := member{key: begin(object, int(d.InputOffset()))}
		key, err := d.Token()
		if err != nil {
			return all
		}
		at.value = begin(object, int(d.InputOffset()))
		at.value += len(object[at.value:]) - len(bytes.TrimLeft(object[at.value:], ": \t\r\n"))
		all[fmt.Sprint(key)] = at
		if d.Decode(new(json.RawMessage)) != nil {
			return all
		}
	}
	return all
}

// unknownMember is what package json says of a key that is none; it has no type for that.
var unknownMember = regexp.MustCompile(`^json: unknown field "(.*)"$`)

// itemError says what is wrong with one specification, and where: text from start on.
func itemError(name string, text []byte, start int, item []byte, err error) error {
	var kind *json.UnmarshalTypeError
	var wrong *memberError
	fail := func(at int, format string, args ...any) error {
		return &sexp.SyntaxError{File: name, Pos: position(text, start+at), Msg: fmt.Sprintf(format, args...)}
	}
	switch unknown := unknownMember.FindStringSubmatch(err.Error()); {
	case unknown != nil:
		at := max(0, bytes.Index(item, []byte(`"`+unknown[1]+`"`))) // perhaps of an object inside
		if m, ok := members(item)[unknown[1]]; ok {
			at = m.key
		}
		return fail(at, "there is no field %q", unknown[1])
	case errors.As(err, &wrong):
		return fail(members(item)[wrong.key].value, "%s", wrong.msg)
	case errors.As(err, &kind) && kind.Field != "":
		return fail(min(int(kind.Offset)-1, len(item)), "field %q is a %s, and must be %s", kind.Field, kind.Value, kindNames[kind.Type.Kind()])
	}
	return jsonError(name, text, start, err)
}

// kindNames are what JSON calls what we read into.
var kindNames = map[reflect.Kind]string{reflect.Int: "a number", reflect.Int64: "a number", reflect.String: "a string",
	reflect.Bool: "true or false", reflect.Slice: "an array", reflect.Struct: "an object", reflect.Map: "an object"}

// jsonError gives an error about the part of text from start its place.
func jsonError(name string, text []byte, start int, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		start += int(syntax.Offset) - 1
	case errors.As(err, &kind):
		start += int(kind.Offset) - 1
	}
	msg, _, _ := strings.Cut(err.Error(), "\n")
	return &sexp.SyntaxError{File: name, Pos: position(text, min(max(start, 0), len(text))), Msg: msg}
}

// position is that of a byte.
func position(text []byte, at int) sexp.Pos {
	before := text[:at]
	line := before[bytes.LastIndexByte(before, '\n')+1:]
	return sexp.Pos{Line: 1 + bytes.Count(before, []byte("\n")), Column: 1 + len([]rune(string(line))), Start: at, End: at}
}
