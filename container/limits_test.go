package container

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// The kernel's files say that the limits hold for the container, and its group goes with it.
func TestLimits(t *testing.T) {
	d := testDeployment(t)
	d.Environment.Limits = Limits{Memory: 512 << 20, Tasks: 77}
	probe := Limits{Memory: 1 << 30, Tasks: 100}
	for _, c := range probe.controllers() {
		if _, err := hierarchy(c.name); err != nil {
			if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
				t.Skipf("no control groups here: %v", err)
			}
		}
	}
	g, err := d.Apply(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
	if err != nil {
		if os.Geteuid() != 0 {
			t.Skipf("only root may limit here: %v", err)
		}
		t.Fatal(err)
	}
	in := checkRuns(t, d, g)
	for file, want := range map[string]string{"pids": "77", "memory": strconv.Itoa(512 << 20)} {
		if got := limitOf(t, in, file); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	for _, c := range in.record.Limits {
		found := c.pids()
		if !contains(found, in.Process.PID) || !contains(found, in.Launcher.PID) {
			t.Errorf("%s holds %v, not launcher %d and process %d", c.Path, found, in.Launcher.PID, in.Process.PID)
		}
	}
}

func contains(pids []int, pid int) bool {
	for _, p := range pids {
		if p == pid {
			return true
		}
	}
	return false
}

func limitOf(t *testing.T, in *Instance, controller string) string {
	t.Helper()
	names := []string{in.record.Cgroup.Path + "/" + controller + ".max"}
	for _, c := range in.record.Limits {
		names = append(names, c.Path+"/"+controller+".max", c.Path+"/"+controller+".limit_in_bytes")
	}
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil {
			return strings.TrimSpace(string(text))
		}
	}
	t.Errorf("no file of controller %s in %q", controller, names)
	return ""
}
