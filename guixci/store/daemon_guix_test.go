package store_test

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/substitutetest"
	"github.com/google/go-cmp/cmp"
)

// ownDaemon starts a second guix-daemon for the same store, with a configuration
// of its own that trusts the given keys. It returns the name of its socket.
func ownDaemon(t *testing.T, keys ...*substitute.PublicKey) string {
	t.Helper()
	if !guixtest.InBox() {
		t.Skip("needs the box, where a second guix-daemon does no harm")
	}
	dir := t.TempDir()
	config, socket := filepath.Join(dir, "etc"), filepath.Join(dir, "socket")
	if err := os.Mkdir(config, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "acl"), []byte(substitute.NewACL(keys...).String()), 0o644); err != nil {
		t.Fatal(err)
	}
	letIn(t, filepath.Dir(dir), dir)
	cmd := exec.Command("guix-daemon", "--disable-chroot", "--build-users-group=guixbuild", "--listen="+socket)
	cmd.Env = append(os.Environ(), "GUIX_CONFIGURATION_DIRECTORY="+config, "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	kill := storetest.KillAfterwards(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kill()
		log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("guix-daemon:\n%s", text)
		}
	})
	await(t, "a guix-daemon that answers", func() bool {
		c, err := store.Dial(t.Context(), socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return socket
}

// An output that was deleted comes back from a server of ours, if its key is trusted.
func TestSubstitution(t *testing.T) {
	c := dial(t)
	kit := storetest.New(t, c)
	gift := kit.Add(storetest.Spec{Name: "gift", Script: "echo for you; echo gift >$out"})
	if err := c.Build(t.Context(), []store.StorePath{gift.Derivation}, store.BuildOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	var usual store.Pool
	defer usual.Close()
	before, err := usual.Info(t.Context(), gift.Out().Hash())
	if err != nil {
		t.Fatal(err)
	}
	archive := substitutetest.Memory{}
	archive.AddInfo(before, substitutetest.FileNAR("gift\n"))
	key := substitute.GenerateKey()
	server := httptest.NewServer(&substitute.Handler{Source: &archive, Key: key})
	defer server.Close()
	c.Close() // its temporary root would keep the item
	storetest.Remove(t, &usual, gift.Out())
	options := store.BuildOptions{SubstituteURLs: []string{server.URL}}

	stranger := store.Pool{Address: ownDaemon(t)}
	defer stranger.Close()
	if some, err := stranger.SubstitutablePaths(t.Context(), []store.StorePath{gift.Out()}, options); err != nil || len(some) != 0 {
		t.Errorf("untrusted: %q is offered, %v", some, err)
	}
	if err := stranger.EnsurePath(t.Context(), gift.Out(), options, nil); err == nil {
		t.Error("untrusted: fetched")
	}

	friend := store.Pool{Address: ownDaemon(t, key.Public())}
	defer friend.Close()
	if some, err := friend.SubstitutablePaths(t.Context(), []store.StorePath{gift.Out()}, options); err != nil || !slices.Equal(some, []store.StorePath{gift.Out()}) {
		t.Errorf("trusted: %q is offered, %v", some, err)
	}
	var kinds []store.Kind
	err = friend.EnsurePath(t.Context(), gift.Out(), options, func(e store.Event) {
		if e.Path == gift.Out() && e.Kind != store.DownloadProgress {
			kinds = append(kinds, e.Kind)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []store.Kind{store.SubstituterStarted, store.DownloadStarted, store.DownloadDone, store.SubstituterDone}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	after, err := usual.Info(t.Context(), gift.Out().Hash())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("info (-before +after):\n%s", diff)
	}
}

func TestPoolIsASource(t *testing.T) {
	c := dial(t)
	dir, err := c.AddTree(t.Context(), "a-tree", tree(t))
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.AddText(t.Context(), "a-text", []byte("see "+string(dir)), []store.StorePath{dir})
	if err != nil {
		t.Fatal(err)
	}
	var pool store.Pool
	defer pool.Close()
	substitutetest.TestSource(t, &pool, []substitute.StorePath{dir, text})
}

// One connection outlives what others do to it: many at once take turns.
func TestClientTakesTurns(t *testing.T) {
	c := dial(t)
	item, err := c.AddText(t.Context(), "shared", []byte(t.Name()), nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for range 16 {
		go func() {
			info, err := c.PathInfo(t.Context(), item)
			if err == nil && info.StorePath != item {
				t.Errorf("asked for %s, told of %s", item, info.StorePath)
			}
			done <- err
		}()
	}
	for range 16 {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(3 * time.Minute):
			t.Fatal("no answer")
		}
	}
}
