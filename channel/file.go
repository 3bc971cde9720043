package channel

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A File is a channels.scm or a .guix-channel as somebody wrote it. Commits in it can be
// changed where they stand; comments and layout stay as they are.
type File struct {
	Name string
	text []byte
	entries
	metadata *Metadata // of a .guix-channel, else nil
}

// A Place is where something is written. Line and Column count from 1.
type Place struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

func place(file string, at sexp.Pos) Place {
	return Place{File: file, Line: at.Line, Column: at.Column}
}

// A Change is one commit that was changed in a file.
type Change struct {
	Channel string `json:"channel"`
	Place   Place  `json:"place"`
	Old     Commit `json:"old,omitempty"` // empty when there was none
	New     Commit `json:"new"`
	Added   bool   `json:"added,omitempty"` // the whole channel was added
}

// ReadFile reads a channels.scm like [ReadList], or a .guix-channel file like
// [ReadMetadata]; which one it is, its content says. The name is used in errors.
func ReadFile(name string, text []byte) (*File, error) {
	if !utf8.Valid(text) {
		return nil, &sexp.SyntaxError{File: name, Pos: sexp.Pos{Line: 1, Column: 1}, Msg: "the file is not UTF-8"}
	}
	f := &File{Name: name, text: text}
	if first, err := firstDatum(name, text); err == nil && isMetadata(first) {
		if f.metadata, err = ReadMetadata(name, text); err != nil {
			return nil, err
		}
		f.items = writtenDependencies(first, f.metadata.Dependencies)
		return f, nil
	}
	reader := sexp.NewReader(bytes.NewReader(text))
	reader.File = name
	reader.MaxDepth, reader.MaxSize = 100, 4<<20
	var err error
	f.entries, err = evaluate(name, reader)
	return f, err
}

// IsMetadata reports whether a text is meant to be a .guix-channel, well written or not.
func IsMetadata(text []byte) bool {
	v, err := firstDatum("", text)
	return err == nil && isMetadata(v)
}

// isMetadata tells (channel (version 0) …) from the expression (channel (name …) …).
func isMetadata(v sexp.Value) bool {
	rest, ok := sexp.Tagged(v, "channel")
	if !ok || len(rest) == 0 {
		return false
	}
	_, ok = sexp.Tagged(rest[0], "version")
	return ok
}

// writtenDependencies finds where the dependencies stand that were read from v.
func writtenDependencies(v sexp.Value, dependencies List) (items []entry) {
	top, _ := v.(*sexp.List)
	for _, property := range top.Items {
		l, ok := property.(*sexp.List)
		if _, found := sexp.Tagged(property, "dependencies"); !ok || !found {
			continue
		}
		for i, item := range l.Items[1:] {
			items = append(items, writtenDependency(item, l.At[i+1], dependencies[i]))
		}
		break // of several, the first counts
	}
	return items
}

func writtenDependency(v sexp.Value, at sexp.Pos, c Channel) entry {
	e := entry{Channel: c, at: at}
	l, _ := v.(*sexp.List)
	for _, item := range l.Items {
		field, ok := item.(*sexp.List)
		if _, found := sexp.Tagged(item, "commit"); ok && found && len(field.At) > 1 {
			e.commit = field.At[1]
			break
		}
	}
	return e
}

// List returns the channels, or the dependencies of a .guix-channel.
func (f *File) List() List { return f.list() }

// Metadata returns what a .guix-channel says, nil for a channels.scm.
func (f *File) Metadata() *Metadata { return f.metadata }

// Places returns where each channel of List is written.
func (f *File) Places() []Place {
	places := make([]Place, len(f.items))
	for i, e := range f.items {
		places[i] = place(f.Name, e.at)
	}
	return places
}

// An edit replaces the bytes between two offsets.
type edit struct {
	start, end int
	text       string
}

// Pin returns the text with every channel at the commit it has in the lock, and what was
// changed. Channels that the lock lacks stay as they are. With complete, the channels
// that only the lock has are added to a channels.scm; one in which there is no
// (list …) to add them to is an error.
func (f *File) Pin(lock *Lock, complete bool) ([]byte, []Change, error) {
	if f.text == nil {
		return nil, nil, fmt.Errorf("pin %s: where its channels are written is not known", f.Name)
	}
	var edits []edit
	var changes []Change
	locked := lock.List()
	var missing List
	if complete && f.metadata == nil {
		missing = f.missing(locked)
	}
	added := false
	for _, e := range f.items {
		c, ok := locked.Named(e.Name)
		if !ok {
			continue
		}
		var more List
		if e.symbol == "%default-channels" && !added { // which becomes a list
			more, added = missing, true
		}
		if c.Commit != e.Commit || len(more) > 0 {
			edits = append(edits, f.pin(e, c.Commit, more))
		}
		if c.Commit != e.Commit {
			changes = append(changes, Change{Channel: e.Name, Place: place(f.Name, e.at), Old: e.Commit, New: c.Commit})
		}
	}
	if len(missing) > 0 && !added {
		if f.room == (sexp.Pos{}) {
			return nil, nil, fmt.Errorf("pin %s: there is no (list …) that channel %s could be added to", f.Name, missing[0].Name)
		}
		column := f.room.Column
		edits = append(edits, edit{f.room.End, f.room.End, appended(missing, column)})
	}
	for _, c := range missing {
		changes = append(changes, Change{Channel: c.Name, Place: place(f.Name, f.room), New: c.Commit, Added: true})
	}
	return apply(f.text, edits), changes, nil
}

// missing returns the channels of a list that the file lacks.
func (f *File) missing(list List) (missing List) {
	mine := f.list()
	for _, c := range list {
		if _, ok := mine.Named(c.Name); !ok {
			missing = append(missing, c)
		}
	}
	return missing
}

// pin returns the edit that puts e at a commit: in its commit field, in a new one, or,
// where only a symbol stands for it, in an expression instead of that.
func (f *File) pin(e entry, commit Commit, more List) edit {
	quoted := sexp.String(commit).String()
	switch {
	case e.commit != (sexp.Pos{}):
		return edit{e.commit.Start, e.commit.End, quoted}
	case e.symbol == "":
		end := e.at.End - 1 // before the parenthesis
		return edit{end, end, f.fieldGap(e) + "(commit " + quoted + ")"}
	}
	column := e.at.Column
	if e.symbol == "%default-channels" {
		column += len("(list ")
	}
	text := "(channel\n" + indentation(column+2) + "(inherit %default-guix-channel)\n" +
		indentation(column+2) + "(commit " + quoted + "))"
	if e.symbol == "%default-channels" {
		text = "(list " + text + appended(more, column) + ")"
	}
	return edit{e.at.Start, e.at.End, text}
}

// fieldGap returns what separates a new field from the last one of a channel.
func (f *File) fieldGap(e entry) string {
	r := sexp.NewReader(bytes.NewReader(f.text[e.at.Start:e.at.End]))
	v, err := r.Next()
	l, ok := v.(*sexp.List)
	if err != nil || !ok || l.At[len(l.At)-1].Line == 1 { // all in one line
		return " "
	}
	return "\n" + indentation(l.At[len(l.At)-1].Column)
}

// appended returns channels as they follow others at that column.
func appended(list List, column int) string {
	var b bytes.Buffer
	for _, c := range list {
		b.WriteString("\n" + indentation(column))
		writeIndented(&b, c.code(), column-1)
	}
	return b.String()
}

func indentation(column int) string { return strings.Repeat(" ", column-1) }

func apply(text []byte, edits []edit) []byte {
	slices.SortFunc(edits, func(a, b edit) int { return b.start - a.start })
	text = bytes.Clone(text)
	for _, e := range edits {
		text = slices.Concat(text[:e.start], []byte(e.text), text[e.end:])
	}
	return text
}

// FileOf returns a File of channels that were not read from text. They have no
// places within it, and it cannot be changed.
func FileOf(name string, list List) *File {
	f := &File{Name: name}
	for _, c := range list {
		f.items = append(f.items, entry{Channel: c})
	}
	return f
}
