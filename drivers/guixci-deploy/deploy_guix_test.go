package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"guixci-deploy": main})
}

// commands are those of the scripts beside exec: "status N COMMAND ARGUMENT…" wants that exit status.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"status": func(ts *testscript.TestScript, neg bool, args []string) {
		want, err := strconv.Atoi(args[0])
		if err != nil || neg {
			ts.Fatalf("usage: status N COMMAND ARGUMENT...")
		}
		status := 0
		err = ts.Exec(args[1], args[2:]...)
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			status, err = exit.ExitCode(), nil
		}
		if err != nil || status != want {
			ts.Fatalf("status %d, want %d: %v", status, want, err)
		}
	},
}

func TestUsage(t *testing.T) {
	testscript.Run(t, testscript.Params{Files: []string{"testdata/usage.txtar"}, Cmds: commands})
}

// TestDeploy runs the real program on real containers.
func TestDeploy(t *testing.T) {
	guixtest.Require(t)
	port := guixtest.FreePort(t)
	one, two, bad := sample(t, port, "one", "works"), sample(t, port, "two", "works"), sample(t, port, "bad", "fails")
	testscript.Run(t, testscript.Params{Files: []string{"testdata/deploy.txtar"}, Cmds: commands, Setup: func(e *testscript.Env) error {
		e.Setenv("ONE", one)
		e.Setenv("TWO", two)
		e.Setenv("BAD", bad)
		e.Setenv("PATH", os.Getenv("PATH"))
		for _, dir := range []string{"cd", "production"} {
			if err := os.Mkdir(filepath.Join(e.WorkDir, dir), 0o755); err != nil {
				return err
			}
		}
		e.Defer(func() {
			for _, environment := range []string{"cd", "production"} {
				cmd := exec.Command(os.Args[0], "stop", "gn", "--environment", environment, "--state", filepath.Join(e.WorkDir, "state"))
				cmd.Args[0] = "guixci-deploy"
				cmd.Run() // what still runs if the script has failed
			}
		})
		return os.WriteFile(filepath.Join(e.WorkDir, "deployment.scm"), []byte(deployment(e.WorkDir, one, port)), 0o600)
	}})
}

// schedule is for samples that come up within three seconds here, some of which never do.
const schedule = `(schedule (start-period "20s") (interval "200ms") (window "600ms"))`

// deployment is a file with two environments of one script.
func deployment(dir, script string, port int) string {
	var mounts strings.Builder
	for i, name := range guixbox.Exposed() {
		fmt.Fprintf(&mounts, " (mount \"box%d\" (source %q))\n", i, name)
	}
	return fmt.Sprintf(`(deployment
 (script %[1]q)
%[2]s (probes (all-services) (services "web" "counter") (http "http://127.0.0.1:%[3]d/"))
 %[5]s
 (environment "cd"
  (mount "state" (source "%[4]s/cd") (target "/srv/state") (writable? #t))
  (ports %[3]d))
 (environment "production"
  (mount "state" (source "%[4]s/production") (target "/srv/state") (writable? #t))
  (settings (GREETING "hello"))
  (ports %[3]d)))
`, script, mounts.String(), port, dir, schedule)
}

// sample has Guix build the container of package container's tests.
func sample(t *testing.T, port int, greeting, mode string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "guix", "system", "container", "--network", "--load-path=../../container/testdata",
		fmt.Sprintf("--expression=((@ (sample-system) sample-system) #:port %d #:greeting %q #:mode '%s)", port, greeting, mode))
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("guix system container: %v", err)
	}
	return strings.TrimSpace(string(out))
}
