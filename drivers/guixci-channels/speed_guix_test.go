//go:build bench

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// requireBench skips unless figures are wanted: they need a quiet machine.
func requireBench(t *testing.T) {
	t.Helper()
}

// TestSpeedOfAuthentication compares with "guix git authenticate", both as processes, on
// the same repository, in one run, without any cache: the best of three each.
func TestSpeedOfAuthentication(t *testing.T) {
	requireBench(t)
	guixtest.Require(t)
	const commits = 2400
	repo, intro := longHistory(t, commits)
	program := build(t)
	ours := func(cache string) []string {
		return []string{program, "authenticate", "--state=" + cache, "--repository=" + repo.Dir,
			"--commit=" + string(intro.Commit), "--signer=" + intro.Signer.String()}
	}
	guix := fastest(t, 3, func(home string) []string {
		return []string{"guix", "git", "authenticate", "--repository=" + repo.Dir, "--cache-key=" + filepath.Base(home),
			string(intro.Commit), intro.Signer.String()}
	})
	cold := fastest(t, 5, ours)
	t.Logf("%d commits: guix git authenticate %v (%.0f/s), guixci-channels authenticate %v (%.0f/s): %.1f times as fast",
		commits, guix.Round(time.Millisecond), commits/guix.Seconds(), cold.Round(time.Millisecond), commits/cold.Seconds(),
		guix.Seconds()/cold.Seconds())
	if guix < 8*cold {
		t.Errorf("less than 8 times as fast")
	}
	cache := t.TempDir()
	warm := fastest(t, 10, func(string) []string { return ours(cache) })
	t.Logf("with a warm cache and nothing new: %v", warm.Round(100*time.Microsecond))
	if warm > 20*time.Millisecond {
		t.Errorf("more than 20 ms")
	}
}

// fastest runs a command n times, each with a home of its own, and returns the shortest time.
func fastest(t *testing.T, n int, command func(home string) []string) time.Duration {
	t.Helper()
	var times []time.Duration
	for range n {
		home := t.TempDir()
		args := command(home)
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home)
		start := time.Now()
		out, err := cmd.CombinedOutput()
		times = append(times, time.Since(start))
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return slices.Min(times)
}

// build compiles this program, as it is installed.
func build(t *testing.T) string {
	t.Helper()
	if program := os.Getenv("GUIXCI_BENCH_PROGRAM"); program != "" {
		return program
	}
	program := filepath.Join(t.TempDir(), "guixci-channels")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return program
}

// longHistory makes a packed repository of a channel with a hundred packages,
// to which five people commit, half of the time with RSA-4096 keys: every 80
// commits the authorizations change, every 16th commit is a merge.
func longHistory(t *testing.T, commits int) (*channeltest.Repo, *channel.Introduction) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	keys := []*channeltest.Key{channeltest.NewKey("alice"), nil, channeltest.NewKey("carol"), nil, channeltest.NewKey("erin"), nil}
	for i, name := range []string{"bob", "dave", "frank"} {
		key, err := channeltest.NewRSAKey(name, 4096)
		must(err)
		keys[2*i+1] = key
	}
	files := map[string]string{}
	for i := range 100 {
		files[fmt.Sprintf("gn/packages/p%03d.scm", i)] = strings.Repeat(fmt.Sprintf("(define-public p%d %d)\n", i, i), 20)
		files[fmt.Sprintf("etc/%d.txt", i%20)] = "news"
		files[fmt.Sprintf("file-%d", i%12)] = "text"
	}
	files[".guix-authorizations"] = channeltest.Authorizations(keys...)
	repo, intro, err := channeltest.New(t.TempDir(), keys[0], files)
	must(err)
	must(repo.Keyring("keyring", keys...))
	for i := 1; i <= commits; i++ {
		change := map[string]string{fmt.Sprintf("gn/packages/p%03d.scm", i*7%100): fmt.Sprintf("(define-public changed %d)\n", i)}
		if i%80 == 0 { // somebody new comes, who never commits
			change[".guix-authorizations"] = channeltest.Authorizations(append(keys, channeltest.NewKey(fmt.Sprint(i)))...)
		}
		key := keys[i%len(keys)]
		if i%16 != 0 {
			_, err = repo.Commit("master", fmt.Sprintf("Change %d.", i), change, key)
			must(err)
			continue
		}
		head, _ := repo.Head("master")
		side, err := repo.CommitTo("", channeltest.CommitOptions{Message: "Side.", Parents: []channel.Commit{head}, Files: change, Key: key})
		must(err)
		_, err = repo.Merge("master", []channel.Commit{side}, change, keys[(i+1)%len(keys)])
		must(err)
		i++
	}
	out, err := exec.CommandContext(t.Context(), "git", "-c", "safe.directory=*", "-C", repo.Dir, "repack", "-adq").CombinedOutput()
	if err != nil {
		t.Fatalf("pack the repository: %v\n%s", err, out)
	}
	return repo, intro
}
