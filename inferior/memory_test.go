package inferior_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/inferiortest"
	"github.com/genenetwork/guixci/inferior/sexp"
)

// eat takes memory until the process is killed.
func eat() {
	kept := make(map[int][]byte)
	for n := 0; ; n++ {
		kept[n] = bytes.Repeat([]byte{1}, 4<<20)
	}
}

// eats answers (eat), like (leave COMMAND …), which starts a process
// in a session of its own and answers with its number, and anything else with itself.
func eats(expr sexp.Value) string {
	if _, ok := sexp.Tagged(expr, "eat"); ok {
		eat()
	}
	if rest, ok := sexp.Tagged(expr, "leave"); ok {
		var words []string
		for _, r := range rest {
			word, _ := sexp.Text(r)
			words = append(words, word)
		}
		cmd := exec.Command(words[0], words[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		return inferiortest.Value(sexp.Int(cmd.Process.Pid))
	}
	return inferiortest.Value(expr)
}

func TestSessionMemory(t *testing.T) {
	s, err := inferior.Start(t.Context(), inferior.Options{Program: inferiortest.Path(t, "eats"), Memory: 100 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Eval(t.Context(), sexp.L(sexp.Symbol("eat")))
	if !errors.Is(err, inferior.ErrClosed) || !strings.Contains(err.Error(), "too much memory: at most 100 MiB allowed") {
		t.Errorf("%v", err)
	}
}

// What evaluated code has started ends with the session, also if it left the process group,
// where we may make control groups.
func TestSessionDescendants(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make control groups for certain")
	}
	s, err := inferior.Start(t.Context(), inferior.Options{Program: inferiortest.Path(t, "eats"), StopTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.Eval(t.Context(), sexp.L(sexp.Symbol("leave"), sexp.String("sleep"), sexp.String("1000")))
	if err != nil {
		t.Fatal(err)
	}
	pid := int(v.(sexp.Int))
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("it was not there: %v", err)
	}
	s.Close()
	if state := processState(pid); state != "" && state != "Z" { // nobody may have reaped it
		t.Errorf("process %d is left in state %q", pid, state)
	}
}

// processState returns the letter of /proc, empty if there is no such process.
func processState(pid int) string {
	text, err := os.ReadFile("/proc/" + sexp.Int(pid).String() + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}
