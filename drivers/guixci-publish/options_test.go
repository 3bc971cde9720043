package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/substitute"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		line string
		want options
	}{
		{"", options{port: "8080", listen: "0.0.0.0"}},
		{"-p80 -uguix-publish", options{port: "80", listen: "0.0.0.0", user: "guix-publish"}},
		{"-p 80 --listen localhost", options{port: "80", listen: "localhost"}},
		{"-Czstd:19 -Clzip:9 -C --compression=6 -C0", options{port: "8080", listen: "0.0.0.0", compression: []substitute.Compression{
			{Method: "zstd", Level: 19}, {Method: "lzip", Level: 9}, {Method: "gzip"}, {Method: "gzip", Level: 6}, {Method: "none"},
		}}},
		{"--cache=/c --ttl=1m --neg=90s --workers=3 --cache-size 5G", options{
			port: "8080", listen: "0.0.0.0", cache: "/c", ttl: 30 * 24 * time.Hour, negativeTTL: 90 * time.Second, workers: 3, cacheSize: 5 << 30,
		}},
		{"--nar-path my/nars --user=x", options{port: "8080", listen: "0.0.0.0", narPath: "my/nars", user: "x"}},
		{"export dir -c x -- -p item", options{port: "8080", listen: "0.0.0.0", cache: "x", args: []string{"export", "dir", "-p", "item"}}},
	} {
		got, err := parse(strings.Fields(test.line))
		if err != nil {
			t.Errorf("%q: %v", test.line, err)
			continue
		}
		if diff := cmp.Diff(&test.want, got, cmp.AllowUnexported(options{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.line, diff)
		}
	}
	for _, line := range []string{
		"-x", "--nonsense", "--p=1", "-p", "--port", "--help=x", "-Clzma", "-Cgzip:x", "-C30:", "--ttl=5", "--ttl=5y", "--ttl=-1d",
		"--ttl=99999999999999w", "--workers=0", "--cache-size=1X", "--cache-size=99999999T", "--cache-size=", "-a", "--repl=5", "-r",
	} {
		if _, err := parse(strings.Fields(line)); err == nil {
			t.Errorf("%q: no error", line)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "5": 5, "1K": 1024, "1KiB": 1024, "2kB": 2000, "3M": 3 << 20, "3MB": 3e6, "1GiB": 1 << 30, "7B": 7} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
}

// runIn runs the program and returns its status and output.
func runIn(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GUIX_CONFIGURATION_DIRECTORY", dir)
	for _, args := range [][]string{
		{"--nonsense"}, {"nonsense"}, {"export"}, {"export", dir}, {"export", dir, "/etc/passwd"},
		{"--user=nobody-at-all", "--port=0"}, {"--private-key=" + dir + "/none.sec"}, {"--listen=nowhere.invalid", "--port=1"},
	} {
		if code, out, err := runIn(t, args...); code != cli.Usage || out != "" || !strings.HasPrefix(err, "guixci-publish: ") {
			t.Errorf("%q: status %d, %q, %q", args, code, out, err)
		}
	}
	if code, out, _ := runIn(t, "--help"); code != 0 || !strings.HasPrefix(out, "Usage: ") {
		t.Errorf("--help: status %d, %q", code, out)
	}
}

func TestGenerateKey(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GUIX_CONFIGURATION_DIRECTORY", dir)
	_, first, _ := runIn(t, "--generate-key")
	code, second, _ := runIn(t, "--generate-key")
	if code != 0 || first != second || !strings.HasPrefix(first, "(public-key") {
		t.Errorf("status %d, %q then %q", code, first, second)
	}
	if err := os.Chmod(filepath.Join(dir, "signing-key.sec"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, err := runIn(t, "--port=0"); code != cli.Usage || !strings.Contains(err, "chmod") {
		t.Errorf("with a key that all can read: status %d, %q", code, err)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		cli.Main(run)
	}
	os.Exit(m.Run())
}

// asProgram makes the test binary be the program itself.
const asProgram = "GUIXCI_TEST_PUBLISH"
