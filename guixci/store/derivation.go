package store

import (
	"fmt"
	"os"
)

// A Derivation is the content of a ".drv" file: one build, and everything that
// goes into it. Node "Derivations" of the Guix manual.
// Order is kept, so that a derivation prints as it was read.
type Derivation struct {
	Outputs []Output    // sorted by name; at least one
	Inputs  []Input     // sorted by derivation
	Sources []StorePath // sorted; store items that are not built
	System  string      // "x86_64-linux"
	Builder string      // the program that is run, or "builtin:download" and such
	Args    []string
	Env     []EnvVar // sorted by name
}

// An Output is something a derivation makes.
type Output struct {
	Name string // "out", "doc"
	Path StorePath

	// Of a fixed output, whose content is known beforehand: the algorithm, for
	// example "sha256", after "r:" if it is the archive that is hashed and not
	// the file; and the hash in base 16. Otherwise both are empty.
	HashAlgorithm, Hash string
}

// An Input is a derivation whose outputs a derivation needs.
type Input struct {
	Derivation StorePath
	Outputs    []string // names, sorted
}

// An EnvVar is a variable in the builder's environment.
type EnvVar struct {
	Name, Value string
}

// ParseDerivation reads the text of a ".drv" file.
// It accepts only what Guix writes: the result prints to the same bytes.
func ParseDerivation(text []byte) (*Derivation, error) {
	r := &atermReader{text: text}
	d := &Derivation{}
	r.literal("Derive(")
	r.list(func() { d.Outputs = append(d.Outputs, readOutput(r)) })
	r.literal(",")
	r.list(func() { d.Inputs = append(d.Inputs, readInput(r)) })
	r.literal(",")
	r.list(func() { d.Sources = append(d.Sources, StorePath(r.string())) })
	r.literal(",")
	d.System = r.string()
	r.literal(",")
	d.Builder = r.string()
	r.literal(",")
	d.Args = r.strings()
	r.literal(",")
	r.list(func() { d.Env = append(d.Env, readEnvVar(r)) })
	r.literal(")")
	if r.err == nil && r.offset != len(text) {
		r.fail("text after the end")
	}
	if r.err != nil {
		return nil, fmt.Errorf("parse derivation: %w", r.err)
	}
	return d, nil
}

func readOutput(r *atermReader) (o Output) {
	r.literal("(")
	o.Name = r.string()
	r.literal(",")
	o.Path = StorePath(r.string())
	r.literal(",")
	o.HashAlgorithm = r.string()
	r.literal(",")
	o.Hash = r.string()
	r.literal(")")
	return o
}

func readInput(r *atermReader) (in Input) {
	r.literal("(")
	in.Derivation = StorePath(r.string())
	r.literal(",")
	in.Outputs = r.strings()
	r.literal(")")
	return in
}

func readEnvVar(r *atermReader) (v EnvVar) {
	r.literal("(")
	v.Name = r.string()
	r.literal(",")
	v.Value = r.string()
	r.literal(")")
	return v
}

// ReadDerivation reads a derivation from the store of this machine.
func ReadDerivation(path StorePath) (*Derivation, error) {
	if err := check(path); err != nil {
		return nil, fmt.Errorf("read derivation: %w", err)
	}
	text, err := os.ReadFile(string(path))
	if err != nil {
		return nil, fmt.Errorf("read derivation: %w", err)
	}
	d, err := ParseDerivation(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// AppendText appends the text of the ".drv" file to b.
// The error is always nil; it makes a Derivation an [encoding.TextAppender].
func (d *Derivation) AppendText(b []byte) ([]byte, error) {
	b = append(b, "Derive("...)
	b = appendList(b, d.Outputs, func(b []byte, o Output) []byte {
		return appendTuple(b, o.Name, string(o.Path), o.HashAlgorithm, o.Hash)
	})
	b = append(b, ',')
	b = appendList(b, d.Inputs, func(b []byte, in Input) []byte {
		b = appendString(append(b, '('), string(in.Derivation))
		b = appendList(append(b, ','), in.Outputs, appendString)
		return append(b, ')')
	})
	b = append(b, ',')
	b = appendList(b, d.Sources, func(b []byte, p StorePath) []byte { return appendString(b, string(p)) })
	b = appendString(append(b, ','), d.System)
	b = appendString(append(b, ','), d.Builder)
	b = appendList(append(b, ','), d.Args, appendString)
	b = appendList(append(b, ','), d.Env, func(b []byte, v EnvVar) []byte {
		return appendTuple(b, v.Name, v.Value)
	})
	return append(b, ')'), nil
}

// String returns the text of the ".drv" file.
func (d *Derivation) String() string {
	b, _ := d.AppendText(nil)
	return string(b)
}

// Fixed reports whether the content of the output is known beforehand, as that
// of a download is: such a build may use the network.
func (d *Derivation) Fixed() bool {
	return len(d.Outputs) == 1 && d.Outputs[0].Hash != ""
}

// Substitutable reports whether the outputs may be fetched instead of built: not
// those of a derivation made with #:substitutable? #f.
func (d *Derivation) Substitutable() bool {
	allowed, ok := d.Getenv("allowSubstitutes")
	return !ok || allowed == "1"
}

// Getenv returns the value of a variable of the builder's environment.
func (d *Derivation) Getenv(name string) (value string, ok bool) {
	for _, v := range d.Env {
		if v.Name == name {
			return v.Value, true
		}
	}
	return "", false
}

// References returns what the ".drv" file refers to: the third argument with
// which [Client.AddText] puts it into the store.
func (d *Derivation) References() []StorePath {
	refs := make([]StorePath, 0, len(d.Inputs)+len(d.Sources))
	for _, in := range d.Inputs {
		refs = append(refs, in.Derivation)
	}
	return append(refs, d.Sources...)
}
