package inferior

import (
	_ "embed"
	"fmt"
	"slices"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A Mode is one of Cuirass's build modes that take no arguments: a set of
// jobs that module (gnu ci) of the Guix at hand knows. See node
// "Specifications" of Cuirass's manual.
type Mode string

// The modes. With the fields Channels, Packages, Manifests and Modules of
// [EvaluateOptions], which are those with arguments, they are all of Cuirass's.
const (
	ModeAll         Mode = "all"          // all packages of all channels, tuned ones too, and cross-compiled core packages
	ModeCore        Mode = "core"         // the packages that all others build on, also cross-compiled
	ModeGuix        Mode = "guix"         // Guix itself, as guix pull builds it
	ModeHello       Mode = "hello"        // GNU Hello
	ModeImages      Mode = "images"       // installation and board images
	ModeSystemTests Mode = "system-tests" // all tests of systems in virtual machines
	ModeTarball     Mode = "tarball"      // the binary tarball of Guix
)

var modes = []Mode{ModeAll, ModeCore, ModeGuix, ModeHello, ModeImages, ModeSystemTests, ModeTarball}

// A Checkout is the directory of a channel's files at the commit under test.
type Checkout struct {
	Name      string // of the channel
	Directory string // absolute
	Commit    string // its hash; empty if unknown
}

// AddBuild adds what field "build" of a Cuirass specification asks for: the
// name of a mode, or (channels NAME …), (packages SPEC …), (manifests FILE …), (custom MODULE …).
func (o *EvaluateOptions) AddBuild(build sexp.Value) error {
	if name, ok := build.(sexp.Symbol); ok {
		if !slices.Contains(modes, Mode(name)) {
			return fmt.Errorf("read build mode: %q is none of Cuirass's", name)
		}
		o.Modes = append(o.Modes, Mode(name))
		return nil
	}
	items, _ := sexp.Items(build)
	if len(items) == 0 {
		return fmt.Errorf("read build mode: %q is none of Cuirass's", build)
	}
	kind, _ := items[0].(sexp.Symbol)
	list := map[sexp.Symbol]*[]string{"channels": &o.Channels, "packages": &o.Packages,
		"manifests": &o.Manifests, "custom": &o.Modules}[kind]
	if list == nil {
		return fmt.Errorf("read build mode: %q is none of Cuirass's", build)
	}
	for _, item := range items[1:] {
		*list = append(*list, displayed(item))
	}
	return nil
}

// check reports what cannot be asked for.
func (o *EvaluateOptions) check() error {
	for _, m := range o.Modes {
		if !slices.Contains(modes, m) {
			return fmt.Errorf("unknown build mode %q", m)
		}
		needsGuix := m == ModeGuix || m == ModeImages || m == ModeSystemTests
		if needsGuix && !slices.ContainsFunc(o.Checkouts, func(c Checkout) bool { return c.Name == "guix" }) {
			return fmt.Errorf("build mode %q needs the checkout of channel \"guix\"", m)
		}
	}
	for _, m := range o.Modules {
		if name, err := sexp.Parse(m); err != nil {
			return fmt.Errorf("module %q: %w", m, err)
		} else if items, ok := sexp.Items(name); !ok || len(items) == 0 {
			return fmt.Errorf("module %q is not a name such as (my jobs)", m)
		}
	}
	return nil
}

//go:embed evaluate.scm
var evaluateSource string

//go:embed intern.scm
var internSource string

//go:embed modes.scm
var modesSource string

// programs are what a session must load to answer the request.
func (o *EvaluateOptions) programs() []string {
	plain := func(m Mode) bool { return m == ModeHello }
	if len(o.Manifests)+len(o.Modules) == 0 && !slices.ContainsFunc(o.Modes, func(m Mode) bool { return !plain(m) }) {
		return []string{evaluateSource, internSource}
	}
	return []string{evaluateSource, internSource, modesSource}
}

// request is the argument of guixci/enumerate.
func (o *EvaluateOptions) request() sexp.Value {
	r := sexp.L()
	add := func(key sexp.Symbol, values ...sexp.Value) {
		r.Items = append(r.Items, sexp.L(append([]sexp.Value{key}, values...)...))
	}
	add("channels", symbols(o.Channels)...)
	add("packages", sexp.Strings(o.Packages...).Items...)
	add("modes", symbols(o.Modes)...)
	add("manifests", sexp.Strings(o.Manifests...).Items...)
	add("modules", parsed(o.Modules)...)
	add("checkouts", checkouts(o.Checkouts)...)
	add("load-path", sexp.Strings(o.LoadPath...).Items...)
	return r
}

func symbols[S ~string](names []S) []sexp.Value {
	var values []sexp.Value
	for _, n := range names {
		values = append(values, sexp.Symbol(n))
	}
	return values
}

// parsed are the names of modules, which check has read before.
func parsed(names []string) []sexp.Value {
	var values []sexp.Value
	for _, n := range names {
		values = append(values, mustParse(n))
	}
	return values
}

func checkouts(all []Checkout) []sexp.Value {
	var values []sexp.Value
	for _, c := range all {
		commit := sexp.Value(sexp.Bool(false))
		if c.Commit != "" {
			commit = sexp.String(c.Commit)
		}
		values = append(values, sexp.L(sexp.Symbol(c.Name), sexp.String(c.Directory), commit))
	}
	return values
}
