//go:build bench

package channel_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/genenetwork/guixci/channel"
)

// A countingRemote says when every repository was looked at once.
type countingRemote struct {
	channel.Remote
	left atomic.Int32
	done context.CancelFunc
}

func (c *countingRemote) References(ctx context.Context, url string) (map[string]channel.Commit, error) {
	refs, err := c.Remote.References(ctx, url)
	if c.left.Add(-1) == 0 {
		c.done()
	}
	return refs, err
}

// TestSpeedOfPolling looks at 100 repositories once, over HTTP and on this machine. The
// CPU time is that of the process, the server included, and of its children.
func TestSpeedOfPolling(t *testing.T) {
	repo, intro := newRepo(t, nil)
	for i := range 20 {
		if err := repo.Tag(fmt.Sprintf("v%d", i), intro.Commit, "Release."); err != nil {
			t.Fatal(err)
		}
	}
	links := t.TempDir()
	for i := range 100 {
		if err := os.Symlink(repo.Dir, filepath.Join(links, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(advertise(t, repo.Dir)))
	defer server.Close()
	for kind, url := range map[string]string{"http": server.URL + "/%d.git", "file": "file://" + links + "/%d"} {
		var list channel.List
		heads := map[string]channel.Commit{}
		for i := range 100 {
			c := channel.Channel{Name: fmt.Sprint(i), URL: fmt.Sprintf(url, i)}
			list, heads[c.Name] = append(list, c), intro.Commit
		}
		used := pollOnce(t, list, heads)
		t.Logf("100 repositories (%s) looked at once: %v of CPU", kind, used.Round(time.Millisecond))
		if used > 2*time.Second {
			t.Errorf("%s: more than 2 s", kind)
		}
	}
}

func pollOnce(t *testing.T, list channel.List, heads map[string]channel.Commit) time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	remote := &countingRemote{Remote: &channel.Repositories{Dir: t.TempDir()}, done: cancel}
	remote.left.Store(int32(len(list)))
	w := &channel.Watcher{Remote: remote, Channels: list, Heads: heads}
	before := cpuTime(t)
	for u, err := range w.Updates(ctx) {
		t.Fatalf("%+v, %v", u, err)
	}
	if n := remote.left.Load(); n != 0 {
		t.Fatalf("%d were not looked at", n)
	}
	return cpuTime(t) - before
}

// advertise answers as "git http-backend" does for the references of one repository.
func advertise(t *testing.T, dir string) http.HandlerFunc {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "-c", "safe.directory=*", "upload-pack", "--http-backend-info-refs", dir)
	refs, err := cmd.Output()
	if err != nil {
		t.Skipf("needs git: %v", err)
	}
	const service = "001e# service=git-upload-pack\n0000"
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		fmt.Fprint(w, service)
		w.Write(refs)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var total time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			t.Fatal(err)
		}
		total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return total
}
