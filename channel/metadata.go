package channel

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// Metadata is the content of a .guix-channel file.
type Metadata struct {
	Directory        string // where the modules are, with a leading slash; "/" by default
	URL              string // primary URL, empty when not given
	NewsFile         string // empty when there is none
	KeyringReference string // branch of the keys, "keyring" by default
	Dependencies     List
}

// DefaultMetadata is what a channel without .guix-channel has.
func DefaultMetadata() *Metadata {
	return &Metadata{Directory: "/", KeyringReference: "keyring"}
}

// ReadMetadata reads the first datum of a .guix-channel file as Guix does:
// unknown keys are ignored, another version or shape is an error.
// The name is used in errors, which are *[sexp.SyntaxError].
// A dependency without name or url, on which Guix dies later, is an error too.
func ReadMetadata(name string, text []byte) (*Metadata, error) {
	v, err := firstDatum(name, text)
	if err != nil {
		return nil, err
	}
	m := metadataReader{file: name}
	top, _ := v.(*sexp.List)
	properties, ok := sexp.Tagged(v, "channel")
	if !ok || len(properties) == 0 {
		return nil, m.fail(top, "not a .guix-channel file: (channel (version 0) …) is wanted")
	}
	if version, ok := sexp.Tagged(properties[0], "version"); !ok || len(version) != 1 || version[0] != sexp.Value(sexp.Int(0)) {
		return nil, m.fail(top, "unsupported version of .guix-channel: only (version 0) is known")
	}
	return m.metadata(sexp.L(properties[1:]...))
}

type metadataReader struct{ file string }

func (m metadataReader) fail(l *sexp.List, format string, args ...any) error {
	pos := sexp.Pos{Line: 1, Column: 1}
	if l != nil && l.Pos.Line > 0 {
		pos = l.Pos
	}
	return &sexp.SyntaxError{File: m.file, Pos: pos, Msg: fmt.Sprintf(format, args...)}
}

func (m metadataReader) metadata(properties *sexp.List) (_ *Metadata, err error) {
	result := DefaultMetadata()
	for key, to := range map[sexp.Symbol]*string{
		"directory":         &result.Directory,
		"url":               &result.URL,
		"news-file":         &result.NewsFile,
		"keyring-reference": &result.KeyringReference,
	} {
		if err := m.text(properties, key, to); err != nil {
			return nil, err
		}
	}
	if !strings.HasPrefix(result.Directory, "/") {
		result.Directory = "/" + result.Directory
	}
	rest, _ := sexp.Rest(properties, "dependencies")
	written := property(properties, "dependencies")
	for i, item := range rest {
		c, err := m.dependency(item, writtenAt(written, i+1))
		if err != nil {
			return nil, err
		}
		result.Dependencies = append(result.Dependencies, c)
	}
	return result, nil
}

// text sets *to to the string that follows key, if the key is there.
func (m metadataReader) text(l *sexp.List, key sexp.Symbol, to *string) error {
	v, ok := sexp.Field(l, key)
	if !ok || v == sexp.Value(sexp.Bool(false)) {
		return nil
	}
	s, ok := v.(sexp.String)
	if !ok {
		return m.fail(property(l, key), "%s must be a string, not %.40s", key, v)
	}
	*to = string(s)
	return nil
}

// property returns the list that [sexp.Field] looks for.
func property(l *sexp.List, key sexp.Symbol) *sexp.List {
	for _, item := range l.Items {
		if p, ok := item.(*sexp.List); ok && len(p.Items) > 0 && p.Items[0] == sexp.Value(key) {
			return p
		}
	}
	return l
}

// writtenAt returns where an item of a list is, or the list where that is not known: of
// (a . b) it is not.
func writtenAt(l *sexp.List, i int) sexp.Pos {
	if i < len(l.At) {
		return l.At[i]
	}
	return l.Pos
}

func (m metadataReader) dependency(item sexp.Value, at sexp.Pos) (Channel, error) {
	l, ok := item.(*sexp.List)
	if !ok {
		return Channel{}, m.fail(&sexp.List{Pos: at}, "%.40s is not a dependency", item)
	}
	c := Channel{Branch: defaultBranch}
	name, _ := sexp.Field(l, "name")
	symbol, ok := name.(sexp.Symbol)
	if !ok {
		return c, m.fail(l, "the dependency lacks a name: (name x) is wanted")
	}
	c.Name = string(symbol)
	var commit string
	for key, to := range map[sexp.Symbol]*string{"url": &c.URL, "branch": &c.Branch, "commit": &commit} {
		if err := m.text(l, key, to); err != nil {
			return c, err
		}
	}
	c.Commit = Commit(commit)
	if c.URL == "" {
		return c, m.fail(l, "dependency %s lacks a url", c.Name)
	}
	var err error
	if intro, ok := sexp.Field(l, "introduction"); ok && sexp.True(intro) {
		c.Introduction, err = m.introduction(intro)
	}
	return c, err
}

// introduction reads (channel-introduction (version 0) (commit "…") (signer "…")).
func (m metadataReader) introduction(v sexp.Value) (*Introduction, error) {
	l, _ := v.(*sexp.List)
	rest, ok := sexp.Tagged(v, "channel-introduction")
	if !ok || len(rest) < 3 {
		return nil, m.fail(l, "invalid introduction of a dependency")
	}
	version, _ := sexp.Tagged(rest[0], "version")
	commit, _ := sexp.Tagged(rest[1], "commit")
	signer, _ := sexp.Tagged(rest[2], "signer")
	if len(version) != 1 || version[0] != sexp.Value(sexp.Int(0)) || len(commit) != 1 || len(signer) != 1 {
		return nil, m.fail(l, "invalid introduction of a dependency")
	}
	id, _ := commit[0].(sexp.String)
	key, _ := signer[0].(sexp.String)
	var i Introduction
	var err error
	if i.Commit, err = ParseCommit(string(id)); err != nil {
		return nil, m.fail(l, "introduction: %v", err)
	}
	if i.Signer, err = ParseFingerprint(string(key)); err != nil {
		return nil, m.fail(l, "introduction: %v", err)
	}
	return &i, nil
}

// firstDatum reads what Guile's read would return. Bytes that are not UTF-8
// become a replacement character, as they do in Guile's ports.
func firstDatum(name string, text []byte) (sexp.Value, error) {
	r := sexp.NewReader(bytes.NewReader(bytes.ToValidUTF8(text, []byte("\uFFFD"))))
	r.File = name
	r.MaxDepth, r.MaxSize = 100, 4<<20
	v, err := r.Next()
	if err != nil {
		return nil, emptyFile(name, err)
	}
	return v, nil
}

func emptyFile(name string, err error) error {
	if _, ok := err.(*sexp.SyntaxError); ok {
		return err
	}
	return &sexp.SyntaxError{File: name, Pos: sexp.Pos{Line: 1, Column: 1}, Msg: "no datum in the file"}
}
