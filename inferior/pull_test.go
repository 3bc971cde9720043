package inferior_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/inferiortest"
)

const channelsText = `(list (channel (name 'guix) (url "https://example.org/guix") (branch "master")))`

const manifest = `(manifest (version 3) (packages (("guix" "1234567" "out" "/gnu/store/x-guix"
  (propagated-inputs ()) (search-paths ())
  (properties (source (repository (version 0) (url "https://example.org/guix") (branch "master")
    (commit "1234567890123456789012345678901234567890") (name guix)
    (introduction (channel-introduction (version 0) (commit "c0") (signer "AB CD"))))))))))`

// scriptedPull stands in for "guix pull". What the channels file says decides
// what it does; it counts its runs in the file "runs" beside the profile.
func scriptedPull(args []string, _ io.Reader, _, stderr io.Writer) int {
	var file, profile string
	for _, a := range args {
		if rest, ok := strings.CutPrefix(a, "--channels="); ok {
			file = rest
		}
		if rest, ok := strings.CutPrefix(a, "--profile="); ok {
			profile = rest
		}
	}
	text, err := os.ReadFile(file)
	if err != nil || args[0] != "pull" || os.Getenv("GUIX_PULL_URL") != "" || strings.Contains(os.Getenv("HOME"), "user") {
		fmt.Fprintln(stderr, "guix pull: error: badly called", args, err)
		return 1
	}
	runs := filepath.Join(filepath.Dir(profile), "runs")
	b, _ := os.ReadFile(runs)
	n, _ := strconv.Atoi(string(b))
	os.WriteFile(runs, []byte(strconv.Itoa(n+1)), 0o644)

	fmt.Fprintln(stderr, "Updating channel 'guix' from Git repository at 'https://example.org/guix'...")
	switch {
	case strings.Contains(string(text), "fail"):
		fmt.Fprintln(stderr, "guix pull: error: Git error: failed to resolve address for example.org: Name or service not known")
		return 1
	case strings.Contains(string(text), "eat"):
		eat()
	case strings.Contains(string(text), "half"): // killed before it could register the root
		link(profile, stderr)
		fmt.Fprintln(stderr, "halfway")
		syscall.Pause()
	}
	fmt.Fprintln(stderr, "Building from this channel:")
	if strings.Contains(string(text), "endless") {
		fmt.Fprintln(stderr, "  guix      https://example.org/guix\t1234567")
		fmt.Fprintln(stderr, "building /gnu/store/mh8wamlizrvg13zzgfrn9ymbsw51zqqc-guix-packages.drv...")
		syscall.Pause()
	}
	return link(profile, stderr)
}

func link(profile string, stderr io.Writer) int {
	item := filepath.Join(filepath.Dir(profile), "store-item")
	os.MkdirAll(item, 0o755)
	os.WriteFile(filepath.Join(item, "manifest"), []byte(manifest), 0o644)
	err := errors.Join(os.Symlink(item, profile+"-1-link"), os.Symlink(filepath.Base(profile)+"-1-link", profile))
	if err != nil {
		fmt.Fprintln(stderr, "guix pull: error:", err)
		return 1
	}
	return 0
}

func scriptedPuller(t *testing.T) *inferior.Puller {
	t.Helper()
	t.Setenv("GUIX_PULL_URL", "https://example.org/other")
	return &inferior.Puller{Guix: inferiortest.Path(t, "pull"), Dir: filepath.Join(t.TempDir(), "profiles")}
}

func runs(t *testing.T, p *inferior.Puller) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.Dir, "runs"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPullOnce(t *testing.T) {
	p := scriptedPuller(t)
	other := &inferior.Puller{Guix: p.Guix, Dir: p.Dir} // as if in another process
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			puller := p
			if i%2 == 0 {
				puller = other
			}
			profile, err := puller.Pull(t.Context(), "abc", []byte(channelsText))
			if err != nil {
				t.Error(err)
				return
			}
			want := inferior.Channel{Name: "guix", URL: "https://example.org/guix", Branch: "master",
				Commit: "1234567890123456789012345678901234567890", Item: "/gnu/store/x-guix",
				IntroductionCommit: "c0", IntroductionSigner: "AB CD"}
			if c := profile.Channels(); len(c) != 1 || c[0] != want {
				t.Errorf("channels %+v", c)
			}
		})
	}
	wg.Wait()
	if n := runs(t, p); n != "1" {
		t.Errorf("guix pull ran %s times", n)
	}
	if names, err := p.Names(); err != nil || len(names) != 1 || names[0] != "abc" {
		t.Errorf("%v %v", names, err)
	}
}

// Other channels under the same name are pulled; so is what was removed.
func TestPullAgain(t *testing.T) {
	p := scriptedPuller(t)
	for i, step := range []func() error{
		func() error { _, err := p.Pull(t.Context(), "abc", []byte(channelsText)); return err },
		func() error { _, err := p.Pull(t.Context(), "abc", []byte(channelsText+"\n")); return err },
		func() error {
			if err := p.Remove(t.Context(), "abc"); err != nil {
				return err
			}
			_, err := p.Pull(t.Context(), "abc", []byte(channelsText+"\n"))
			return err
		},
		func() error { // the garbage collector took it
			if err := os.RemoveAll(filepath.Join(p.Dir, "store-item")); err != nil {
				return err
			}
			_, err := p.Pull(t.Context(), "abc", []byte(channelsText+"\n"))
			return err
		},
	} {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if n := runs(t, p); n != strconv.Itoa(i+1) {
			t.Errorf("step %d: guix pull ran %s times", i, n)
		}
	}
}

func TestPullFails(t *testing.T) {
	p := scriptedPuller(t)
	_, err := p.Pull(t.Context(), "abc", []byte(channelsText+"; fail"))
	var failed *inferior.PullError
	if !errors.As(err, &failed) || failed.Stage != inferior.StageFetch || failed.Channel != "guix" || !failed.Machinery() {
		t.Errorf("%v", err)
	}
	p.Guix = "/nonexistent/guix"
	_, err = p.Pull(t.Context(), "abc", []byte(channelsText))
	if !errors.As(err, &failed) || failed.Stage != inferior.StageStart || !failed.Machinery() {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"", ".hidden", "a/b", "../x", "x-1-link"} {
		if _, err := p.Pull(t.Context(), name, nil); err == nil {
			t.Errorf("%q was taken for a name", name)
		}
	}
	if _, err := new(inferior.Puller).Pull(t.Context(), "abc", nil); err == nil {
		t.Error("pulled into no directory")
	}
}

// Killed between linking and rooting, a profile must not look ready, and the next
// pull must not find it either.
func TestPullInterrupted(t *testing.T) {
	p := scriptedPuller(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	reason := errors.New("changed my mind")
	p.Log = writerFunc(func(b []byte) {
		if strings.Contains(string(b), "halfway") {
			cancel(reason)
		}
	})
	if _, err := p.Pull(ctx, "abc", []byte(channelsText+"; half")); !errors.Is(err, reason) {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(filepath.Join(p.Dir, "abc-1-link")); err != nil {
		t.Errorf("the stand-in did not get halfway: %v", err)
	}
	if names, _ := p.Names(); len(names) != 0 {
		t.Errorf("ready: %v", names)
	}
	if _, err := p.Pull(t.Context(), "abc", []byte(channelsText)); err != nil {
		t.Error(err)
	}
}

// A waiter does not share the fate of a caller who changed his mind.
func TestPullWaiterGoesOn(t *testing.T) {
	p := scriptedPuller(t)
	first, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	halfway := make(chan struct{})
	var once sync.Once
	p.Log = writerFunc(func(b []byte) {
		if strings.Contains(string(b), "halfway") {
			once.Do(func() { close(halfway) })
		}
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := p.Pull(first, "abc", []byte(channelsText+"; half")); err == nil {
			t.Error("the first one succeeded")
		}
	})
	<-halfway
	wg.Go(func() {
		if _, err := p.Pull(t.Context(), "abc", []byte(channelsText)); err != nil {
			t.Error(err)
		}
	})
	impatient, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if _, err := p.Pull(impatient, "abc", []byte(channelsText)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	cancel(errors.New("never mind"))
	wg.Wait()
}

// scriptedSystem stands in for "guix system container".
func scriptedSystem(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	line := strings.Join(args, " ")
	switch {
	case strings.Contains(line, "broken"):
		fmt.Fprintln(stderr, "/etc/broken.scm:6:52: error: no-such-bootloader: unbound variable")
		return 1
	case strings.Contains(line, "odd"):
		fmt.Fprintln(stdout, "what?")
	case strings.Contains(line, "--derivation"):
		fmt.Fprintln(stdout, "/gnu/store/0a-run-container.drv")
	case line == "system container --load-path=/l --network --share=/s=/t --expose=/e --save-provenance --root=/r --verbosity=2 -- /etc/os.scm":
		fmt.Fprintln(stdout, "/gnu/store/0a-run-container")
	}
	return 0
}

func TestSystemContainer(t *testing.T) {
	o := inferior.SystemOptions{Guix: inferiortest.Path(t, "system"), File: "/etc/os.scm", LoadPath: []string{"/l"},
		Network: true, Share: []string{"/s=/t"}, Expose: []string{"/e"}, SaveProvenance: true, Root: "/r", Args: []string{"--verbosity=2"}}
	if script, err := inferior.SystemContainer(t.Context(), o); err != nil || script != "/gnu/store/0a-run-container" {
		t.Errorf("%q %v", script, err)
	}
	if drv, err := inferior.SystemContainerDerivation(t.Context(), o); err != nil || drv != "/gnu/store/0a-run-container.drv" {
		t.Errorf("%q %v", drv, err)
	}
	o.File = "/etc/broken.scm"
	_, err := inferior.SystemContainer(t.Context(), o)
	var failed *inferior.SystemError
	if !errors.As(err, &failed) || failed.Cause != inferior.CauseUnboundVariable || failed.Location.Line != 6 {
		t.Errorf("%v", err)
	}
	o.File = "/etc/odd.scm"
	if _, err := inferior.SystemContainer(t.Context(), o); err == nil || errors.As(err, &failed) && failed.File == o.File {
		t.Errorf("%v", err)
	}
}

// A pull that eats memory is ended, and the channels are to blame.
func TestPullMemory(t *testing.T) {
	p := scriptedPuller(t)
	p.Memory = 100 << 20
	_, err := p.Pull(t.Context(), "greedy", []byte(channelsText+"; eat"))
	var failed *inferior.PullError
	if !errors.As(err, &failed) || failed.Cause != inferior.CauseMemory || failed.Machinery() ||
		failed.Message != "too much memory: at most 100 MiB allowed" || failed.Hint == "" {
		t.Errorf("%v", err)
	}
}

// One that never ends is ended, too: the fault of the network as long as it fetches, then
// of what is being built.
func TestPullLate(t *testing.T) {
	p := scriptedPuller(t)
	p.Timeout = 500 * time.Millisecond
	for text, want := range map[string]inferior.PullError{
		"half":    {Stage: inferior.StageFetch, Channel: "guix", Failure: inferior.Failure{Cause: inferior.CauseNetwork}},
		"endless": {Stage: inferior.StageBuild, Channel: "guix", Failure: inferior.Failure{Cause: inferior.CauseTimeout}},
	} {
		_, err := p.Pull(t.Context(), text, []byte(channelsText+"; "+text))
		var failed *inferior.PullError
		for errors.As(err, &failed) && failed.Stage != want.Stage && p.Timeout < time.Minute {
			p = &inferior.Puller{Guix: p.Guix, Dir: p.Dir, Timeout: 2 * p.Timeout} // nothing comes so far so soon here
			_, err = p.Pull(t.Context(), text, []byte(channelsText+"; "+text))
		}
		if !errors.As(err, &failed) || failed.Stage != want.Stage || failed.Cause != want.Cause || failed.Channel != want.Channel ||
			failed.Message != fmt.Sprintf("not done within %v", p.Timeout) || failed.Hint == "" {
			t.Errorf("%s: %v", text, err)
		}
	}
	p = &inferior.Puller{Guix: p.Guix, Dir: p.Dir, Timeout: time.Hour}
	if _, err := p.Pull(t.Context(), "abc", []byte(channelsText)); err != nil {
		t.Error(err)
	}
}
