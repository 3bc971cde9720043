//go:build bench

package container

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// TestGap measures for how long a service is away when one container takes the place of
// another: with Apply, and by hand with the same two scripts, stopped by a signal to the first
// process and started as soon as the launcher has ended. Both are seen by a client that asks every
// few milliseconds. The two ways take turns, so that both have the same machine.
func TestGap(t *testing.T) {
	guixtest.Require(t)
	scripts := samples(t)
	const rounds = 21 // a single gap is a third more or less than the next
	ours, theirs := switched(t, scripts), byHand(t, scripts)
	var a, b []time.Duration
	ours.next(t) // the first generations
	theirs.next(t)
	for range rounds {
		a = append(a, ours.next(t))
		b = append(b, theirs.next(t))
	}
	t.Logf("apply   %v", a)
	t.Logf("by hand %v", b)
	slices.Sort(a)
	slices.Sort(b)
	t.Logf("median gap: apply %v, by hand %v, ratio %.3f; best: apply %v, by hand %v, ratio %.3f",
		a[rounds/2], b[rounds/2], float64(a[rounds/2])/float64(b[rounds/2]), a[0], b[0], float64(a[0])/float64(b[0]))
}

// A switcher goes from one of two containers to the other, and back.
type switcher struct {
	url   string
	turns int
	to    func(t *testing.T, one bool)
}

// next switches, and returns for how long nobody answered.
func (s *switcher) next(t *testing.T) time.Duration {
	t.Helper()
	s.turns++
	want := []string{"two", "one"}[s.turns%2]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	gap := make(chan time.Duration, 1)
	go func() { gap <- watch(ctx, s.url, want) }()
	s.to(t, s.turns%2 == 1)
	return <-gap
}

// watch returns the time between the last answer of another and the first of want.
func watch(ctx context.Context, url, want string) time.Duration {
	last := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		switch text := get(ctx, url); {
		case text == want:
			return time.Since(last)
		case text != "":
			last = time.Now()
		}
		<-tick.C
	}
	return 0
}

func get(ctx context.Context, url string) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return ""
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return string(text)
}

func switched(t *testing.T, scripts map[string]string) *switcher {
	d, url := realDeployment(t)
	d.Schedule = Schedule{Interval: time.Second} // as usual, not as in tests
	return &switcher{url: url, to: func(t *testing.T, one bool) {
		g, err := d.Apply(t.Context(), Revision{Script: scripts[map[bool]string{true: "one", false: "two"}[one]]})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(g.Switched)
	}}
}

func byHand(t *testing.T, scripts map[string]string) *switcher {
	d, url := realDeployment(t) // for its mounts
	var launcher *exec.Cmd
	var first Process
	dir := t.TempDir()
	if err := d.Environment.handOver(filepath.Join(dir, "environment")); err != nil {
		t.Fatal(err)
	}
	stop := func(t *testing.T) {
		if launcher == nil {
			return
		}
		if err := first.signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		launcher.Wait()
		launcher = nil
	}
	t.Cleanup(func() { stop(t) })
	return &switcher{url: url, to: func(t *testing.T, one bool) {
		stop(t)
		g := d.generation(Revision{Script: scripts[map[bool]string{true: "one", false: "two"}[one]]})
		in := &Instance{Generation: g, d: d}
		args := []string{g.Script}
		for _, a := range in.command()[len(in.launcher()):] {
			if !strings.HasPrefix(a, "--share="+in.console()+"=") { // what it says goes to the test's output
				args = append(args, strings.ReplaceAll(a, in.runDir(), dir))
			}
		}
		os.Remove(filepath.Join(dir, "pid"))
		launcher = exec.Command(args[0], args[1:]...)
		launcher.Env, launcher.Stdout, launcher.Stderr = append(os.Environ(), "TMPDIR="+dir), t.Output(), t.Output()
		if err := launcher.Start(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for get(ctx, url) == "" { // it serves
			if ctx.Err() != nil {
				t.Fatal("the container started by hand does not serve")
			}
			<-time.After(5 * time.Millisecond)
		}
		for _, p := range (Process{PID: launcher.Process.Pid}).children() {
			first = p
		}
	}}
}
