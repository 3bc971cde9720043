package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
	"github.com/genenetwork/guixci/substitute/storedb"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// A server is a publishing program, ours or guix publish.
type server struct {
	url    string
	config string // configuration directory that has its key, authorized
	cmd    *exec.Cmd
}

// configured makes a configuration directory with a key pair that is authorized.
func configured(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	key, err := substitute.EnsureKeyPair(filepath.Join(dir, "signing-key.sec"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "acl"), []byte(substitute.NewACL(key.Public()).String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start runs this program as a process, until the end of the test.
func start(t *testing.T, config string, args ...string) *server {
	t.Helper()
	guixtest.Require(t)
	cmd := exec.Command(program, append([]string{"--listen=127.0.0.1", "--port=0"}, args...)...)
	cmd.Env = append(os.Environ(), "GUIX_CONFIGURATION_DIRECTORY="+config)
	return &server{url: started(t, cmd, cmd.Start), config: config, cmd: cmd}
}

// started starts this program, which is cmd, and waits for it to say on which address it listens.
func started(t *testing.T, cmd *exec.Cmd, start func() error) (url string) {
	t.Helper()
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var said bytes.Buffer
	address := regexp.MustCompile(`address=(\S+)`)
	for url == "" && lines.Scan() {
		fmt.Fprintln(&said, lines.Text())
		if m := address.FindStringSubmatch(lines.Text()); m != nil {
			url = "http://" + m[1]
		}
	}
	go io.Copy(&said, out) // ends with the process; Wait comes after
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if t.Failed() {
			t.Logf("%v: %v\n%s", cmd.Args, err, &said)
		}
	})
	if url == "" {
		t.Fatalf("%v does not listen:\n%s", cmd.Args, &said)
	}
	return url
}

// items builds two items, one referring to the other, and returns them with their derivations.
func items(t *testing.T) (paths, derivations []substitute.StorePath) {
	t.Helper()
	c, err := store.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	kit := storetest.New(t, c)
	leaf := kit.Add(storetest.Spec{Name: "leaf", Script: "echo leaf >$out"})
	top := kit.Add(storetest.Spec{Name: "top", Script: "mkdir $out; echo $leaf >$out/leaf", Inputs: []*storetest.Build{leaf}})
	if err := c.Build(t.Context(), []store.StorePath{top.Derivation}, store.BuildOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	return []substitute.StorePath{leaf.Out(), top.Out()}, []substitute.StorePath{leaf.Derivation, top.Derivation}
}

// checkWeather has stock guix weather and guix challenge judge a server.
func checkWeather(t *testing.T, config, url string, paths, derivations []substitute.StorePath) {
	t.Helper()
	var manifest strings.Builder
	manifest.WriteString("(use-modules (guix profiles) (guix derivations))\n(manifest (list")
	for _, drv := range derivations {
		fmt.Fprintf(&manifest, " (manifest-entry (name \"x\") (version \"0\") (item (read-derivation-from-file %q)))", drv)
	}
	manifest.WriteString("))\n")
	file := filepath.Join(t.TempDir(), "manifest.scm")
	if err := os.WriteFile(file, []byte(manifest.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	out := guix(t, config, "weather", "--substitute-urls="+url, "-m", file)
	if !strings.Contains(out, "100.0% substitutes available (2 out of 2)") {
		t.Errorf("guix weather says\n%s", out)
	}
	out = guix(t, config, "challenge", "--verbose", "--substitute-urls="+url, string(paths[0]), string(paths[1]))
	if !strings.Contains(out, "2 (100.0%) were identical") {
		t.Errorf("guix challenge says\n%s", out)
	}
}

// guix runs guix with the given configuration.
func guix(t *testing.T, config string, args ...string) string {
	t.Helper()
	cmd := exec.Command("guix", args...)
	cmd.Env = append(os.Environ(), "GUIX_CONFIGURATION_DIRECTORY="+config, "XDG_CACHE_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("guix %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// Every option of guix publish is one of ours, with an argument if theirs has one.
func TestOptionsOfGuixPublish(t *testing.T) {
	guixtest.Require(t)
	text, err := exec.Command("guix", "publish", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	theirs := regexp.MustCompile(`(?m)^  (?:-(.), |    )--([a-z-]+)(\[?=)?`).FindAllSubmatch(text, -1)
	if len(theirs) < 15 {
		t.Fatalf("%d options in\n%s", len(theirs), text)
	}
	for _, m := range theirs {
		short, long, argument := string(m[1]), string(m[2]), map[string]int{"": none, "=": required, "[=": optional}[string(m[3])]
		i := slices.IndexFunc(table, func(o option) bool { return o.long == long })
		if i < 0 || short != "" && table[i].short != short[0] || table[i].argument != argument {
			t.Errorf("%s is not ours", m[0])
		}
	}
}

// The store is a Source, while its database cannot be read as well, which is noticed when it can.
func TestLocalStoreIsSource(t *testing.T) {
	guixtest.Require(t)
	paths, _ := items(t)
	path := filepath.Join(t.TempDir(), "db.sqlite")
	src := &localStore{pool: &store.Pool{}, path: path}
	defer src.Close()
	for _, wanted := range []string{"guix-daemon", "database"} {
		if wanted == "database" {
			if err := os.Symlink(storedb.DefaultPath, path); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(wanted, func(t *testing.T) { substitutetest.TestSource(t, src, paths) })
		if got := src.String(); got != wanted {
			t.Errorf("source was the %s", got)
		}
	}
}

// Stock guix weather finds what we publish, and stock guix challenge agrees with us.
func TestWeatherAndChallenge(t *testing.T) {
	guixtest.Require(t)
	paths, derivations := items(t)
	config := configured(t)
	for _, args := range [][]string{nil, {"-Cnone"}, {"-Cgzip"}, {"-Czstd:3"}, {"--cache=" + t.TempDir()}, {"--cache=" + t.TempDir(), "-Czstd"}} {
		s := start(t, config, args...)
		checkWeather(t, config, s.url, paths, derivations)
	}
}

// fetched has our client fetch items, which must have the archives that the store has.
func fetched(t *testing.T, c *substitute.Client, paths []substitute.StorePath) {
	t.Helper()
	offers, err := c.Query(t.Context(), paths)
	if err != nil || len(offers) != len(paths) {
		t.Fatalf("%d of %d offered, %v", len(offers), len(paths), err)
	}
	for _, o := range offers {
		path := filepath.Join(t.TempDir(), "item")
		if err := c.Fetch(t.Context(), o, path, nil); err != nil {
			t.Error(err)
			continue
		}
		var ours, theirs bytes.Buffer
		if err := nar.Dump(&ours, path); err != nil {
			t.Fatal(err)
		}
		if err := nar.Dump(&theirs, string(o.StorePath)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours.Bytes(), theirs.Bytes()) {
			t.Errorf("%s arrived as something else", o.StorePath)
		}
	}
}

// We fetch from a real guix publish, whatever it compresses with, as its cache fills.
func TestFromGuixPublish(t *testing.T) {
	guixtest.Require(t)
	paths, _ := items(t)
	config := configured(t)
	acl, err := substitute.ReadACLFile(filepath.Join(config, "acl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-Cgzip"}, {"-Czstd"}, {"-Cnone"}, {"-Clzip"}, {"-Czstd", "-Clzip", "-Cgzip"}, {"--cache", "-Czstd"},
		{"--cache", "-Clzip", "-Cgzip"}} {
		var cache string
		if args[0] == "--cache" {
			cache = t.TempDir()
			args = append(args[1:], "--cache="+cache)
		}
		cmd := exec.Command("guix", append([]string{"publish"}, args...)...)
		cmd.Env = append(os.Environ(), "GUIX_CONFIGURATION_DIRECTORY="+config)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		address := storetest.Activate(t, cmd, "tcp", "127.0.0.1:0")
		c := &substitute.Client{URLs: []string{"http://" + address.String()}, ACL: acl}
		fetched(t, c, paths)
		if cache != "" {
			awaitItems(t, filepath.Join(cache, strings.TrimPrefix(args[0], "-C")), len(paths), t.Context())
			c := &substitute.Client{URLs: c.URLs, ACL: acl}
			if offers, err := c.Query(t.Context(), paths[:1]); err != nil || len(offers) != 1 || offers[0].DownloadSize() < 0 {
				t.Errorf("%v, %v; want one that is baked, with its size", offers, err)
			}
			fetched(t, c, paths)
		}
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Fatalf("guix publish %q:\n%s", args, &said)
		}
	}
}

// What export writes is usable by stock guix through any web server, and by us as files.
func TestExport(t *testing.T) {
	guixtest.Require(t)
	paths, derivations := items(t)
	config := configured(t)
	t.Setenv("GUIX_CONFIGURATION_DIRECTORY", config)
	dir := filepath.Join(t.TempDir(), "static")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := runIn(t, "export", dir, string(paths[1]))
	if code != 0 || !strings.Contains(stderr, "exported 2 items") {
		t.Fatalf("status %d: %s", code, stderr)
	}
	if code, _, stderr := runIn(t, "export", t.TempDir(), string(paths[0])); code != 0 || !strings.Contains(stderr, "exported 1 item to") {
		t.Errorf("status %d: %s", code, stderr)
	}
	for _, absent := range []substitute.StorePath{substitutetest.Path("absent", ""), paths[0] + "-other"} {
		code, _, stderr := runIn(t, "export", dir, string(paths[0]), string(absent))
		if code != cli.Usage || !strings.Contains(stderr, fmt.Sprintf("%q is not in the store", absent)) {
			t.Errorf("what is not there: status %d: %s", code, stderr)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	go web.Serve(l)
	defer web.Close()
	checkWeather(t, config, "http://"+l.Addr().String(), paths, derivations)
	acl, _ := substitute.ReadACLFile(filepath.Join(config, "acl"))
	fetched(t, &substitute.Client{URLs: []string{"file://" + dir}, ACL: acl}, paths)
}

// Killed at any moment while it writes, export leaves only what is whole, and
// the next one completes it.
func TestExportKilled(t *testing.T) {
	guixtest.Require(t)
	config := configured(t)
	acl, err := substitute.ReadACLFile(filepath.Join(config, "acl"))
	if err != nil {
		t.Fatal(err)
	}
	last := chain(t, 20)
	dir := filepath.Join(t.TempDir(), "static")
	export := func() *exec.Cmd {
		cmd := exec.Command(program, "export", dir, last)
		cmd.Env = append(os.Environ(), "GUIX_CONFIGURATION_DIRECTORY="+config)
		return cmd
	}
	for wanted := 1; wanted <= 9; wanted += 4 {
		cmd := export()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended, end := context.WithCancel(context.Background())
		go func() { cmd.Wait(); end() }()
		awaitItems(t, dir, wanted, ended) // then die
		cmd.Process.Kill()
		<-ended.Done()
		checkStatic(t, dir, acl)
	}
	left := filepath.Join(dir, "nar", "zstd", ".tmp-left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if old := time.Now().Add(-48 * time.Hour); os.Chtimes(left, old, old) != nil {
		t.Fatal("cannot make a file older")
	}
	if out, err := export().CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("what a killed process left is still there")
	}
	if n := checkStatic(t, dir, acl); n != 20 {
		t.Errorf("%d items, want 20", n)
	}
}

// chain adds items to the store each of which refers to the one before, and returns the last.
// They are kept for the duration of the test.
func chain(t *testing.T, n int) string {
	t.Helper()
	c, err := store.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	var references []store.StorePath
	for i := range n {
		item, err := c.AddText(t.Context(), fmt.Sprintf("guixci-chain-%d", i), fmt.Appendf(nil, "after %v", references), references)
		if err != nil {
			t.Fatal(err)
		}
		references = []store.StorePath{item}
	}
	return string(references[0])
}

// awaitItems returns when a directory, which it makes, offers that many items, or the program that
// writes them has ended.
func awaitItems(t testing.TB, dir string, wanted int, ended context.Context) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	renamed := os.NewFile(uintptr(fd), "inotify")
	defer renamed.Close()
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	renamed.SetReadDeadline(time.Now().Add(5 * time.Minute))
	stop := context.AfterFunc(ended, func() { renamed.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for events := make([]byte, 64<<10); ; {
		found, _ := filepath.Glob(filepath.Join(dir, "*.narinfo"))
		if len(found) >= wanted {
			return
		}
		if _, err := renamed.Read(events); err != nil {
			if ended.Err() == nil {
				t.Errorf("%d items after %v, want %d", len(found), err, wanted)
			}
			return
		}
	}
}

// checkStatic fetches all that a directory offers, and returns how many items these are.
func checkStatic(t *testing.T, dir string, acl *substitute.ACL) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.narinfo"))
	if err != nil {
		t.Fatal(err)
	}
	c := &substitute.Client{URLs: []string{"file://" + dir}, ACL: acl}
	for _, name := range found {
		info, err := c.Info(context.Background(), strings.TrimSuffix(filepath.Base(name), ".narinfo"))
		if err == nil {
			err = c.WriteNAR(context.Background(), io.Discard, info)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	return len(found)
}

// An init system passes the socket on; privileges are given up; SIGTERM is a normal end.
func TestService(t *testing.T) {
	guixtest.Require(t)
	paths, _ := items(t)
	config := configured(t)
	cmd := exec.Command(program, "--user=nobody", "--metrics")
	cmd.Env = append(os.Environ(), "GUIX_CONFIGURATION_DIRECTORY="+config)
	var address net.Addr
	url := started(t, cmd, func() error {
		address = storetest.Activate(t, cmd, "tcp", "127.0.0.1:0")
		return nil
	})
	if want := "http://" + address.String(); url != want {
		t.Errorf("listens on %s, want %s", url, want)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil || regexp.MustCompile(`(?m)^Uid:\s+0\b`).Match(status) {
		t.Errorf("still root: %v", err)
	}
	acl, _ := substitute.ReadACLFile(filepath.Join(config, "acl"))
	fetched(t, &substitute.Client{URLs: []string{url}, ACL: acl}, paths)
	res, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if !strings.Contains(string(text), "\nguixci_substitute_narinfos_total 2\n") {
		t.Errorf("metrics:\n%s", text)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
}
