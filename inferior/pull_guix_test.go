package inferior_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel/channeltest"
	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/sexp"
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
	if profiles[1].Item != profile.Item || profiles[2].Item != profile.Item {
		t.Errorf("three profiles: %v", profiles)
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
	buildContainer(t, profile)

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
	if got := strings.Join(names, " "); got != "guix sample-project sample-channel" {
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
	if len(jobs) != 10 || len(failed) != 1 || !strings.HasPrefix(failed[0], "sample-unlowerable: ") {
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

// Code that never ends when its module is loaded does not hold up guix pull for ever.
func TestGuixPullEndless(t *testing.T) {
	guixtest.Require(t)
	set := sampleSet(t)
	if _, err := set.Repo(samples.Channel).Commit("master", "Count.", map[string]string{
		"sample/endless.scm": "(define-module (sample endless))\n\n(let loop () (loop))\n"}, set.Alice); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"silent", "long"} {
		var failed *inferior.PullError
		want := "the build of sample-channel timed out"
		for limit := 2 * time.Second; limit < 2*time.Minute; limit *= 2 {
			p, after := puller(t), ""
			if name == "silent" {
				p.BuildMaxSilent = limit
				after = fmt.Sprintf(" after %d seconds of silence", limit/time.Second)
			} else {
				p.BuildTimeout = limit
			}
			_, err := p.Pull(t.Context(), name, channelsFile(t, set))
			if !errors.As(err, &failed) {
				t.Fatalf("%s: %v, want a verdict", name, err)
			}
			if failed.Channel == samples.Channel || failed.Cause != inferior.CauseTimeout { // not a build before that one, which may be slow here
				want += after
				break
			}
		}
		if failed.Channel != samples.Channel || failed.Cause != inferior.CauseTimeout || failed.Stage != inferior.StageBuild ||
			!strings.HasPrefix(failed.Message, want) || failed.Hint == "" || failed.Machinery() {
			t.Errorf("%s: %+v", name, failed)
		}
	}
}

// A channel whose dependency has dependencies of its own: Guix leaves them out of what it builds the
// channel with, bug 68797.
func TestGuixPullTransitiveGap(t *testing.T) {
	guixtest.Require(t)
	set := sampleSet(t)
	channels := set.Channels()
	repo, intro, err := channeltest.New(filepath.Join(t.TempDir(), "top.git"), set.Alice, map[string]string{
		".guix-channel": channeltest.Metadata("", channels[1]),
		"top/all.scm":   "(define-module (top all)\n  #:use-module (sample-project))\n\n(define-public top sample-project)\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := append(channels[:1:1], repo.Channel("top", intro)).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	_, err = puller(t).Pull(t.Context(), "gap", b.Bytes())
	var failed *inferior.PullError
	if !errors.As(err, &failed) {
		t.Fatalf("%v, want a verdict", err)
	}
	if failed.Channel != "top" || failed.Cause != inferior.CauseMissingModule || failed.Message != "no code for module (sample packages)" ||
		!strings.Contains(failed.Hint, "(sample packages) is in channel sample-channel,") || !strings.Contains(failed.Hint, "add sample-channel to .guix-channel of top") {
		t.Errorf("%+v", failed)
	}
}

func TestGuixPullForged(t *testing.T) {
	guixtest.Require(t)
	set := sampleSet(t)
	_, forged, err := set.Forge()
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Repo(samples.Channel).SetBranch("master", forged); err != nil {
		t.Fatal(err)
	}
	_, err = puller(t).Pull(t.Context(), "forged", channelsFile(t, set))
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

// What we enumerate ourselves is what Guix's own CI code does.
func TestGuixEvaluateAsCuirass(t *testing.T) {
	guixtest.Require(t)
	set := sampleSet(t)
	if _, err := set.Repair(); err != nil {
		t.Fatal(err)
	}
	profile, err := puller(t).Pull(t.Context(), "repaired", channelsFile(t, set))
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for job, err := range inferior.Evaluate(t.Context(), inferior.EvaluateOptions{
		Session:  inferior.Options{Program: profile.Guix(), Stderr: testLog{t}},
		Channels: []string{samples.Channel, samples.Project},
	}) {
		if err != nil || job.Err != nil {
			t.Fatal(err, job.Err)
		}
		ours = append(ours, fmt.Sprintf("(%q %q %q %q %q %d %d)", job.Name, job.Derivation, job.NixName, job.System,
			job.Outputs["out"], int(job.MaxSilentTime.Seconds()), int(job.Timeout.Seconds())))
	}
	s := start(t, inferior.Options{Program: profile.Guix(), Stderr: testLog{t}})
	v, err := s.Eval(t.Context(), expr(t, `
(begin
  (use-modules (gnu ci) (guix store) (guix describe) (srfi srfi-1))
  (define sources
    (map (lambda (entry)
           (cadr (assq 'source ((@ (guix profiles) manifest-entry-properties) entry))))
         (current-profile-entries)))
  (map (lambda (job)
         (list (assq-ref job #:job-name) (assq-ref job #:derivation) (assq-ref job #:nix-name) (assq-ref job #:system)
               (assoc-ref (assq-ref job #:outputs) "out") (assq-ref job #:max-silent-time) (assq-ref job #:timeout)))
       (cuirass-jobs (open-connection)
                     (list (cons 'channels sources)
                           '(subset channels sample-channel sample-project)
                           '(systems "x86_64-linux")))))`))
	if err != nil {
		t.Fatal(err)
	}
	items, _ := sexp.Items(v)
	var theirs []string
	for _, job := range items {
		theirs = append(theirs, job.String())
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	if diff := cmp.Diff(theirs, ours); diff != "" || len(ours) == 0 {
		t.Errorf("%d jobs (-cuirass +ours):\n%s", len(ours), diff)
	}
}

// buildContainer builds the container of the sample project with the pulled Guix.
func buildContainer(t *testing.T, profile *inferior.Profile) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "script")
	o := inferior.SystemOptions{Guix: profile.Guix(), File: "../internal/samples/files/sample-project/deploy/container.scm",
		Network: true, Root: root, Log: testLog{t}}
	drv, err := inferior.SystemContainerDerivation(t.Context(), o)
	if err != nil {
		t.Error(err)
	} else if _, err := os.Stat(drv); err != nil {
		t.Error(err)
	}
	script, err := inferior.SystemContainer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(script); err != nil || info.Mode()&0o111 == 0 {
		t.Errorf("%q: %v %v", script, info, err)
	}
	if target, err := os.Readlink(root); err != nil || target != script {
		t.Errorf("root leads to %q: %v", target, err)
	}
}

func TestGuixSystemContainerFails(t *testing.T) {
	guixtest.Require(t)
	file := filepath.Join(t.TempDir(), "os.scm")
	if err := os.WriteFile(file, []byte("(use-modules (gnu))\n\n(list\n  no-such-name)\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := inferior.SystemContainer(t.Context(), inferior.SystemOptions{File: file})
	var failed *inferior.SystemError
	if !errors.As(err, &failed) || failed.Location != (inferior.Location{File: file, Line: 4, Column: 2}) ||
		failed.Message != "no-such-name: unbound variable" || failed.Hint == "" {
		t.Errorf("%v\n%+v", err, failed)
	}
}
