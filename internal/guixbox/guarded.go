package guixbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A guarded is a child that shall outlive this process, but only once it is told to stay:
// it reads its standard input, and ends when that ends without the word.
type guarded struct {
	process
	cmd  *exec.Cmd
	word io.WriteCloser
	done chan struct{} // closed when the child has ended and is reaped
}

// start starts a child that says by a line of its output that it is ready to be used. If it ends before, or ctx does, that is an error with what it
// wrote to standard error, unless cmd sends that elsewhere.
func start(ctx context.Context, cmd *exec.Cmd) (*guarded, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no Ctrl-C of this process's terminal
	cmd.Dir = "/"
	var complaint bytes.Buffer
	if cmd.Stderr == nil {
		cmd.Stderr = &complaint
	}
	word, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g := &guarded{process: identify(cmd.Process.Pid), cmd: cmd, word: word, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, g.kill)
	line, _ := bufio.NewReader(out).ReadString('\n')
	stop()
	// Reaps the child should it end while this process lives, which does not wait for it.
	go func() { cmd.Wait(); close(g.done) }()
	switch {
	case ctx.Err() != nil:
		g.end()
		return nil, context.Cause(ctx)
	case line == "":
		g.end()
		if text := strings.TrimSpace(complaint.String()); text != "" {
			return nil, errors.New(text)
		}
		return nil, fmt.Errorf("%s ended at once", cmd.Args[0])
	}
	return g, nil
}

// stay lets the child outlive this process.
func (g *guarded) stay() error {
	_, err := io.WriteString(g.word, "stay\n")
	return errors.Join(err, g.word.Close())
}

func (g *guarded) kill() { syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL) }

// end ends the child, and waits for it. Without the word it ends by itself, and takes
// its namespaces along; if that takes long, it and its process group are killed.
func (g *guarded) end() {
	g.word.Close()
	select {
	case <-g.done:
	case <-time.After(5 * time.Second):
		g.kill()
		<-g.done
	}
}
