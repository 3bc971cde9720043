package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/internal/samples"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"guixci-check": main,
		"samples": func() { // samples DIR SALT: make the sample repositories and DIR/channels.scm
			set, err := samples.Make(os.Args[1], os.Args[2])
			if err == nil {
				err = set.WriteChannels(filepath.Join(os.Args[1], "channels.scm"))
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		},
	})
}

func TestScripts(t *testing.T) {
	guixtest.Require(t)
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(e *testscript.Env) error {
		// A file name Guix can use, and git's safe.directory.
		e.Setenv("HOME", e.WorkDir)
		e.Setenv("FRESH", rand.Text()) // for samples that nobody has built
		return nil
	}})
}

// tmpfs mounts a file system of so many kilobytes.
func tmpfs(t *testing.T, kib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("guixci-check", dir, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=0755", kib)); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// A disk that fills up in the middle of a run is said, with the remedy; once there is
// room, the same command does the rest.
func TestDiskFull(t *testing.T) {
	guixtest.Require(t)
	dir := t.TempDir()
	set, err := samples.Make(filepath.Join(dir, "samples"), "disk-full")
	if err != nil {
		t.Fatal(err)
	}
	channels := filepath.Join(dir, "channels.scm")
	if err := set.WriteChannels(channels); err != nil {
		t.Fatal(err)
	}
	small := tmpfs(t, 400)
	args := []string{"--channels", channels, "--green=sample-hello.x86_64-linux", "--state", filepath.Join(small, "state")}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), args, &stdout, &stderr); code != cli.Failure {
		t.Errorf("exit code %d, want %d: %s", code, cli.Failure, &stderr)
	}
	if text := stderr.String(); !strings.Contains(text, "hint: ") || !strings.Contains(text, "space") {
		t.Errorf("no remedy in %q", text)
	}
	if err := unix.Mount("", small, "", unix.MS_REMOUNT, "size=1g"); err != nil {
		t.Fatal(err)
	}
	stdout.Reset()
	stderr.Reset()
	if code := run(t.Context(), args, &stdout, &stderr); code != cli.OK {
		t.Errorf("with room, exit code %d: %s", code, &stderr)
	}
}

// Ctrl-C at any moment leaves nothing that is locked or half done: the next run
// goes on and ends as if there had been none before.
func TestInterrupted(t *testing.T) {
	guixtest.Require(t)
	dir := t.TempDir()
	set, err := samples.Make(filepath.Join(dir, "samples"), "interrupted")
	if err != nil {
		t.Fatal(err)
	}
	channels := filepath.Join(dir, "channels.scm")
	if err := set.WriteChannels(channels); err != nil {
		t.Fatal(err)
	}
	args := []string{"--channels", channels, "--json", "--state", filepath.Join(dir, "state")}
	for _, kind := range []guixci.Kind{guixci.Locked, guixci.Authenticated, guixci.Pulled, guixci.Evaluated, guixci.Built} {
		ctx, cancel := context.WithCancel(t.Context())
		var stderr bytes.Buffer
		code := run(ctx, args, writerFunc(func(line []byte) {
			var e struct {
				Kind guixci.Kind `json:"event"`
			}
			if err := json.Unmarshal(line, &e); err != nil {
				t.Errorf("a line that is not JSON: %v: %s", err, line)
			}
			if e.Kind != kind {
				return
			}
			if kind == guixci.Locked {
				second(t, args)
			}
			cancel()
		}), &stderr)
		cancel()
		if code != cli.Failure {
			t.Errorf("interrupted at %s: exit code %d, want %d: %s", kind, code, cli.Failure, &stderr)
		}
		locks, _ := filepath.Glob(filepath.Join(dir, "state", "*.lock"))
		hidden, _ := filepath.Glob(filepath.Join(dir, "state", "*", ".*.pulling"))
		if len(locks)+len(hidden) > 0 {
			t.Errorf("interrupted at %s: left %q %q", kind, locks, hidden)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), args, &stdout, &stderr); code != cli.Red { // two packages are made to fail
		t.Errorf("afterwards: exit code %d, want %d: %s", code, cli.Red, &stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	var report guixci.Report
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &report); err != nil {
		t.Fatalf("the last line is no report: %v", err)
	}
	statuses := map[string]string{}
	for _, j := range report.Jobs {
		statuses[strings.TrimSuffix(j.Name, ".x86_64-linux")] = j.Status.String()
	}
	if len(statuses) != 10 || statuses["sample-project"] != "succeeded" || statuses["sample-broken"] != "failed" {
		t.Errorf("jobs afterwards: %v", statuses)
	}
}

// What substitute servers have need not be built: they are asked first, unless they are not to be.
func TestSubstitutes(t *testing.T) {
	guixtest.Require(t)
	dir := t.TempDir()
	set, err := samples.Make(filepath.Join(dir, "samples"), rand.Text())
	if err != nil {
		t.Fatal(err)
	}
	channels := filepath.Join(dir, "channels.scm")
	if err := set.WriteChannels(channels); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // has nothing
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Path)
		if r.URL.Path == "/nix-cache-info" {
			fmt.Fprint(w, "StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n")
			return
		}
		http.NotFound(w, r)
	}))
	defer server.Close()
	for _, test := range []struct{ job, option string }{
		{"sample-two-outputs", "--no-substitutes"}, {"sample-hello", "--max-jobs=2"}} {
		args := []string{"--channels", channels, "--state", filepath.Join(dir, "state"), "--substitute-urls", server.URL,
			test.option, "--build", fmt.Sprintf("(packages %q)", test.job), "--json"}
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, &stdout, &stderr); code != cli.OK {
			t.Errorf("%s: exit code %d: %s", test.option, code, &stderr)
		}
		lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
		var report guixci.Report
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &report); err != nil || len(report.Jobs) != 1 || report.Built == 0 {
			t.Fatalf("%s: %v in %s", test.option, err, lines[len(lines)-1])
		}
		drv, err := store.ReadDerivation(store.StorePath(report.Jobs[0].Derivation))
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		got := slices.Contains(asked, "/"+drv.Outputs[0].Path.Hash()+".narinfo")
		if want := test.option != "--no-substitutes"; got != want || !want && len(asked) > 0 {
			t.Errorf("%s: the server was asked for %s: %v: %q", test.option, drv.Outputs[0].Path, got, asked)
		}
		mu.Unlock()
	}
}

// waitsModule has a package whose build waits for a word in the file FIFO.
const waitsModule = `(define-module (sample waits)
  #:use-module (guix build-system trivial)
  #:use-module (guix gexp)
  #:use-module (guix packages))

(define-public sample-waits
  (package
    (name "sample-waits")
    (version "1.0")
    (source #f)
    (build-system trivial-build-system)
    (arguments
     (list #:builder
           #~(begin
               (display "waiting for a word\n")
               (force-output)
               (call-with-input-file "FIFO" read)
               (mkdir #$output))))
    (home-page #f) (synopsis #f) (description #f) (license #f)))
`

// While a check goes on others can see how far it is, and what a build prints.
func TestWatching(t *testing.T) {
	guixtest.Require(t)
	dir := t.TempDir()
	set, err := samples.Make(filepath.Join(dir, "samples"), "watching")
	if err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Chmod(fifo, 0o666), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := set.Repo(samples.Channel).Commit("master", "Wait.", map[string]string{
		"sample/waits.scm": strings.Replace(waitsModule, "FIFO", fifo, 1)}, set.Alice); err != nil {
		t.Fatal(err)
	}
	channels := filepath.Join(dir, "channels.scm")
	if err := set.WriteChannels(channels); err != nil {
		t.Fatal(err)
	}
	args := []string{"--channels", channels, "--state", filepath.Join(dir, "state"), "--build", `(packages "sample-waits")`, "--json"}
	var watching sync.WaitGroup
	started := 0
	var stderr bytes.Buffer
	code := run(t.Context(), args, writerFunc(func(line []byte) {
		if bytes.Contains(line, []byte(`"kind":"started"`)) && bytes.Contains(line, []byte("sample-waits-1.0.drv")) {
			started++
			watching.Go(func() { watch(t, filepath.Join(dir, "state"), fifo) })
		}
	}), &stderr)
	watching.Wait()
	if code != cli.OK || started != 1 {
		t.Errorf("exit code %d, started %d times: %s", code, started, &stderr)
	}
}

// watch asks what a build prints until it waits, and lets it go on.
func watch(t *testing.T, state, fifo string) {
	ask := func(args ...string) string {
		var stdout, stderr bytes.Buffer
		run(t.Context(), append(args, "--state", state), &stdout, &stderr)
		return stdout.String() + stderr.String()
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(2 * time.Minute)
	waiting := true
	for text := ""; waiting && text != "waiting for a word\n"; text = ask("log", "sample-waits") {
		select {
		case <-tick.C:
		case <-late:
			t.Errorf("log: %s", text)
			waiting = false
		}
	}
	if text := ask("status"); !strings.Contains(text, "sample-waits.x86_64-linux  started") {
		t.Errorf("status: %s", text)
	}
	if err := os.WriteFile(fifo, []byte("go"), 0); err != nil {
		t.Error(err)
	}
}

// second runs another guixci-check on a state directory that is taken: it says by whom.
func second(t *testing.T, args []string) {
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, &stdout, &stderr)
	want := fmt.Sprintf("is held by process %d\nhint: wait for that process", os.Getpid())
	if code != cli.Failure || !strings.Contains(stderr.String(), want) || stdout.Len() > 0 {
		t.Errorf("a second one: exit code %d, %q, %s", code, &stdout, &stderr)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }
