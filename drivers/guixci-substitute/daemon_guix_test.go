package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// asAgent makes the test binary be the program itself.
const asAgent = "GUIXCI_TEST_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// daemon starts an unmodified guix-daemon for the box's store that uses this
// program, and returns its socket and the name of its log.
func daemon(t *testing.T, key *substitute.PublicKey, jobs int) (socket, log string) {
	t.Helper()
	return daemonWith(t, "", key, jobs)
}

// daemonWith is daemon with another program as GUIX; "" is this one.
func daemonWith(t *testing.T, guix string, key *substitute.PublicKey, jobs int) (socket, log string) {
	t.Helper()
	if guixtest.Require(t); !guixtest.InBox() {
		t.Skip("needs the box, where a second guix-daemon does no harm")
	}
	dir := t.TempDir()
	config, socket := filepath.Join(dir, "etc"), filepath.Join(dir, "socket")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if guix == "" {
		guix = filepath.Join(dir, "guix")
	}
	write(t, filepath.Join(dir, "guix"), fmt.Sprintf("#!/bin/sh\n%s=1 exec %s \"$@\"\n", asAgent, self), 0o755)
	if err := os.Mkdir(config, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(config, "acl"), substitute.NewACL(key).String(), 0o644)
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil { // build users go through
			t.Fatal(err)
		}
	}
	log = filepath.Join(dir, "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("guix-daemon", "--disable-chroot", "--build-users-group=guixbuild", fmt.Sprintf("--max-jobs=%d", jobs))
	cmd.Env = append(os.Environ(), "GUIX="+guix, "GUIX_CONFIGURATION_DIRECTORY="+config, "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	cmd.Stdout, cmd.Stderr = out, out
	kill := storetest.KillAfterwards(t, cmd)
	storetest.Activate(t, cmd, "unix", socket)
	t.Cleanup(func() {
		kill()
		out.Close()
		if t.Failed() {
			t.Logf("guix-daemon:\n%s", read(t, log))
		}
	})
	return socket, log
}

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// gifts are items that were in the store, and now are only in the Source that is returned.
func gifts(t *testing.T, count int) (*substitutetest.Memory, []substitute.StorePath) {
	t.Helper()
	var usual store.Pool
	defer usual.Close()
	var m substitutetest.Memory
	var paths []substitute.StorePath
	err := usual.Do(t.Context(), func(c *store.Client) error {
		tree := filepath.Join(t.TempDir(), "tree")
		if err := os.MkdirAll(filepath.Join(tree, "bin", "empty"), 0o755); err != nil {
			return err
		}
		big := bytes.Repeat([]byte(t.Name()), 10_000)
		write(t, filepath.Join(tree, "bin", "one"), string(big), 0o755)
		write(t, filepath.Join(tree, "bin", "two"), string(big), 0o755)
		write(t, filepath.Join(tree, "small"), "", 0o644)
		if err := os.Symlink("bin/one", filepath.Join(tree, "link")); err != nil {
			return err
		}
		path, err := c.AddTree(t.Context(), "gift-tree", tree)
		for i := 0; err == nil; i++ {
			paths = append(paths, path)
			if i == count-1 {
				break
			}
			path, err = c.AddText(t.Context(), "gift", fmt.Appendf(nil, "%s %d\n", t.Name(), i), paths[max(0, i-2):i+1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		info, err := usual.Info(t.Context(), path.Hash())
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := usual.WriteNAR(t.Context(), &b, info); err != nil {
			t.Fatal(err)
		}
		m.AddInfo(info, b.Bytes())
	}
	usual.Close()
	drop(t, paths)
	return &m, paths
}

// drop deletes items from the store.
func drop(t *testing.T, paths []substitute.StorePath) {
	t.Helper()
	var pool store.Pool
	defer pool.Close()
	storetest.Remove(t, &pool, paths...)
}

// substituteAll has a daemon fetch items and checks that the store is sound.
func substituteAll(t *testing.T, socket string, m *substitutetest.Memory, paths []substitute.StorePath, urls ...string) {
	t.Helper()
	pool := store.Pool{Address: socket}
	defer pool.Close()
	options := store.BuildOptions{SubstituteURLs: urls}
	if err := pool.EnsurePath(t.Context(), paths[len(paths)-1], options, nil); err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		want, err := m.Info(t.Context(), path.Hash())
		if err != nil {
			t.Fatal(err)
		}
		got, err := pool.Info(t.Context(), path.Hash())
		if err != nil {
			t.Fatal(err)
		}
		if got.NarHash != want.NarHash || got.NarSize != want.NarSize || fmt.Sprint(got.References) != fmt.Sprint(want.References) {
			t.Errorf("%s: store has %+v, want %+v", path, got, want)
		}
		out, err := exec.Command("guix", "hash", "-S", "nar", "-f", "nix-base32", string(path)).Output()
		if err != nil || "sha256:"+strings.TrimSpace(string(out)) != want.NarHash.String() {
			t.Errorf("%s: guix hash says %q, %v", path, out, err)
		}
	}
}

// An unmodified daemon downloads through this program: references, trees, permissions,
// times and hard links are what they would have been.
func TestUnderDaemon(t *testing.T) {
	key := substitute.GenerateKey()
	socket, log := daemon(t, key.Public(), 2)
	m, paths := gifts(t, 5)
	server := httptest.NewServer(&substitute.Handler{Source: m, Key: key})
	defer server.Close()
	substituteAll(t, socket, m, paths, server.URL)

	one, two := lstat(t, paths[0], "bin/one"), lstat(t, paths[0], "bin/two")
	if !os.SameFile(one, two) {
		t.Error("equal files are not one")
	}
	if one.Mode() != 0o555 || one.ModTime().Unix() != 1 {
		t.Errorf("mode %v, time %v", one.Mode(), one.ModTime())
	}
	if d := lstat(t, paths[0], "bin"); d.Mode().Perm() != 0o555 || d.ModTime().Unix() != 1 {
		t.Errorf("directory: mode %v, time %v", d.Mode(), d.ModTime())
	}
	if text := read(t, log); strings.Contains(text, "exception") {
		t.Errorf("daemon's log:\n%s", text)
	}
}

func lstat(t *testing.T, item substitute.StorePath, name string) os.FileInfo {
	t.Helper()
	info, err := os.Lstat(filepath.Join(string(item), name))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// A daemon without this program gets the same from our server: through guix substitute, baked or not.
func TestStockDaemon(t *testing.T) {
	guixtest.Require(t)
	stock, err := exec.LookPath("guix")
	if err != nil {
		t.Fatal(err)
	}
	key := substitute.GenerateKey()
	socket, _ := daemonWith(t, stock, key.Public(), 2)
	for _, methods := range [][]substitute.Compression{nil, {{Method: "lzip"}, {Method: "zstd"}}} {
		m, paths := gifts(t, 5)
		h := &substitute.Handler{Source: m, Key: key, Compression: methods}
		substituteAll(t, socket, m, paths, published(t, &substitute.Server{Handler: h}))
		drop(t, paths)
	}
	m, paths := gifts(t, 5)
	dir := t.TempDir()
	exporter := &substitute.Exporter{To: substitute.Directory(dir), Key: key}
	if err := exporter.Export(t.Context(), m, paths...); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	substituteAll(t, socket, m, paths, server.URL)
}

// published runs s until the end of the test.
func published(t *testing.T, s *substitute.Server) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

// A cache that breaks off everything, and one that sends garbage, do not keep the
// daemon from getting the items elsewhere.
func TestUnderDaemonBadCaches(t *testing.T) {
	key := substitute.GenerateKey()
	socket, _ := daemon(t, key.Public(), 1)
	m, paths := gifts(t, 3)
	good := &substitute.Handler{Source: m, Key: key}
	var bad atomic.Int64
	spoiled := func(spoil func(http.ResponseWriter)) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/nar/") {
				good.ServeHTTP(w, r)
				return
			}
			bad.Add(1)
			spoil(w)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	urls := []string{
		spoiled(func(w http.ResponseWriter) { w.Write([]byte("garbage")) }),
		spoiled(func(http.ResponseWriter) { panic(http.ErrAbortHandler) }),
	}
	server := httptest.NewServer(good)
	defer server.Close()
	substituteAll(t, socket, m, paths, append(urls, server.URL)...)
	if bad.Load() == 0 {
		t.Error("the bad caches were not asked for archives")
	}
}

// What this program does not do itself reaches the real guix.
func TestHandsOver(t *testing.T) {
	guixtest.Require(t)
	cmd := exec.Command(os.Args[0], "gc", "--version")
	cmd.Env = append(os.Environ(), asAgent+"=1")
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "GNU Guix") {
		t.Errorf("%q, %v", out, err)
	}
}

// Whoever runs it by hand is told who should.
func TestByHand(t *testing.T) {
	config := t.TempDir()
	write(t, filepath.Join(config, "acl"), "garbage", 0o644)
	for want, files := range map[string][]*os.File{"no descriptor 4": nil, "access-control list": {os.Stderr, os.Stderr}} {
		for _, mode := range []string{"--query", "--substitute"} {
			cmd := exec.Command(os.Args[0], "substitute", mode)
			cmd.Env = append(os.Environ(), asAgent+"=1", "GUIX_CONFIGURATION_DIRECTORY="+config)
			cmd.ExtraFiles = files
			out, err := cmd.CombinedOutput()
			if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != cli.Usage || !strings.Contains(string(out), want) {
				t.Errorf("%s: %v, %q; want %q", mode, err, out, want)
			}
		}
	}
}

// What a client fetches gets into the store through the daemon; and stock guix archive takes our bundles.
func TestImport(t *testing.T) {
	key := substitute.GenerateKey()
	socket, _ := daemon(t, key.Public(), 1)
	m, paths := gifts(t, 4)
	server := httptest.NewServer(&substitute.Handler{Source: m, Key: key})
	defer server.Close()
	client := &substitute.Client{URLs: []string{server.URL}, ACL: substitute.NewACL(key.Public())}
	closure, err := substitute.Closure(t.Context(), client, paths[len(paths)-1])
	if err != nil {
		t.Fatal(err)
	}
	to, err := store.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := substitute.Import(t.Context(), to, key, client, closure); err != nil || len(got) != len(paths) {
		t.Errorf("imported %q, %v", got, err)
	}
	for _, path := range paths {
		if valid, err := to.Valid(t.Context(), path); err != nil || !valid {
			t.Errorf("%s: valid %v, %v", path, valid, err)
		}
	}
	to.Close()
	drop(t, paths)

	var bundle bytes.Buffer
	w := substitute.NewBundleWriter(&bundle, key)
	for _, info := range closure {
		if err := w.Add(t.Context(), m, info); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("guix", "archive", "--import")
	cmd.Env = append(os.Environ(), "GUIX_DAEMON_SOCKET="+socket)
	cmd.Stdin = bytes.NewReader(bundle.Bytes())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("guix archive --import: %v\n%s", err, out)
	}
	for _, path := range paths {
		if _, err := os.Lstat(string(path)); err != nil {
			t.Error(err)
		}
	}
	bad := bytes.Replace(bundle.Bytes(), []byte("TestImport"), []byte("TestIMPORT"), 1)
	drop(t, paths)
	cmd = exec.Command("guix", "archive", "--import")
	cmd.Env = append(os.Environ(), "GUIX_DAEMON_SOCKET="+socket)
	cmd.Stdin = bytes.NewReader(bad)
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("guix archive --import of an altered bundle: no error\n%s", out)
	}
}

// The substituter is killed while it fetches: the daemon fails, nothing becomes valid, and the
// next attempt works.
func TestKilledWhileFetching(t *testing.T) {
	key := substitute.GenerateKey()
	socket, _ := daemon(t, key.Public(), 1)
	m, paths := gifts(t, 1)
	good := &substitute.Handler{Source: m, Key: key}
	var kill atomic.Bool
	kill.Store(true)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nar/") && kill.Load() {
			w.Write([]byte{0x28, 0xb5, 0x2f, 0xfd})
			w.(http.Flusher).Flush()
			killAgents(t)
			<-r.Context().Done()
			return
		}
		good.ServeHTTP(w, r)
	}))
	defer server.Close()
	pool := store.Pool{Address: socket}
	defer pool.Close()
	options := store.BuildOptions{SubstituteURLs: []string{server.URL}}
	if err := pool.EnsurePath(t.Context(), paths[0], options, nil); err == nil {
		t.Error("no error although the substituter was killed")
	}
	err := pool.Do(t.Context(), func(c *store.Client) error {
		if valid, err := c.Valid(t.Context(), paths[0]); err != nil || valid {
			t.Errorf("valid %v, %v", valid, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	kill.Store(false)
	substituteAll(t, socket, m, paths, server.URL)
}

// killAgents kills the processes that are this test's substituters.
func killAgents(t *testing.T) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range procs {
		line, _ := os.ReadFile(name)
		if words := strings.Split(string(line), "\x00"); words[0] == os.Args[0] && len(words) > 2 && words[2] == "--substitute" {
			var pid int
			fmt.Sscanf(name, "/proc/%d/", &pid)
			if p, err := os.FindProcess(pid); err == nil {
				p.Kill()
			}
		}
	}
}
