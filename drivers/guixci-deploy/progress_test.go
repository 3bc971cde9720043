package main

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/internal/cli/clitest"
)

// People at a terminal see what is being done, and keep the lines about what they must know, which are all that a file gets.
func TestProgressOfADeployment(t *testing.T) {
	terminal := clitest.NewTerminal(t)
	tell := func(stderr io.Writer, until func(says string, again func())) {
		d := &driver{stderr: stderr, progress: cli.NewProgress(stderr), state: t.TempDir(), environment: "cd"}
		dep := new(container.Deployment)
		if err := d.place(dep, "gn"); err != nil {
			t.Fatal(err)
		}
		no := errors.New("no")
		_, err := during(d, "deploying", dep, func() (int, error) {
			until("deploying gn-cd", func() {})
			until("deploying gn-cd: container started: 7", func() { dep.Logger.Info("container started", "generation", 7, "pid", 42) })
			dep.Logger.Error("cannot write the ledger", "error", no, "deployment", "gn-cd")
			dep.Waiting(7, time.Unix(0, 0).UTC())
			until("deploying gn-cd: container healthy: 7", func() { dep.Logger.Info("container healthy", "generation", 7) })
			return 0, no
		})
		if err != no {
			t.Errorf("error %v", err)
		}
	}
	const lines = "guixci-deploy: cannot write the ledger: no\n" +
		"guixci-deploy: generation 7 of gn-cd is healthy, and is taken back at 1970-01-01T00:00:00Z unless \"confirm\" comes before\n"

	tell(terminal.File, terminal.Await)
	shown := strings.ReplaceAll(terminal.Shown(), "\r\n", "\n")
	for line := range strings.Lines(lines) {
		if !strings.Contains(shown, line) {
			t.Errorf("no line %q in %q", line, shown)
		}
	}
	if left := lastLine(shown); left != "" {
		t.Errorf("%q is left on the screen", left)
	}

	var file strings.Builder
	tell(&file, func(_ string, again func()) { again() })
	if file.String() != lines {
		t.Errorf("a file gets %q", &file)
	}
}

// lastLine returns what the last line of a terminal looks like once it has shown a text, of which spaces cover what they are written over.
func lastLine(text string) string {
	text = strings.TrimRight(text[strings.LastIndex(text, "\n")+1:], "\r")
	return strings.TrimSpace(text[strings.LastIndex(text, "\r")+1:])
}
