package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

// A watched is "guixci-channels watch" in this process.
type watched struct {
	t     *testing.T
	lines *bufio.Scanner
	stop  func() int // and return the exit status
}

func startWatching(t *testing.T, args ...string) *watched {
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	status := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		status <- run(ctx, append([]string{"watch"}, args...), in, &stderr)
		in.Close()
	}()
	return &watched{t, bufio.NewScanner(out), func() int {
		cancel()
		code := <-status
		if stderr.Len() > 0 {
			t.Errorf("it complained: %s", &stderr)
		}
		return code
	}}
}

// says waits for the next line.
func (w *watched) says(want string) {
	w.t.Helper()
	if !w.lines.Scan() || !strings.Contains(w.lines.Text(), want) {
		w.t.Errorf("it said %q, %v, want %q", w.lines.Text(), w.lines.Err(), want)
	}
}

// A poked watch sees moves at once; a rewritten branch is reported, also when that happened
// while nobody watched, until somebody accepts it.
func TestWatch(t *testing.T) {
	alice := channeltest.NewKey("alice")
	repo, intro, err := channeltest.New(t.TempDir(), alice, nil)
	if err != nil {
		t.Fatal(err)
	}
	commit := func() channel.Commit {
		t.Helper()
		c, err := repo.Commit("master", "Change.", map[string]string{"f": "x"}, alice)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	rewrite := func() channel.Commit {
		t.Helper()
		c, err := repo.CommitTo("master", channeltest.CommitOptions{Message: "Instead.", Parents: []channel.Commit{intro.Commit}, Key: alice})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	poke := func() {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "channels.scm")
	text := `(list (channel (name 'low) (url "` + repo.URL() + `")))`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--state=" + dir, "--interval=1h", file}

	w := startWatching(t, args...)
	w.says("low master stands at " + string(intro.Commit))
	moved := commit()
	poke()
	w.says("low master moved from " + string(intro.Commit) + " to " + string(moved))
	rewrite()
	poke()
	w.says("low master was REWRITTEN: ")
	if code := w.stop(); code != 0 {
		t.Errorf("exit status %d", code)
	}

	w = startWatching(t, args...)
	w.says("was REWRITTEN: ")
	w.stop()
	if err := repo.SetBranch("master", moved); err != nil {
		t.Fatal(err)
	}
	further := commit()
	w = startWatching(t, append(args, "--json")...)
	w.says(`"old":"` + string(moved) + `","new":"` + string(further) + `"`)
	instead := rewrite()
	poke()
	w.says(`"rewritten":true`)
	w.stop()
	w = startWatching(t, append(args, "--follow=low")...)
	w.says("low master stands at " + string(instead))
	w.stop()
}
