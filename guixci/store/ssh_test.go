package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// standInSSH puts a script into PATH that is run instead of ssh.
func standInSSH(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestSSHErrors(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"no way there":   {"echo ssh: connect to host berlin port 22: Connection refused >&2; exit 255", "Connection refused"},
		"no guix there":  {"echo sh: guix: command not found >&2; exit 127", "guix: command not found"},
		"something else": {"echo Welcome to berlin!; cat >/dev/null", `it answers "Welcome to berlin!"`},
		"silence":        {"exit 0", "unexpected EOF: ssh says nothing about it"},
		"no daemon there": {`echo '(repl-version 0 1 1)'; head -c 36 >/dev/null; echo '(values (unspecified))'
head -c 100 >/dev/null; echo '(exception (arguments system-error "No such file"))'; cat >/dev/null`, "No such file"},
	} {
		t.Run(name, func(t *testing.T) {
			standInSSH(t, c.script)
			_, err := Dial(t.Context(), "ssh://berlin")
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `"ssh://berlin"`) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	for _, address := range []string{"ssh://", "ssh://berlin/var/guix/socket"} {
		if _, err := Dial(t.Context(), address); err == nil || !strings.Contains(err.Error(), "ssh://[USER@]HOST[:PORT]") {
			t.Errorf("%s: error %v", address, err)
		}
	}
}

// A connection that does not come about is given up with its context, and ssh ends.
func TestSSHHangs(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "began")
	standInSSH(t, "echo >"+fifo+"; exec cat >/dev/null") // until the end of its input
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		os.ReadFile(fifo) // waits for ssh
		cancel(why)
	}()
	begin := time.Now()
	if _, err := Dial(ctx, "ssh://berlin"); !errors.Is(err, why) {
		t.Errorf("error %v, want the context's cause", err)
	}
	if took := time.Since(begin); took > 3*time.Minute {
		t.Errorf("took %v", took)
	}
}
