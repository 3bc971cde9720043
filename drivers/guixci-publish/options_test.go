package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

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
		// This is what guix-publish-service-type of Guix has after "guix publish".
		{"-u guix-publish -p 80 -C gzip:3 -C zstd:3 --nar-path=nar --listen=127.0.0.1 --advertise --workers=2 --ttl=3600s --negative-ttl=60s --cache=/c --cache-bypass-threshold=10485760", options{
			port: "80", listen: "127.0.0.1", user: "guix-publish", compression: []substitute.Compression{{Method: "gzip", Level: 3}, {Method: "zstd", Level: 3}},
			narPath: "nar", advertise: true, workers: 2, ttl: time.Hour, negativeTTL: time.Minute, cache: "/c",
		}},
		{"-ap 80", options{port: "80", listen: "0.0.0.0", advertise: true}},
		{"-C -p 80 --secret-key=k", options{port: "80", listen: "0.0.0.0", privateKey: "k", compression: []substitute.Compression{{Method: "gzip"}}}},
		{"--nar-path my/nars --user=x", options{port: "8080", listen: "0.0.0.0", narPath: "my/nars", user: "x"}},
		{"export dir -c x -- -p item", options{port: "8080", listen: "0.0.0.0", cache: "x", args: []string{"export", "dir", "-p", "item"}}},
	} {
		got, err := parse(strings.Fields(test.line))
		if err != nil {
			t.Errorf("%q: %v", test.line, err)
			continue
		}
		got.given = nil // TestNotForExport is about it
		if diff := cmp.Diff(&test.want, got, cmp.AllowUnexported(options{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.line, diff)
		}
	}
	for _, line := range []string{
		"-x", "--nonsense", "--p=1", "-p", "--port", "--help=x", "-Clzma", "-Cgzip:x", "-C30:", "--ttl=5", "--ttl=5y", "--ttl=-1d",
		"--ttl=99999999999999w", "-C export dir", "--workers=0", "--cache-size=1X", "--cache-size=99999999T", "--cache-size=-1", "--cache-size=nan", "--cache-size=infK", "--cache-size=K", "--cache-size=", "--repl=5", "-r",
	} {
		if _, err := parse(strings.Fields(line)); err == nil {
			t.Errorf("%q: no error", line)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "5": 5, "1K": 1024, "1KiB": 1024, "2kB": 2000, "3M": 3 << 20, "3MB": 3e6, "1GiB": 1 << 30, "7B": 7, "1.5M": 3 << 19, "2P": 2 << 50} {
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

// An option that export could not heed is a mistake, and not ignored.
func TestNotForExport(t *testing.T) {
	for _, option := range []string{"--cache=/tmp", "-c/tmp", "--ttl=1d", "--user=nobody", "-unobody", "--port=80", "--metrics", "-a"} {
		code, _, err := runIn(t, option, "export", "dir", "/gnu/store/"+strings.Repeat("0", 32)+"-x")
		if code != cli.Usage || !strings.Contains(err, "is not for export") {
			t.Errorf("%s: status %d, %q", option, code, err)
		}
	}
}

// What is said helps with what was meant.
func TestUnusable(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GUIX_CONFIGURATION_DIRECTORY", dir)
	if code, _, err := runIn(t, "--port=0"); code != cli.Usage || !strings.Contains(err, "--generate-key") {
		t.Errorf("without a key: status %d, %q", code, err)
	}
	runIn(t, "--generate-key")
	for _, test := range []struct{ option, want string }{
		{"--private-key=" + dir, "directory"}, {"--private-key=" + dir + "/signing-key.pub", "is a public key"},
		{"--public-key=" + dir + "/signing-key.sec", "not a (public-key"}, {"--store-database=" + dir + "/none", "no such file"},
		{"--cache=/proc/self", "/proc/self/"},
	} {
		if code, _, err := runIn(t, "--port=0", test.option); code != cli.Usage || !strings.Contains(err, test.want) {
			t.Errorf("%s: status %d, %q", test.option, code, err)
		}
	}
}

// The default address is one of IPv4 alone, as it is for guix publish.
func TestListener(t *testing.T) {
	for _, host := range []string{"0.0.0.0", "127.0.0.1", "localhost"} {
		l, err := listener(&options{listen: host, port: "0"})
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if ip := l.Addr().(*net.TCPAddr).IP; host != "localhost" && ip.String() != host {
			t.Errorf("%s: listens on %v", host, ip)
		}
	}
}

func TestGenerateKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc", "guix")
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
	testscript.Main(m, map[string]func(){program: main})
}
