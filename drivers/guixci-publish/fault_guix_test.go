package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/storedb"
)

// texts adds items of the given size to the store that do not refer to each other. They are kept for
// the duration of the test.
func texts(t *testing.T, n, size int) (paths []substitute.StorePath) {
	t.Helper()
	c, err := store.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	for i := range n {
		text := bytes.Repeat(fmt.Appendf(nil, "%s %d %d\n", t.Name(), i, size), size/20)
		item, err := c.AddText(t.Context(), fmt.Sprintf("guixci-text-%d", i), text, nil)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, item)
	}
	return paths
}

// Killed at any moment while it bakes, the server leaves only what is whole, and the next one goes on.
func TestKilledWhileBaking(t *testing.T) {
	guixtest.Require(t)
	const count = 30
	paths := texts(t, count, 400_000)
	config := configured(t)
	acl, err := substitute.ReadACLFile(filepath.Join(config, "acl"))
	if err != nil {
		t.Fatal(err)
	}
	bake := func(dir string, wanted int) *server {
		t.Helper()
		s := start(t, config, "--cache="+dir, "--workers=1")
		c := &substitute.Client{URLs: []string{s.url}, ACL: acl}
		if offers, err := c.Query(t.Context(), paths); err != nil || len(offers) != count {
			t.Fatalf("%d offers, %v", len(offers), err)
		}
		awaitItems(t, dir, wanted, t.Context())
		return s
	}
	written := func(dir string) []string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(dir, "nar", "*", ".tmp-*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	var dir string
	for try := 1; len(written(dir)) == 0; try++ {
		if try > 20 { // it may be done, or between two items, when it is killed
			t.Fatal("nothing was being written when it was killed")
		}
		dir = filepath.Join(t.TempDir(), "cache")
		for _, wanted := range []int{1, 7} {
			s := bake(dir, wanted)
			s.cmd.Process.Kill()
			s.cmd.Wait()
			if n := checkStatic(t, dir, acl); n < wanted {
				t.Errorf("%d items after %d were there", n, wanted)
			}
		}
	}
	s := bake(dir, count)
	fetched(t, &substitute.Client{URLs: []string{s.url}, ACL: acl}, paths[:2])
	if left := written(dir); len(left) > 0 {
		t.Errorf("what was being written is left: %q", left)
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	if n := checkStatic(t, dir, acl); n != count {
		t.Errorf("%d items, want %d", n, count)
	}
}

// Two servers share a cache directory: both serve everything while both bake, and it is sound.
func TestTwoServersOneCache(t *testing.T) {
	guixtest.Require(t)
	const count = 30
	paths := texts(t, count, 30_000)
	config := configured(t)
	acl, err := substitute.ReadACLFile(filepath.Join(config, "acl"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "cache")
	var all sync.WaitGroup
	for range 2 {
		s := start(t, config, "--cache="+dir, "--cache-size=1K", "--ttl=1h")
		all.Go(func() {
			for range 3 {
				c := &substitute.Client{URLs: []string{s.url}, ACL: acl}
				offers, err := c.Query(t.Context(), paths)
				if err != nil || len(offers) != count {
					t.Errorf("%d offers, %v", len(offers), err)
				}
				for _, o := range offers {
					if err := c.WriteNAR(t.Context(), io.Discard, &o.Info); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	awaitItems(t, dir, count, t.Context())
	if n := checkStatic(t, dir, acl); n != count {
		t.Errorf("%d items, want %d", n, count)
	}
}

// A full disk does not keep the server from serving: what cannot be baked is sent all the same. An export
// fails, and leaves what can be used.
func TestDiskFull(t *testing.T) {
	config := configured(t)
	dir := smallDisk(t)
	paths := texts(t, 10, 4_000_000)
	noise := filepath.Join(dir, "noise") // leaves little
	if err := os.WriteFile(noise, make([]byte, 1000<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	acl, err := substitute.ReadACLFile(filepath.Join(config, "acl"))
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, config, "--cache="+filepath.Join(dir, "cache"), "-Cgzip:1", "-Clzip")
	for range 2 {
		fetched(t, &substitute.Client{URLs: []string{s.url}, ACL: acl}, paths)
	}
	checkStatic(t, filepath.Join(dir, "cache"), acl)
	t.Setenv("GUIX_CONFIGURATION_DIRECTORY", config)
	static := filepath.Join(dir, "static")
	args := []string{"export", static, "-Cgzip:1"}
	for _, p := range paths {
		args = append(args, string(p))
	}
	if code, _, stderr := runIn(t, args...); code == 0 || !strings.Contains(stderr, "no space left on device") {
		t.Errorf("export: status %d: %s", code, stderr)
	}
	checkStatic(t, static, acl)
	if err := os.Remove(noise); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := runIn(t, args...); code != 0 {
		t.Errorf("export with room: status %d: %s", code, stderr)
	}
	if n := checkStatic(t, static, acl); n != len(paths) {
		t.Errorf("%d items, want %d", n, len(paths))
	}
}

// ownDaemon starts a guix-daemon for the box's store on a socket, with more in its environment; the caller ends it.
func ownDaemon(t *testing.T, socket string, env ...string) (kill func()) {
	t.Helper()
	cmd := exec.Command("guix-daemon", "--disable-chroot", "--build-users-group=guixbuild")
	cmd.Env = append(os.Environ(), env...)
	out, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	kill = storetest.KillAfterwards(t, cmd)
	storetest.Activate(t, cmd, "unix", socket)
	t.Cleanup(func() {
		kill()
		if text, err := os.ReadFile(out.Name()); err == nil && t.Failed() {
			t.Logf("guix-daemon:\n%s", text)
		}
	})
	return kill
}

// While the daemon is away, and there is no database, clients are asked to come back; they are served as
// soon as the daemon is back.
func TestDaemonComesAndGoes(t *testing.T) {
	if guixtest.Require(t); !guixtest.InBox() {
		t.Skip("needs the box, where a second guix-daemon does no harm")
	}
	path := texts(t, 1, 1000)[0]
	socket := filepath.Join(t.TempDir(), "socket")
	kill := ownDaemon(t, socket)
	src := &localStore{pool: &store.Pool{Address: socket}, path: filepath.Join(t.TempDir(), "none")}
	defer src.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	server := &substitute.Server{Handler: &substitute.Handler{Source: src, Key: substitute.GenerateKey()}, Drain: time.Millisecond}
	go func() { ended <- server.Run(ctx, l) }()
	defer func() { cancel(); <-ended }()
	ask := func(path string, want int) {
		t.Helper()
		res, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		io.Copy(io.Discard, res.Body)
		if res.StatusCode != want || want == 503 && res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: status %d, want %d; %v", path, res.StatusCode, want, res.Header)
		}
	}
	narinfo, archive := "/"+path.Hash()+".narinfo", "/nar/gzip/"+path.Base()
	for range 2 {
		ask(narinfo, 200)
		ask(archive, 200)
		kill()
		ask(narinfo, 503)
		ask(archive, 503)
		ask("/nix-cache-info", 200)
		os.Remove(socket)
		ask(narinfo, 503)
		kill = ownDaemon(t, socket)
	}
	ask(narinfo, 200)
	ask(archive, 200)
}

// When the database that was open is gone, the daemon is asked, for archives too.
func TestDatabaseGoes(t *testing.T) {
	guixtest.Require(t)
	path := texts(t, 1, 1000)[0]
	link := filepath.Join(t.TempDir(), "db.sqlite")
	if err := os.Symlink(storedb.DefaultPath, link); err != nil {
		t.Fatal(err)
	}
	src, err := openStore(&options{database: link})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	h := &substitute.Handler{Source: src, Key: substitute.GenerateKey()}
	ask := func(when string) {
		t.Helper()
		for _, address := range []string{"/" + path.Hash() + ".narinfo", "/nar/" + path.Base(), "/nar/gzip/" + path.Base()} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, address, nil))
			if w.Code != http.StatusOK {
				t.Errorf("%s: %s: status %d", when, address, w.Code)
			}
		}
	}
	ask("while it is there")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	db := src.db.Load()
	for look := time.NewTicker(time.Millisecond); ; <-look.C { // it is believed for some milliseconds
		if _, err := db.Info(t.Context(), path.Hash()); err != nil {
			break
		}
	}
	ask("when it is gone")
}

// smallDisk is a directory with a file system of its own, of 1.1 megabytes.
func smallDisk(t *testing.T) string {
	t.Helper()
	if guixtest.Require(t); !guixtest.InBox() {
		t.Skip("needs the box, which may mount file systems")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1100k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
