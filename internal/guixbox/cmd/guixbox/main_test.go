package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// With this set, the test binary is guixbox.
const selfEnv = "GUIXBOX_TEST_SELF"

func TestMain(m *testing.M) {
	if os.Getenv(selfEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestUsage(t *testing.T) {
	t.Setenv("GUIXBOX_DIR", filepath.Join(t.TempDir(), "box"))
	for _, test := range []struct {
		args           string
		code           int
		stdout, stderr string // what they contain
	}{
		{"", 2, "", "guixbox: wrong arguments\nTry 'guixbox --help'"},
		{"frobnicate", 2, "", `no command "frobnicate"`},
		{"up now", 2, "", `up takes none, not "now"`},
		{"down --all", 2, "", `down takes none, not "--all"`},
		{"status --xml", 2, "", `status takes --json, not "--xml"`},
		{"exec", 2, "", "exec: no command given"},
		{"exec --", 2, "", "exec: no command given"},
		{"exec --root true", 2, "", `exec: no option "--root"`},
		{"stand-ins", 2, "", "no derivation given"},
		{"--help", 0, "Usage: guixbox up", ""},
		{"--version", 0, "guixbox", ""},
		{"status", 0, "none: nothing installed in ", ""},
		{"down", 0, "", ""},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(test.args), &stdout, &stderr)
		if code != test.code || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) ||
			test.stdout == "" && stdout.Len() > 0 || test.stderr == "" && stderr.Len() > 0 {
			t.Errorf("guixbox %s: exit %d, %q, %q", test.args, code, &stdout, &stderr)
		}
	}
}

func TestStatusJSON(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GUIXBOX_DIR", dir)
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"status", "--json"}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit %d, %q", code, &stderr)
	}
	var got guixbox.Status
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil || got != (guixbox.Status{Dir: dir}) {
		t.Errorf("%q, %v", &stdout, err)
	}
}

func TestCannot(t *testing.T) {
	t.Setenv("GUIXBOX_DIR", t.TempDir())
	t.Setenv("PATH", t.TempDir()) // nothing it needs
	for _, args := range [][]string{{"up"}, {"exec", "true"}, {"stand-ins", "/gnu/store/x.drv"}} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, &stdout, &stderr); code != 3 || !strings.HasPrefix(stderr.String(), "guixbox: prepare box: ") {
			t.Errorf("%v: exit %d, %q", args, code, &stderr)
		}
	}
}

// Where Guix is at hand, on the machine or because this is the box, exec is the command itself.
func TestExecInPlace(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{"host", "box"} {
		cmd := exec.Command(self, "exec", "--", "sh", "-c", "echo out; exit 7")
		cmd.Env = append(os.Environ(), selfEnv+"=1", guixtest.Env+"="+where)
		out, _ := cmd.Output()
		if cmd.ProcessState.ExitCode() != 7 || string(out) != "out\n" {
			t.Errorf("%s: exit %d, %q", where, cmd.ProcessState.ExitCode(), out)
		}
	}
}
