package substitute_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// runSubstituter runs "guix substitute" as guix-daemon does, with the given
// requests, and returns what it replies on descriptor 4, and on the others.
func runSubstituter(t *testing.T, config, mode string, urls []string, requests string) (reply, trace string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := guixCommand(t, config, "substitute", mode)
	cmd.Env = append(cmd.Env, "_NIX_OPTIONS=substitute-urls="+strings.Join(urls, " "))
	cmd.Stdin = strings.NewReader(requests)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.ExtraFiles = []*os.File{w, w} // descriptors 3 and 4
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	replies, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("guix substitute %s: %v\n%s", mode, err, &out)
	}
	return string(replies), out.String()
}

// sampleTree makes a tree with every kind of file that a store item can have.
func sampleTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for _, d := range []string{"bin", "empty", "share/deep/er"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, contents := range map[string]string{
		"bin/run": "#!/bin/sh\n", "share/empty": "", "share/a+b": "8 bytes.", "share/ümlaut": "ü", "share/deep/er/data": incompressible(200_000),
	} {
		mode := os.FileMode(0o644)
		if name == "bin/run" {
			mode = 0o755
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(contents), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"bin/again": "run", "dangling": "/nowhere/at/all", "share/up": "../bin"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func dump(t *testing.T, path string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := nar.Dump(&b, path); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sampleItems is a source with items of all kinds, references among them.
func sampleItems(t *testing.T) (*substitutetest.Memory, []*substitute.Info) {
	t.Helper()
	var m substitutetest.Memory
	leaf := m.AddFile("leaf", "contents")
	self := substitutetest.Path("tree-1.0", "self")
	tree := m.Add(self, dump(t, sampleTree(t)), substitutetest.Path("tree-1.0.drv", ""), self, leaf.StorePath)
	return &m, []*substitute.Info{
		leaf, tree,
		m.AddFile("empty", ""),
		m.AddFile("gtk+-3.24=x?_", "name that needs escapes", leaf.StorePath),
		m.AddFile("source.tar.gz", incompressible(5000)),
		m.AddFile("large", incompressible(800_000)),
	}
}

// infoReply is what guix substitute should say about items.
func infoReply(infos []*substitute.Info, sizes map[substitute.StorePath]int64) map[string]string {
	replies := map[string]string{}
	for _, info := range infos {
		var lines []string
		for _, ref := range info.References {
			lines = append(lines, string(ref))
		}
		replies[string(info.StorePath)] = strings.Join(slices.Concat(
			[]string{string(info.Deriver), strconv.Itoa(len(lines))}, lines,
			[]string{strconv.FormatInt(sizes[info.StorePath], 10), strconv.FormatInt(info.NarSize, 10)}), "\n")
	}
	return replies
}

// parseInfoReply is the reverse: the answers by path, which come in any order.
func parseInfoReply(t *testing.T, reply string) map[string]string {
	t.Helper()
	replies := map[string]string{}
	lines := strings.Split(reply, "\n")
	for len(lines) > 0 && lines[0] != "" {
		n, err := strconv.Atoi(lines[2])
		if err != nil {
			t.Fatalf("reply %q: %v", reply, err)
		}
		replies[lines[0]] = strings.Join(lines[1:5+n], "\n")
		lines = lines[5+n:]
	}
	return replies
}

func TestGuixSubstituteQuery(t *testing.T) {
	guixtest.Require(t)
	m, infos := sampleItems(t)
	key := substitute.GenerateKey()
	url := serve(t, &substitute.Handler{Source: m, Key: key})
	var all []string
	for _, info := range infos {
		all = append(all, string(info.StorePath))
	}
	absent := string(substitutetest.Path("absent", ""))
	request := strings.Join(append(all, absent), " ")

	config := configDir(t, key.Public())
	got, _ := runSubstituter(t, config, "--query", []string{url}, "have "+request+"\n")
	have := strings.Fields(got)
	slices.Sort(have)
	if want := slices.Sorted(slices.Values(all)); !slices.Equal(have, want) {
		t.Errorf("have %q\nwant %q", have, want)
	}

	// Only what is sent as it is has a known size.
	sizes := map[substitute.StorePath]int64{infos[4].StorePath: infos[4].NarSize}
	reply, _ := runSubstituter(t, config, "--query", []string{url}, "info "+request+"\n")
	if got, want := parseInfoReply(t, reply), infoReply(infos, sizes); !maps.Equal(got, want) {
		t.Errorf("info %q\nwant %q", got, want)
	}

	strange := configDir(t, substitute.GenerateKey().Public())
	if got, _ := runSubstituter(t, strange, "--query", []string{url}, "have "+request+"\n"); strings.TrimSpace(got) != "" {
		t.Errorf("with our key not authorized: %q", got)
	}
}

// An archive that is not what was registered does not arrive, and the item is
// had from the next server.
func TestGuixSubstituteCorrupt(t *testing.T) {
	guixtest.Require(t)
	m, infos := sampleItems(t)
	key := substitute.GenerateKey()
	leaf := infos[0]
	var bad substitutetest.Memory
	bad.AddInfo(leaf, substitutetest.FileNAR("CONTENTS"))
	urls := []string{
		serve(t, &substitute.Handler{Source: &bad, Key: key}),
		serve(t, &substitute.Handler{Source: m, Key: key}),
	}
	dest := filepath.Join(t.TempDir(), "item")
	got, trace := runSubstituter(t, configDir(t, key.Public()), "--substitute", urls,
		"substitute "+string(leaf.StorePath)+" "+dest+"\n")
	if !strings.HasPrefix(got, "success "+leaf.NarHash.String()) {
		t.Errorf("reply %q\n%s", got, trace)
	}
}

// A thousand queries arrive in one write and are answered.
func TestGuixSubstituteMassQuery(t *testing.T) {
	guixtest.Require(t)
	var m substitutetest.Memory
	request := "have"
	const count = 1500
	for i := range count {
		request += " " + string(m.AddFile("item", strconv.Itoa(i)).StorePath)
	}
	key := substitute.GenerateKey()
	url := serve(t, &substitute.Handler{Source: &m, Key: key})
	got, _ := runSubstituter(t, configDir(t, key.Public()), "--query", []string{url}, request+"\n")
	if have := len(strings.Fields(got)); have != count {
		t.Errorf("%d items available, want %d", have, count)
	}
}

// Guix names a download as /file does, and escapes names as our narinfos do.
func TestGuixNames(t *testing.T) {
	guixtest.Require(t)
	const contents = "contents of a download\n"
	file := filepath.Join(t.TempDir(), "guixci-download+1.0")
	if err := os.WriteFile(file, []byte(contents), 0o600); err != nil {
		t.Fatal(err)
	}
	script := `(use-modules (guix store) (web uri))
(with-store store
  (display (add-to-store store "guixci-download+1.0" #f "sha256" (cadr (command-line)))))
(newline)
(display (uri-encode "a+b=c?d_e.f-g~h"))`
	path := filepath.Join(t.TempDir(), "names.scm")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "guix", "repl", path, file).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := string(substitute.FlatPath("guixci-download+1.0", sha256.Sum256([]byte(contents)))) +
		"\n" + substitute.Escape("a+b=c?d_e.f-g~h")
	if string(out) != want {
		t.Errorf("Guix says %q, we %q", out, want)
	}
}
