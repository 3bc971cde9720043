package channel

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
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
	case bytes.HasPrefix(start, []byte("[")):
		var list List
		if err := decodeJSON(name, text, &list); err != nil {
			return nil, err
		}
		return list, list.check(name)
	case bytes.HasPrefix(start, []byte("{")):
		return readJSONObject(name, text)
	case bytes.HasPrefix(start, []byte("name:")):
		return readRecords(name, text)
	}
	return ReadList(name, bytes.NewReader(text))
}

// readJSONObject reads one channel, or the JSON form of a lock.
func readJSONObject(name string, text []byte) (List, error) {
	var lock struct{ Channels List }
	if err := decodeJSON(name, text, &lock); err != nil {
		return nil, err
	}
	if lock.Channels == nil {
		lock.Channels = make(List, 1)
		if err := decodeJSON(name, text, &lock.Channels[0]); err != nil {
			return nil, err
		}
	}
	return lock.Channels, lock.Channels.check(name)
}

// check refuses channels that lack what every channel has.
func (l List) check(name string) error {
	for i, c := range l {
		if c.Name == "" || c.URL == "" {
			return fmt.Errorf("read channels %q: channel %d lacks a name or a url", name, i+1)
		}
	}
	return nil
}

func decodeJSON(name string, text []byte, to any) error {
	if err := json.Unmarshal(text, to); err != nil {
		return fmt.Errorf("read channels %q: %w", name, err)
	}
	return nil
}

// readRecords reads what "guix describe -f recutils" prints.
func readRecords(name string, text []byte) (list List, err error) {
	in := bufio.NewScanner(bytes.NewReader(text))
	in.Buffer(nil, maxDescription)
	var c *Channel
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
			list = append(list, Channel{Branch: defaultBranch})
			c = &list[len(list)-1]
		}
		if err := c.record(text); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
	}
	for i, c := range list {
		list[i] = c.withDefaults()
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("read channels %q: %w", name, err)
	}
	return list, list.check(name)
}

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
