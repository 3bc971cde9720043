package inferior_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/internal/samples"
)

// sampleSet makes the sample channels.
func sampleSet(t *testing.T) *samples.Set {
	t.Helper()
	set, err := samples.Make(filepath.Join(t.TempDir(), "git"), "")
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// channelsFile is the content of a channels.scm of the set.
func channelsFile(t *testing.T, set *samples.Set) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := set.Channels().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// puller pulls into a directory that is removed after the test, roots and all.
func puller(t *testing.T) *inferior.Puller {
	t.Helper()
	p := &inferior.Puller{Dir: filepath.Join(t.TempDir(), "profiles"), Log: testLog{t}}
	t.Cleanup(func() {
		names, err := p.Names()
		if err != nil {
			t.Error(err)
		}
		for _, name := range names {
			if err := p.Remove(context.Background(), name); err != nil {
				t.Error(err)
			}
		}
	})
	return p
}

func TestGuixPull(t *testing.T) {
	guixtest.Require(t)
	set := sampleSet(t)
	channels := channelsFile(t, set)
	p := puller(t)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("GUIX_PULL_URL", "file:///nowhere")
	t.Setenv("GUIX_PACKAGE_PATH", "/nowhere")

	// Whoever asks at the same time gets the same.
	var wg sync.WaitGroup
	profiles := make([]*inferior.Profile, 3)
	for i := range profiles {
		wg.Go(func() {
			profile, err := p.Pull(t.Context(), "samples", channels)
			if err != nil {
				t.Error(err)
			}
			profiles[i] = profile
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	profile := profiles[0]
	if profiles[1] != profile || profiles[2].Item != profile.Item {
		t.Log("pulled more than once, or read again") // a waiter may come late and read it
	}
	checkChannels(t, profile)
	checkRooted(t, p, "samples")
	if entries, _ := os.ReadDir(home); len(entries) != 0 {
		t.Errorf("HOME was touched: %v", entries)
	}

	// Once pulled, no process is started.
	again := &inferior.Puller{Dir: p.Dir, Guix: "/nonexistent/guix"}
	if got, err := again.Pull(t.Context(), "samples", channels); err != nil || got.Item != profile.Item {
		t.Errorf("a second time: %v %v", got, err)
	}
	evaluateSamples(t, profile)

	if err := p.Remove(t.Context(), "samples"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(p.Dir, "samples-1-link")); !os.IsNotExist(err) {
		t.Errorf("the root is still there: %v", err)
	}
}

// checkChannels compares the provenance in the profile with what was asked for.
func checkChannels(t *testing.T, profile *inferior.Profile) {
	t.Helper()
	var names []string
	for _, c := range profile.Channels() {
		names = append(names, c.Name)
		if len(c.Commit) != 40 || !strings.HasPrefix(c.URL, "file:///") || c.Branch != "master" || c.Item == "" ||
			len(c.IntroductionCommit) != 40 || c.IntroductionSigner == "" {
			t.Errorf("%+v", c)
		}
	}
	if got := strings.Join(names, " "); got != "guix sample-channel sample-project" {
		t.Errorf("channels %q", got)
	}
}

// checkRooted looks for the daemon's own link to the generation.
func checkRooted(t *testing.T, p *inferior.Puller, name string) {
	t.Helper()
	links, err := filepath.Glob("/var/guix/gcroots/auto/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if target, _ := os.Readlink(l); target == filepath.Join(p.Dir, name+"-1-link") {
			return
		}
	}
	t.Errorf("no root for %s among %d", name, len(links))
}

func evaluateSamples(t *testing.T, profile *inferior.Profile) {
	t.Helper()
	jobs := evaluate(t, inferior.EvaluateOptions{
		Session:  inferior.Options{Program: profile.Guix(), Stderr: testLog{t}},
		Channels: []string{samples.Channel, samples.Project},
	})
	var failed []string
	for name, job := range jobs {
		if job.Err != nil {
			failed = append(failed, name+": "+job.Err.Message())
		} else if job.Derivation == "" || job.Location.File == "" {
			t.Errorf("%+v", job)
		}
	}
	if len(jobs) < 8 || len(failed) != 1 {
		t.Errorf("%d jobs, failed: %q", len(jobs), failed)
	}
	t.Logf("%d jobs, failed: %q", len(jobs), failed)
}

func TestGuixPullBroken(t *testing.T) {
	guixtest.Require(t)
	set := sampleSet(t)
	if _, err := set.Break(); err != nil {
		t.Fatal(err)
	}
	p := puller(t)
	_, err := p.Pull(t.Context(), "broken", channelsFile(t, set))
	var failed *inferior.PullError
	if !errors.As(err, &failed) {
		t.Fatalf("%v, want a verdict", err)
	}
	if failed.Channel != samples.Channel || failed.Cause != inferior.CauseUnboundVariable ||
		failed.Message != "Unbound variable: sample-builder-of-tomorrow" || failed.Module != "(sample packages)" ||
		failed.Location.File != "sample/packages.scm" || failed.Location.Line == 0 || failed.Hint == "" || failed.Machinery() {
		t.Errorf("%+v", failed)
	}
	if names, _ := p.Names(); len(names) != 0 {
		t.Errorf("ready: %v", names)
	}
}

func TestGuixPullForged(t *testing.T) {
	guixtest.Require(t)
	set := sampleSet(t)
	branch, _, err := set.Forge()
	if err != nil {
		t.Fatal(err)
	}
	list := set.Channels()
	forged := set.Repo(samples.Channel).Channel(samples.Channel, nil)
	forged.Branch = branch
	for _, c := range list {
		forged.Introduction = c.Introduction // of the same key, made the same way
	}
	list = append(list, forged)
	var b bytes.Buffer
	if _, err := list.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	_, err = puller(t).Pull(t.Context(), "forged", b.Bytes())
	var failed *inferior.PullError
	if !errors.As(err, &failed) || failed.Stage != inferior.StageAuthenticate || failed.Channel != samples.Channel {
		t.Errorf("%v, want it not authenticated", err)
	}
}

// A pull that is cancelled leaves nothing that looks ready, and the next one works.
func TestGuixPullCancelled(t *testing.T) {
	guixtest.Require(t)
	set := sampleSet(t)
	channels := channelsFile(t, set)
	p := puller(t)
	reason := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	p.Log = writerFunc(func(b []byte) {
		if bytes.Contains(b, []byte("Building from")) {
			cancel(reason)
		}
	})
	if _, err := p.Pull(ctx, "samples", channels); !errors.Is(err, reason) {
		t.Errorf("%v, want it cancelled", err)
	}
	if names, _ := p.Names(); len(names) != 0 {
		t.Errorf("ready: %v", names)
	}
	p.Log = nil
	if _, err := p.Pull(t.Context(), "samples", channels); err != nil {
		t.Error(err)
	}
}
