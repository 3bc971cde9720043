package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"guixci-channels": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_STATE_HOME", filepath.Join(e.WorkDir, "state"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"network": network,
			"commit":  commit,
			"expand":  expand,
			"file":    file,
			"status":  status,
		},
	})
}

// status runs the program and checks its exit status: status 1 ARG...
func status(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("guixci-channels", args[1:]...)
	got := "0"
	if exit, ok := err.(interface{ ExitCode() int }); ok {
		got = string(rune('0' + exit.ExitCode()))
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// network makes the channels guix, low, middle (which needs low, at no commit) and top
// (which needs middle), all introduced by one key, and sets $NAME_URL, $NAME_COMMIT and $SIGNER.
func network(ts *testscript.TestScript, _ bool, _ []string) {
	alice := channeltest.NewKey("alice")
	ts.Setenv("SIGNER", alice.Fingerprint().String())
	add := func(name string, dependencies ...channel.Channel) channel.Channel {
		repo, intro, err := channeltest.New(ts.MkAbs("repos/"+name), alice, map[string]string{
			".guix-channel": channeltest.Metadata("", dependencies...), name + ".scm": ""})
		ts.Check(err)
		ts.Setenv(strings.ToUpper(name)+"_URL", repo.URL())
		ts.Setenv(strings.ToUpper(name)+"_COMMIT", string(intro.Commit))
		return repo.Channel(name, intro)
	}
	add("guix")
	add("top", add("middle", add("low")))
}

// commit adds a commit to master of a channel, signed by a key of that name, and sets a variable
// to it: commit CHANNEL KEY VARIABLE
func commit(ts *testscript.TestScript, _ bool, args []string) {
	repo, err := channeltest.Open(ts.MkAbs("repos/" + args[0]))
	ts.Check(err)
	c, err := repo.Commit("master", "Change.", map[string]string{"n": args[2]}, channeltest.NewKey(args[1]))
	ts.Check(err)
	ts.Setenv(args[2], string(c))
}

// file makes a channel of one commit with one file, and sets $NAME_URL: file CHANNEL NAME CONTENT
func file(ts *testscript.TestScript, _ bool, args []string) {
	repo, err := channeltest.Init(ts.MkAbs("repos/" + args[0]))
	ts.Check(err)
	_, err = repo.Commit("master", "File.", map[string]string{args[1]: args[2]}, nil)
	ts.Check(err)
	ts.Setenv(strings.ToUpper(args[0])+"_URL", repo.URL())
}

// expand replaces the variables in files.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
	}
}
