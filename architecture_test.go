package guixci_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/genenetwork/guixci/"

// allowed says what each package may import of this module, beside those of
// internal/ that anybody may. What ends in "/…" stands for all packages below.
var allowed = map[string][]string{
	"channel":             {"inferior/sexp"},
	"channel/channeltest": {"channel", "inferior/sexp"},

	"inferior":              {"inferior/sexp"},
	"inferior/sexp":         {},
	"inferior/inferiortest": {"inferior/sexp"},

	"substitute":                     {"substitute/nar", "substitute/lzip"},
	"substitute/lzip":                {},
	"substitute/nar":                 {},
	"substitute/substitutetest":      {"substitute", "substitute/nar"},
	"substitute/…":                   {"substitute", "substitute/nar"},
	"substitute/substitutetest/load": {"substitute", "substitute/storedb"},

	"container":   {"inferior/sexp"},
	"container/…": {"container", "inferior/sexp"},

	"guixci/store":           {"substitute", "substitute/nar"},
	"guixci/store/storetest": {"guixci/store", "substitute"},
	"guixci/build":           {"guixci/store", "substitute"},
	"guixci/record":          {},
	"guixci/specification":   {"channel", "inferior", "inferior/sexp", "guixci/record"},
	"guixci": {"channel", "inferior", "inferior/sexp", "container", "substitute",
		"guixci/store", "guixci/build", "guixci/record", "guixci/specification"},

	// What no importer sees serves drivers and tests and may use everything below them.
	"internal/filelock": {},
	"internal/cgroup":   {},
	"internal/buffer":   {},
	"internal/guixbox":  {"internal/guixbox/guixtest"},
	"internal/…":        {"…"},
	"examples/…":        {"…"},
	"drivers/…":         {"…"},
}

var anybodys = []string{"internal/filelock", "internal/cgroup", "internal/buffer"}

// importers says which packages may import a module of others, on behalf of all.
var importers = map[string][]string{
	"github.com/go-git/go-git":              {"channel"},
	"github.com/ProtonMail/go-crypto":       {"channel"},
	"filippo.io/edwards25519":               {"substitute"},
	"github.com/klauspost/compress":         {"substitute"},
	"github.com/hashicorp/go-retryablehttp": {"substitute"},
	"github.com/ulikunitz/xz":               {"substitute/lzip"},
	"github.com/schollz/progressbar":        {"internal/cli"},
	"github.com/vishvananda/netlink":        {"container"},
	"github.com/vishvananda/netns":          {"container"},
	"github.com/coreos/go-systemd":          {"container/systemd"},
	// Two services of the system, which have nothing in common.
	"github.com/godbus/dbus": {"container/systemd", "internal/avahi"},
	// Two databases, ours and guix-daemon's, which have nothing in common.
	"modernc.org/sqlite": {"guixci/record", "substitute/storedb"},
}

type listed struct {
	ImportPath string
	Imports    []string
}

// packages returns what "go list" says about the packages of the module, tests left out.
func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// rule returns what a package may import: its own entry, else the nearest "/…" above it.
func rule(name string) ([]string, bool) {
	if r, ok := allowed[name]; ok {
		return r, true
	}
	for dir := name; ; {
		i := strings.LastIndexByte(dir, '/')
		if i < 0 {
			return nil, false
		}
		dir = dir[:i]
		if r, ok := allowed[dir+"/…"]; ok {
			return r, true
		}
	}
}

func TestImportsGoOneWay(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok {
			continue // the map itself
		}
		seen[name] = true
		may, ok := rule(name)
		if !ok {
			t.Errorf("%s is not on the map: say in this test what it may import", name)
		}
		for _, imported := range p.Imports {
			of, ours := strings.CutPrefix(imported, module)
			if ours && !slices.Contains(anybodys, of) && !slices.Contains(may, of) && !slices.Contains(may, "…") {
				t.Errorf("%s imports %s", name, of)
			}
		}
	}
	for name := range allowed {
		if !strings.HasSuffix(name, "…") && !seen[name] {
			t.Errorf("%s is on the map but does not exist", name)
		}
	}
}

func TestModulesHaveTheirImporters(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			for m, may := range importers {
				if (imported == m || strings.HasPrefix(imported, m+"/")) && !slices.Contains(may, name) {
					t.Errorf("%s imports %s, which is for %s to do", name, imported, strings.Join(may, " and "))
				}
			}
		}
	}
}
