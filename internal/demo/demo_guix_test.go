package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/internal/demo"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

var allSteps = []string{"guix", "lock", "authenticate", "pull", "evaluate", "build", "substitutes",
	"container", "breakage", "repair", "upgrade", "again"}

// leftovers returns what runs, is mounted or is locked in behalf of a state directory.
func leftovers(t *testing.T, state string) []string {
	t.Helper()
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if text, err := os.ReadFile(p); err == nil && bytes.Contains(text, []byte(state)) && !strings.Contains(string(text), "demo.test") {
			found = append(found, "process "+strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, state) {
			found = append(found, "mount "+line)
		}
	}
	filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		name := filepath.Base(path)
		if err == nil && !d.IsDir() && (strings.HasSuffix(name, ".lock") || name == "lease" || strings.HasSuffix(name, ".pulling")) {
			found = append(found, "lock "+path)
		}
		return nil
	})
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/guixci*/*")
	for _, g := range groups {
		if strings.Contains(g, filepath.Base(state)) {
			found = append(found, "control group "+g)
		}
	}
	return found
}

func TestStory(t *testing.T) {
	guixtest.Require(t)
	state := filepath.Join(t.TempDir(), "story")
	interrupted(t, state, "the pull is under way", func(path func(...string) string) bool {
		found, _ := filepath.Glob(path("state", "profiles", "*.scm"))
		return len(found) > 0
	})
	interrupted(t, state, "builds are under way", func(path func(...string) string) bool {
		found, _ := filepath.Glob(path("state", "logs", "*"))
		return len(found) > 0
	})
	interrupted(t, state, "the container is on trial", func(path func(...string) string) bool {
		_, err := os.Stat(path("environment", "state", "starts"))
		return err == nil
	})
	whole(t, state)
}

// interrupted runs the demo, and ends it like Ctrl-C does as soon as something is so.
func interrupted(t *testing.T, state, when string, so func(path func(...string) string) bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	var log bytes.Buffer
	go func() {
		_, err := demo.Run(ctx, demo.Options{State: state, Progress: cli.NewProgress(&log)})
		ended <- err
	}()
	path := func(elem ...string) string { return filepath.Join(append([]string{state}, elem...)...) }
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for begun := false; ; {
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("interrupted when %s: %v, want context.Canceled\n%s", when, err, &log)
			}
			if left := leftovers(t, state); len(left) > 0 {
				t.Fatalf("interrupted when %s: left %q", when, left)
			}
			return
		case <-look.C:
			// What an earlier run left is gone as soon as there are new repositories.
			if !begun {
				_, err := os.Stat(path("channels.scm"))
				begun = err == nil && !so(path)
			} else if so(path) {
				cancel()
			}
		}
	}
}

// whole runs the demo to its end and looks at what it prints.
func whole(t *testing.T, state string) {
	t.Helper()
	var out, log bytes.Buffer
	results, err := demo.Run(t.Context(), demo.Options{State: state, JSON: &out, Progress: cli.NewProgress(&log)})
	t.Logf("\n%s", &log)
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	for _, r := range results {
		steps = append(steps, r.Step)
	}
	if !slices.Equal(steps, allSteps) {
		t.Errorf("steps %q, want %q", steps, allSteps)
	}
	d := json.NewDecoder(&out)
	for i := 0; ; i++ {
		var object struct {
			Step    string
			OK      bool
			Seconds *float64
		}
		if err := d.Decode(&object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if object.Step != allSteps[i] || !object.OK || object.Seconds == nil {
			t.Errorf("object %d: %+v", i, object)
		}
	}
	if left := leftovers(t, state); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

func TestStateDirectoryOfSomebodyElse(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := demo.Run(t.Context(), demo.Options{State: dir, Progress: cli.NewProgress(io.Discard)})
	if cli.ExitCode(err) != cli.Usage || !strings.Contains(err.Error(), "--state") {
		t.Errorf("error %v, want a usage error that says what to do", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}
