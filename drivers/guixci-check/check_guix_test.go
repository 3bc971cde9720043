package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/internal/samples"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"guixci-check": main,
		"samples": func() { // samples DIR: make the sample repositories and DIR/channels.scm
			set, err := samples.Make(os.Args[1], "check")
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
			if e.Kind == kind {
				cancel()
			}
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

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }
