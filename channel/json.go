package channel

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// readJSON reads an array of channels, one channel, or the JSON form of a lock. Errors say where.
func readJSON(name string, text []byte) (List, error) {
	whole := jsonPart{name, text, 0, text}
	var array []json.RawMessage
	if err := whole.decode(&array); err == nil {
		return whole.channels()
	}
	var object struct{ Channels json.RawMessage }
	if err := whole.decode(&object); err != nil {
		return nil, err
	}
	if object.Channels == nil || string(object.Channels) == "null" {
		c, err := whole.channel()
		return List{c}, err
	}
	channels := whole
	if err := whole.each(func(key string, value jsonPart) error {
		if strings.EqualFold(key, "channels") { // as package json takes it
			channels = value
		}
		return nil
	}); err != nil {
		return nil, err
	}
	return channels.channels()
}

// A jsonPart is a value within a text.
type jsonPart struct {
	file  string
	text  []byte
	start int // of value in text
	value []byte
}

// decode is [json.Unmarshal] with a place in the error.
func (p jsonPart) decode(to any) error {
	err := json.Unmarshal(p.value, to)
	if err == nil {
		return nil
	}
	at := p.start
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		at += max(0, int(syntax.Offset)-1) // it has been read
	case errors.As(err, &kind):
		at += max(0, int(kind.Offset)-1)
		err = errors.New("a JSON " + kind.Value + " where there must not be one")
	}
	return p.fail(at, err)
}

// fail returns an error at an offset of the text.
func (p jsonPart) fail(at int, err error) error {
	before := p.text[:min(at, len(p.text))]
	line := bytes.LastIndexByte(before, '\n') + 1
	return &sexp.SyntaxError{File: p.file, Msg: strings.TrimPrefix(err.Error(), "json: "), Pos: sexp.Pos{
		Line: bytes.Count(before, []byte("\n")) + 1, Column: utf8.RuneCount(before[line:]) + 1, Start: at, End: at}}
}

// each calls do for the elements of an array or an object; those of an array have no key.
func (p jsonPart) each(do func(key string, value jsonPart) error) error {
	in := json.NewDecoder(bytes.NewReader(p.value))
	kind, err := in.Token()
	for err == nil && in.More() {
		var key json.Token = ""
		if kind == json.Delim('{') {
			if key, err = in.Token(); err != nil {
				break
			}
		}
		var value json.RawMessage
		if err = in.Decode(&value); err == nil {
			err = do(key.(string), jsonPart{p.file, p.text, p.start + int(in.InputOffset()) - len(value), value})
		}
	}
	return err
}

func (p jsonPart) channels() (List, error) {
	var array []json.RawMessage
	if err := p.decode(&array); err != nil {
		return nil, err
	}
	list := List{}
	err := p.each(func(_ string, value jsonPart) error {
		c, err := value.channel()
		list = append(list, c)
		return err
	})
	return list, err
}

func (p jsonPart) channel() (c Channel, err error) {
	if err = p.decode(&c); err == nil && (c.Name == "" || c.URL == "") {
		err = p.fail(p.start, errIncomplete)
	}
	return c, err
}
