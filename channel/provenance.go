package channel

import (
	"slices"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// ReadManifest returns the channels that a profile was made from: the manifest file of
// what "guix pull" makes says so. Entries that are no channels are left out.
// The name is used in errors.
func ReadManifest(name string, text []byte) (List, error) {
	v, err := firstDatum(name, text)
	if err != nil {
		return nil, err
	}
	m := metadataReader{file: name}
	top, _ := v.(*sexp.List)
	rest, ok := sexp.Tagged(v, "manifest")
	if !ok {
		return nil, m.fail(top, "not the manifest of a profile: (manifest …) is wanted")
	}
	packages, _ := sexp.Rest(sexp.L(rest...), "packages")
	var entries []sexp.Value
	if len(packages) > 0 {
		entries, _ = sexp.Items(packages[0])
	}
	list := List{}
	for _, e := range entries {
		properties, _ := sexp.Rest(e, "properties")
		if len(properties) == 1 { // ((KEY . VALUE) …)
			properties, _ = sexp.Items(properties[0])
		}
		source, ok := sexp.Field(sexp.L(properties...), "source")
		if !ok {
			continue
		}
		c, err := m.repository(source)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	slices.Reverse(list) // as "guix describe" prints them
	return list, nil
}

// ReadProvenance returns the channels that a system was made from, which its file called
// provenance says. The name is used in errors.
func ReadProvenance(name string, text []byte) (List, error) {
	v, err := firstDatum(name, text)
	if err != nil {
		return nil, err
	}
	m := metadataReader{file: name}
	top, _ := v.(*sexp.List)
	rest, ok := sexp.Tagged(v, "provenance")
	version, _ := sexp.Field(sexp.L(rest...), "version")
	if !ok || version != sexp.Value(sexp.Int(0)) {
		return nil, m.fail(top, "not the provenance of a system: (provenance (version 0) …) is wanted")
	}
	channels, _ := sexp.Rest(sexp.L(rest...), "channels")
	list := List{}
	for _, item := range channels {
		c, err := m.repository(item)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// repository reads (repository (version 0) (url …) …), or (channel …) with the
// same fields.
func (m metadataReader) repository(v sexp.Value) (Channel, error) {
	l, _ := v.(*sexp.List)
	rest, ok := sexp.Tagged(v, "repository")
	if !ok {
		rest, ok = sexp.Tagged(v, "channel")
	}
	if !ok {
		return Channel{}, m.fail(l, "(repository (version 0) …) is wanted")
	}
	fields := sexp.L(rest...)
	text := func(key sexp.Symbol) string {
		value, _ := sexp.Field(fields, key)
		s, _ := sexp.Text(value)
		return s
	}
	c := Channel{Name: text("name"), URL: text("url"), Branch: text("branch"), Commit: Commit(text("commit"))}
	if c.Name == "" { // in old profiles
		c.Name = guixName
	}
	if c.URL == "" {
		return c, m.fail(l, "channel %s lacks a url", c.Name)
	}
	if i, ok := sexp.Field(fields, "introduction"); ok && sexp.True(i) {
		var err error
		if c.Introduction, err = m.introduction(i); err != nil {
			return c, err
		}
	}
	return c, nil
}
