package guixci_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/internal/samples"
)

// victimEnv makes the test binary a program that runs the pipeline once, and prints
// events and what guix pull says: the directory with samples and state. After each event it
// waits for a byte, if there is anybody to send one.
const victimEnv = "GUIXCI_TEST_VICTIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		if err := victim(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func victim(dir string) error {
	var spec guixci.Specification
	text, err := os.ReadFile(filepath.Join(dir, "spec.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	p, err := guixci.Open(filepath.Join(dir, "state"), guixci.Options{
		Log: os.Stdout, Notify: func(e guixci.Event) {
			out.Encode(e)
			os.Stdin.Read(make([]byte, 1))
		},
	})
	if err != nil {
		return err
	}
	_, err = p.Run(context.Background(), spec)
	return errors.Join(err, p.Close())
}

// A line of the victim's is an event, or text of guix pull.
type line struct {
	text  string
	Event guixci.Kind
	Build struct {
		Kind, Derivation, Cause string
		Attempts                int // 0 for what is remembered
	}
}

// killed runs a victim and kills it, as the kernel would, when a line is the one; if that is an
// event and the victim is patient, before anything else has happened. It returns all lines up to that, and
// whether it was in time. Until then nobody else gets the state directory.
func killed(t *testing.T, dir string, patient bool, now func(line) bool) (lines []line, inTime bool) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), victimEnv+"="+dir)
	cmd.Stderr = testLog{t}
	var more io.Writer = io.Discard
	if patient {
		if more, err = cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := false
	for s := bufio.NewScanner(out); s.Scan(); {
		l := line{text: s.Text()}
		json.Unmarshal(s.Bytes(), &l) // what is not an event stays text
		lines = append(lines, l)
		if found = now(l); found {
			p, err := guixci.Open(filepath.Join(dir, "state"), guixci.Options{})
			switch held := (*record.HeldError)(nil); {
			case err == nil && !patient:
				p.Close() // it was done
			case !errors.As(err, &held) || held.PID != cmd.Process.Pid:
				t.Errorf("opened beside process %d: %v", cmd.Process.Pid, err)
			}
			cmd.Process.Kill()
			break
		}
		if strings.Contains(l.text, `"event":"`) {
			more.Write([]byte("\n"))
		}
	}
	out.Close()
	err = cmd.Wait()
	var exit *exec.ExitError
	inTime = found && errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if err != nil && !inTime || err == nil && patient {
		t.Fatalf("the victim ended by itself: %v", err)
	}
	return lines, inTime
}

// A process that is killed loses nothing but what it was at: the next one ends with what
// one alone would have found, and builds nothing a second time.
func TestKilled(t *testing.T) {
	guixtest.Require(t)
	dir := t.TempDir()
	set, err := samples.Make(filepath.Join(dir, "git"), rand.Text())
	if err != nil {
		t.Fatal(err)
	}
	spec := guixci.Specification{Name: "sample", Channels: set.Channels(), Green: record.Policy{Jobs: []string{jobName("sample-hello")}}}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "spec.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	done := map[string]int{} // how often a derivation was built to its end
	count := func(lines []line) {
		for _, l := range lines {
			if l.Build.Kind == "finished" && l.Build.Attempts > 0 && (l.Build.Cause == "succeeded" || l.Build.Cause == "failed") {
				done[l.Build.Derivation]++
			}
		}
	}
	finished := 0
	for _, now := range []func(line) bool{
		func(l line) bool { return strings.Contains(l.text, "Building from") },
		func(l line) bool { return l.Event == guixci.Evaluated },
		func(l line) bool {
			if l.Build.Kind == "finished" {
				finished++
			}
			return l.Build.Kind == "started" && finished >= 2
		},
	} {
		lines, _ := killed(t, dir, true, now)
		count(lines)
	}

	p, err := guixci.Open(filepath.Join(dir, "state"), guixci.Options{Log: testLog{t}, Notify: func(e guixci.Event) {
		text, err := json.Marshal(e)
		if err != nil {
			t.Error(err)
		}
		l := line{}
		if err := json.Unmarshal(text, &l); err != nil {
			t.Error(err)
		}
		count([]line{l})
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if found := p.Record().Recovered(); len(found.Builds) != 1 {
		t.Errorf("recovered %+v, want one build", found)
	}
	noneStarted(t, p)
	r, err := p.Run(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantStatuses, statuses(r)); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
	if !r.Green || r.LastGreen == nil || r.LastGreen.Digest() != r.Digest || r.Unchanged {
		t.Errorf("report %+v", r)
	}
	for drv, n := range done {
		if n != 1 {
			t.Errorf("%s was built %d times", drv, n)
		}
	}
	if len(done) != 8 {
		t.Errorf("%d derivations were built, want 8: %v", len(done), done)
	}
	var ends []string
	for e, err := range p.Record().Evaluations("sample") {
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, e.Status.String())
	}
	// By the third kill all jobs may have been known or not.
	if want := []string{"succeeded", ends[1], "aborted", "aborted"}; !cmp.Equal(want, ends) {
		t.Errorf("evaluations ended as %q, want %q", ends, want)
	}
}
