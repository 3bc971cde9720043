package channel

import (
	"errors"
	"fmt"
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
	rest, ok := sexp.Tagged(v, "manifest")
	if !ok {
		return nil, fmt.Errorf("read manifest %q: (manifest …) is wanted", name)
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
		c, err := readRepository(source)
		if err != nil {
			return nil, fmt.Errorf("read manifest %q: %w", name, err)
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
	rest, ok := sexp.Tagged(v, "provenance")
	version, _ := sexp.Field(sexp.L(rest...), "version")
	if !ok || version != sexp.Value(sexp.Int(0)) {
		return nil, fmt.Errorf("read provenance %q: (provenance (version 0) …) is wanted", name)
	}
	channels, _ := sexp.Rest(sexp.L(rest...), "channels")
	list := List{}
	for _, item := range channels {
		c, err := readRepository(item)
		if err != nil {
			return nil, fmt.Errorf("read provenance %q: %w", name, err)
		}
		list = append(list, c)
	}
	return list, nil
}

// readRepository reads (repository (version 0) (url …) …), or (channel …) with the
// same fields.
func readRepository(v sexp.Value) (Channel, error) {
	rest, ok := sexp.Tagged(v, "repository")
	if !ok {
		rest, ok = sexp.Tagged(v, "channel")
	}
	if !ok {
		return Channel{}, errors.New("(repository (version 0) …) is wanted")
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
		return c, fmt.Errorf("channel %s lacks a url", c.Name)
	}
	if i, ok := sexp.Field(fields, "introduction"); ok && sexp.True(i) {
		var err error
		if c.Introduction, err = (metadataReader{}).introduction(i); err != nil {
			return c, err
		}
	}
	return c, nil
}
