package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
)

// TestMove promotes from one environment to another, and moves a deployment to another
// machine: another state directory, with a guix-daemon that trusts only one key.
func TestMove(t *testing.T) {
	guixtest.Require(t)
	port, other := guixtest.FreePort(t), guixtest.FreePort(t)
	one, two, bad := sample(t, port, "one", "works"), sample(t, port, "two", "works"), sample(t, port, "bad", "fails")
	testscript.Run(t, testscript.Params{Files: []string{"testdata/move.txtar"}, Setup: func(e *testscript.Env) error {
		e.Setenv("BAD", bad)
		e.Setenv("TWO", two)
		e.Setenv("OTHER", strconv.Itoa(other))
		e.Setenv("FREE", strconv.Itoa(guixtest.FreePort(t)))
		e.Setenv("PATH", os.Getenv("PATH"))
		for _, dir := range []string{"cd", "production", "state/keys"} {
			if err := os.MkdirAll(filepath.Join(e.WorkDir, dir), 0o755); err != nil {
				return err
			}
		}
		key, err := substitute.EnsureKeyPair(filepath.Join(e.WorkDir, "state", "keys", "signing-key.sec"))
		if err != nil {
			return err
		}
		for name, acl := range map[string]*substitute.ACL{"FRIEND": substitute.NewACL(key.Public()), "STRANGER": substitute.NewACL()} {
			config, socket := otherDaemon(t, acl)
			e.Setenv(name, "GUIX_CONFIGURATION_DIRECTORY="+config+" GUIX_DAEMON_SOCKET="+socket)
		}
		e.Defer(func() {
			for state, environments := range map[string][]string{"state": {"cd", "production"}, "elsewhere": {"production"}} {
				for _, environment := range environments {
					cmd := exec.Command(os.Args[0], "stop", "gn", "--environment", environment, "--state", filepath.Join(e.WorkDir, state))
					cmd.Args[0] = "guixci-deploy"
					cmd.Run() // what still runs if the script has failed
				}
			}
		})
		return os.WriteFile(filepath.Join(e.WorkDir, "deployment.scm"), []byte(twoPlaces(e.WorkDir, one, port, other)), 0o600)
	}, Cmds: map[string]func(*testscript.TestScript, bool, []string){"alter": alter, "status": commands["status"], "answers": answers}})
}

// alter FILE WHERE changes one byte: near the start, or near the end.
func alter(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	text, err := os.ReadFile(name)
	ts.Check(err)
	i := bytes.IndexByte(text, '{') + 10
	if args[1] == "end" {
		i = len(text) - 500
	}
	text[i] ^= 1
	ts.Check(os.WriteFile(name, text, 0o600))
}

// answers TEXT URL waits until the URL answers with the text, blanks around it aside.
func answers(ts *testscript.TestScript, _ bool, args []string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Minute); ; <-tick.C {
		response, err := http.Get(args[1])
		var text []byte
		if err == nil {
			text, err = io.ReadAll(response.Body)
			response.Body.Close()
		}
		if err == nil && strings.TrimSpace(string(text)) == args[0] {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s answers %q, %v", args[1], text, err)
		}
	}
}

// otherDaemon starts a guix-daemon for the same store that believes only who is in acl.
func otherDaemon(t *testing.T, acl *substitute.ACL) (config, socket string) {
	t.Helper()
	dir := t.TempDir()
	config, socket = filepath.Join(dir, "etc"), filepath.Join(dir, "socket")
	if err := os.Mkdir(config, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "acl"), []byte(acl.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("guix-daemon", "--disable-chroot", "--build-users-group=guixbuild")
	cmd.Env = append(os.Environ(), "GUIX_CONFIGURATION_DIRECTORY="+config, "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	storetest.KillAfterwards(t, cmd)
	storetest.Activate(t, cmd, "unix", socket)
	return config, socket
}

// twoPlaces is a file with two environments that can run at the same time.
func twoPlaces(dir, script string, port, other int) string {
	var mounts strings.Builder
	for i, name := range guixbox.Exposed() {
		fmt.Fprintf(&mounts, " (mount \"box%d\" (source %q))\n", i, name)
	}
	return fmt.Sprintf(`(deployment
 (script %[1]q)
%[2]s (probes (all-services))
 %[6]s
 (environment "cd"
  (mount "state" (source "%[3]s/cd") (target "/srv/state") (writable? #t))
  (settings (PORT "%[4]d"))
  (probes (http "http://127.0.0.1:%[4]d/"))
  (ports %[4]d))
 (environment "production"
  (mount "state" (source "%[3]s/production") (target "/srv/state") (writable? #t))
  (settings (PORT "%[5]d"))
  (probes (http "http://127.0.0.1:%[5]d/"))
  (ports %[5]d)))
`, script, mounts.String(), dir, port, other, schedule)
}
