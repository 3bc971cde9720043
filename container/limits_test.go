package container

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// requireLimits skips a test where nobody may limit: only CI is sure to be root.
func requireLimits(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may limit here")
	}
}

// The kernel's files say that the limits hold for the container, and its groups go with it.
func TestLimits(t *testing.T) {
	requireLimits(t)
	d := testDeployment(t)
	d.Environment.Limits = Limits{Memory: 512 << 20, Tasks: 77}
	g, err := d.Apply(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
	if err != nil {
		t.Fatal(err)
	}
	in := checkRuns(t, d, g)
	groups := groupsNamed(in.unit().Name)
	checkLimit(t, groups, "77", "pids.max")
	checkLimit(t, groups, strconv.Itoa(512<<20), "memory.max", "memory.limit_in_bytes")
	for _, dir := range groups {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		found := strings.Fields(string(text))
		for _, p := range []Process{in.Process, in.Launcher} {
			if !slices.Contains(found, strconv.Itoa(p.PID)) {
				t.Errorf("%s holds %v, not process %d", dir, found, p.PID)
			}
		}
	}
}

// checkLimit checks what the first of the files that exists says.
func checkLimit(t *testing.T, groups []string, want string, files ...string) {
	t.Helper()
	for _, dir := range groups {
		for _, file := range files {
			if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				if got := strings.TrimSpace(string(text)); got != want {
					t.Errorf("%s: %q, want %q", file, got, want)
				}
				return
			}
		}
	}
	t.Errorf("no %s in %q", files, groups)
}

// A container that wants more memory than it may have is killed, and that is said.
func TestMemoryLimitKills(t *testing.T) {
	requireLimits(t)
	d := testDeployment(t)
	d.Environment.Limits = Limits{Memory: 100 << 20}
	_, err := d.Apply(t.Context(), Revision{Script: script(t, d, "eats memory", "status-works.sexp")})
	e := wantOutcome(t, err, Kept)
	const want = "it reached its limit of 100 MiB of memory, and the kernel killed 1 of its processes"
	if !strings.Contains(e.Error(), want) {
		t.Errorf("error %v", e)
	}
}

// A container that wants more tasks than it may have does not get them, and that is said.
func TestTaskLimitRefuses(t *testing.T) {
	requireLimits(t)
	d := testDeployment(t)
	d.Environment.Limits = Limits{Tasks: 40}
	mustApply(t, d, script(t, d, "makes tasks", "status-works.sexp"))
	in, err := d.Running()
	if err != nil {
		t.Fatal(err)
	}
	state, err := in.state(t.Context())
	if err != nil || state.Refused == 0 {
		t.Fatalf("%+v, %v", state, err)
	}
	found := Doctor(d)
	if want := fmt.Sprintf("refused another one %d times", state.Refused); !strings.Contains(fmt.Sprint(found), want) {
		t.Errorf("%v", found)
	}
}
