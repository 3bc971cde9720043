package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/internal/samples"
)

// TestReadme deploys what the README's deployment file declares, for a project that exists, from
// locked channels: what people start with.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```scheme\n"+fileExample+"```\n") {
		t.Error("the README has another deployment file than the help")
	}
	guixtest.Require(t)
	var set *samples.Set
	testscript.Run(t, testscript.Params{Files: []string{"testdata/readme.txtar"}, Setup: func(e *testscript.Env) error {
		e.Setenv("PATH", os.Getenv("PATH"))
		var err error
		if set, err = samples.Make(filepath.Join(e.WorkDir, "samples"), "readme"); err != nil {
			return err
		}
		e.Defer(func() {
			for _, environment := range []string{"cd", "production"} {
				cmd := exec.Command(os.Args[0], "stop", "my-project", "--environment", environment, "--state", filepath.Join(e.WorkDir, "state"))
				cmd.Args[0] = "guixci-deploy"
				cmd.Run() // what still runs if the script has failed
			}
		})
		text, err := readmeOf(e)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(e.WorkDir, "deployment.scm"), []byte(text), 0o600)
	}, Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"status": commands["status"], "answers": answers,
		"lock": func(ts *testscript.TestScript, _ bool, args []string) {
			resolver := &channel.Resolver{Repositories: &channel.Repositories{Dir: ts.MkAbs("state/repos")}, AllowLocal: true}
			lock, err := resolver.Resolve(t.Context(), set.Channels())
			ts.Check(err)
			f, err := os.Create(ts.MkAbs(args[0]))
			ts.Check(err)
			_, err = lock.WriteTo(f)
			ts.Check(err)
			ts.Check(f.Close())
		},
		"upgrade": func(ts *testscript.TestScript, _ bool, args []string) {
			_, err := set.Upgrade(args[0])
			ts.Check(err)
		},
		"break": func(ts *testscript.TestScript, _ bool, _ []string) {
			_, err := set.Break()
			ts.Check(err)
		},
	}})
}

// readmeOf returns the README's deployment file with the names of this machine and of the sample project, which is
// told its port in a file of its own.
func readmeOf(e *testscript.Env) (string, error) {
	var mounts strings.Builder
	for i, name := range guixbox.Exposed() {
		fmt.Fprintf(&mounts, " (mount \"box%d\" (source %q))\n", i, name)
	}
	names := []string{"(deployment\n", "(deployment\n" + mounts.String() + ` (schedule (start-period "3m") (interval "200ms") (window "600ms"))` + "\n",
		`"my-project"`, strconv.Quote(samples.Project), "/var/lib/my-project", "/var/lib/sample"}
	for environment, port := range map[string]string{"cd": "8081", "production": "8080"} {
		free := strconv.Itoa(guixtest.FreePort(e.T().(testing.TB)))
		told := filepath.Join(e.WorkDir, "told-"+environment)
		for _, dir := range []string{told, filepath.Join(e.WorkDir, environment)} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return "", err
			}
		}
		if err := os.WriteFile(filepath.Join(told, "port"), []byte(free), 0o644); err != nil {
			return "", err
		}
		e.Setenv("PORT_"+environment, free)
		names = append(names, port, free, "/srv/"+environment, filepath.Join(e.WorkDir, environment),
			"(environment \""+environment+"\"\n", fmt.Sprintf("(environment %q\n  (mount \"port\" (source %q) (target \"/etc/sample\"))\n", environment, told))
	}
	return strings.NewReplacer(names...).Replace(fileExample), nil
}
