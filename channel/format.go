package channel

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A Format is one of those of "guix describe -f".
type Format string

// The formats that programs can read.
const (
	FormatChannels         Format = "channels"            // a channels.scm
	FormatSansIntroduction Format = "channels-sans-intro" // the same without introductions
	FormatJSON             Format = "json"
	FormatRecutils         Format = "recutils"
)

// maxDescription limits the bytes of a channel list in any format.
const maxDescription = 4 << 20

// WriteFormat writes the list as "guix describe" prints it in that format.
func (l List) WriteFormat(w io.Writer, format Format) error {
	switch format {
	case FormatChannels:
		_, err := l.WriteTo(w)
		return err
	case FormatSansIntroduction:
		bare := make(List, len(l))
		for i, c := range l {
			bare[i], bare[i].Introduction = c, nil
		}
		_, err := listCode(bare, nil).WriteTo(w)
		return err
	case FormatJSON:
		return json.NewEncoder(w).Encode(l)
	case FormatRecutils:
		_, err := l.records().WriteTo(w)
		return err
	}
	return fmt.Errorf("write channels: %q is no format", format)
}

func (l List) records() *bytes.Buffer {
	var b bytes.Buffer
	for _, c := range l {
		fmt.Fprintf(&b, "name: %s\nurl: %s\nbranch: %s\ncommit: %s\n", c.Name, c.URL, c.withDefaults().Branch, c.Commit)
		if i := c.Introduction; i != nil {
			fmt.Fprintf(&b, "introductioncommit: %s\nintroductionsigner: %s\n", i.Commit, i.Signer)
		}
		b.WriteString("\n")
	}
	return &b
}

// ReadDescription reads channels in any of the formats, telling them apart by how
// they begin. "guix describe -f json" prints one object instead of an array when it is
// run from a git checkout; both are read. The name is used in errors.
func ReadDescription(name string, r io.Reader) (List, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDescription+1))
	if err != nil {
		return nil, fmt.Errorf("read channels %q: %w", name, err)
	}
	if len(text) > maxDescription {
		return nil, fmt.Errorf("read channels %q: larger than %d bytes", name, maxDescription)
	}
	start := bytes.TrimSpace(text)
	switch {
	case bytes.HasPrefix(start, []byte("[")), bytes.HasPrefix(start, []byte("{")):
		return readJSON(name, text)
	case bytes.HasPrefix(start, []byte("name:")):
		return readRecords(name, text)
	}
	return ReadList(name, bytes.NewReader(text))
}

// readRecords reads what "guix describe -f recutils" prints.
func readRecords(name string, text []byte) (list List, err error) {
	in := bufio.NewScanner(bytes.NewReader(text))
	in.Buffer(nil, maxDescription)
	var c *Channel
	var places []int // lines at which the records begin
	for line := 1; in.Scan(); line++ {
		text := strings.TrimSpace(in.Text())
		if text == "" {
			c = nil
			continue
		}
		if strings.HasPrefix(text, "#") {
			continue
		}
		if c == nil {
			list, places = append(list, Channel{Branch: defaultBranch}), append(places, 0)
			c = &list[len(list)-1]
		}
		if err := c.record(text); err != nil {
			return nil, &sexp.SyntaxError{File: name, Pos: sexp.Pos{Line: line, Column: 1}, Msg: err.Error()}
		}
		places[len(list)-1] = cmp.Or(places[len(list)-1], line)
	}
	for i, c := range list {
		if c.Name == "" || c.URL == "" {
			return nil, &sexp.SyntaxError{File: name, Pos: sexp.Pos{Line: places[i], Column: 1}, Msg: errIncomplete.Error()}
		}
		list[i] = c.withDefaults()
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("read channels %q: %w", name, err)
	}
	return list, nil
}

// errIncomplete is about a channel that lacks what every channel has.
var errIncomplete = errors.New("the channel lacks a name or a url")

// record takes in one line of a record. Other fields than these are skipped.
func (c *Channel) record(line string) (err error) {
	field, value, ok := strings.Cut(line, ":")
	if !ok {
		return fmt.Errorf("%.40q is not a field", line)
	}
	value = strings.TrimSpace(value)
	if strings.HasPrefix(field, "introduction") && c.Introduction == nil {
		c.Introduction = &Introduction{}
	}
	switch field {
	case "name":
		c.Name = value
	case "url":
		c.URL = value
	case "branch":
		c.Branch = value
	case "commit":
		c.Commit = Commit(value)
	case "introductioncommit":
		c.Introduction.Commit, err = ParseCommit(value)
	case "introductionsigner":
		c.Introduction.Signer, err = ParseFingerprint(value)
	}
	return err
}
