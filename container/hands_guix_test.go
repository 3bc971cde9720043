package container

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// realOnDisk returns a deployment whose state, and that of its services, is on a small disk. It runs, and may
// take three seconds to stop.
func realOnDisk(t *testing.T) (d *Deployment, disk string) {
	t.Helper()
	scripts := samples(t)
	disk = mountTmpfs(t, "16M")
	d, _ = realDeployment(t)
	d.Dir, d.Shares[0].Source = filepath.Join(disk, "deployment"), filepath.Join(disk, "state")
	if err := os.Mkdir(d.Shares[0].Source, 0o700); err != nil {
		t.Fatal(err)
	}
	d.MinFree, d.StopTimeout = 1<<20, 3*time.Second
	mustApply(t, d, scripts["one"])
	t.Cleanup(func() { stopNow(t, d) }) // before the disk goes
	return d, disk
}

// What was deployed with less space than usual is started again by a supervisor that has no
// deployment file, and stopped, with as much time as that file said, by somebody who has none.
func TestRealHandledWithoutFile(t *testing.T) {
	t.Parallel()
	d, _ := realOnDisk(t)
	s := supervise(t, bare(d), quickly)
	in := awaitRunning(t, d, nil)
	if err := in.Process.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitRunning(t, d, in)
	s.stop()
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	in, err := bare(d).Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Process.signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := bare(d).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < d.StopTimeout || took >= defaultStopTimeout {
		t.Errorf("stopped after %v", took)
	}
	checkNothingLeft(t, d, in)
}

// A container that has filled the disk of its own state can be stopped, also when it has died of that.
func TestRealStopOnFullDisk(t *testing.T) {
	t.Parallel()
	for _, dead := range []bool{false, true} {
		d, disk := realOnDisk(t)
		in := awaitRunning(t, d, nil)
		if dead {
			if err := errors.Join(in.Process.signal(unix.SIGKILL), in.Process.wait(t.Context())); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Prune(t.Context()); err != nil { // clears away what it has left, which takes space
				t.Fatal(err)
			}
		}
		empty := fill(t, disk)
		if err := bare(d).Stop(t.Context()); err != nil {
			t.Errorf("dead: %v: %v", dead, err)
		}
		checkNothingLeft(t, d, in)
		if status, err := d.Status(t.Context()); err != nil || status.Wanted {
			t.Errorf("dead: %v: %+v, %v", dead, status, err)
		}
		empty()
		if _, err := d.Start(t.Context()); err != nil {
			t.Errorf("when there is space again: %v", err)
		}
	}
}

// What does not start again is said, with the reason; shepherd itself is not restarted; and the ledger says
// who restarted what.
func TestRealRestart(t *testing.T) {
	t.Parallel()
	scripts := samples(t)
	d, url := realDeployment(t)
	mustApply(t, d, scripts["one"])
	d.Who = "carol"
	unwell := func() (names, missing []string) {
		t.Helper()
		status, err := d.Status(t.Context())
		if err != nil || status.Trouble != nil {
			t.Fatal(err, status)
		}
		for _, e := range status.Unwell {
			names = append(names, e.Service.Name())
		}
		for _, f := range Doctor(d) {
			for _, m := range f.Missing {
				if f.Deployment == d.Name && strings.HasPrefix(m, "service ") {
					missing = append(missing, m)
				}
			}
		}
		return names, missing
	}
	if names, missing := unwell(); len(names)+len(missing) > 0 {
		t.Errorf("%q, %q", names, missing)
	}
	for _, root := range []string{"root", "shepherd"} {
		err := d.RestartService(t.Context(), root)
		var refused declined
		if !errors.As(err, &refused) {
			t.Errorf("restarted %s: %v", root, err)
		}
	}
	if err := d.RestartService(t.Context(), "counter"); err != nil {
		t.Error(err)
	}
	// Its one-shot service, which makes a directory, runs again and finds it there.
	err := d.RestartService(t.Context(), "web")
	var guilty *ServiceError
	if !errors.As(err, &guilty) || guilty.Service.Name() != "web" || guilty.Service.Status != "stopped" || !strings.Contains(err.Error(), "File exists") {
		t.Errorf("error %v", err)
	}
	if _, err := (HTTP{URL: url}).Check(t.Context(), nil, nil); err == nil {
		t.Error("the service web runs")
	}
	if names, missing := unwell(); !slices.Contains(names, "web") || len(missing) != len(names) || !strings.HasPrefix(missing[0], "service ") {
		t.Errorf("%q, %q", names, missing)
	}
	history, err := d.History()
	if n := len(history); err != nil || n != 4 || history[2].Event != WasRestarted || history[2].Detail != "counter" || history[2].Who != "carol" ||
		history[3].Event != WasRestarted || !strings.HasPrefix(history[3].Detail, "service web does not start") {
		t.Errorf("%+v, %v", history, err)
	}

	// What a service takes with it comes back, even if its stop goes wrong: here nobody is left to be killed by it.
	err = d.RestartService(t.Context(), "user-processes")
	if err == nil || !strings.Contains(err.Error(), "herd stop user-processes") {
		t.Errorf("error %v", err)
	}
	if _, err := (Services{[]string{"user-processes", "counter"}}).Check(t.Context(), awaitRunning(t, d, nil), nil); err != nil {
		t.Error(err)
	}
}

// A service that takes too long to start does not keep anybody from the container.
func TestRealSlowRestart(t *testing.T) {
	t.Parallel()
	d, _ := realDeployment(t)
	g := mustApply(t, d, samples(t)["told"])
	in := awaitRunning(t, d, nil)
	mustWrite(t, filepath.Join(in.runDir(), "environment", "settings"), "MODE='late'\nTAKES='1000'\n")
	g.Schedule.StartPeriod = time.Second // shepherd gives it a minute
	if err := d.writeGeneration(g); err != nil {
		t.Fatal(err)
	}
	err := d.RestartService(t.Context(), "fickle")
	var guilty *ServiceError
	if !errors.As(err, &guilty) || guilty.Service.Name() != "fickle" || !strings.Contains(err.Error(), "service fickle is still starting after 1s") {
		t.Errorf("error %v", err)
	}
	if status, err := d.Status(t.Context()); err != nil || status.Holder != nil || status.Trouble != nil {
		t.Errorf("%+v, %v", status, err)
	}
	hurry(t, d, g) // else shepherd has that minute
	stopNow(t, d)
	checkNothingLeft(t, d, in)
}

// Containers that somebody has started by a link to their script, or by a copy of it, have launchers that live, and
// are no orphans; a shepherd in a sandbox is no container.
func TestRealDoctorOfOthers(t *testing.T) {
	t.Parallel()
	script := samples(t)["one"]
	dir := t.TempDir()
	link, copied := filepath.Join(dir, "gn-container"), filepath.Join(dir, "copied")
	if err := errors.Join(os.Symlink(script, link), os.WriteFile(copied, readFile(t, script), 0o700)); err != nil {
		t.Fatal(err)
	}
	for name, wantScript := range map[string]string{link: script, copied: ""} {
		launcher := runByHand(t, []string{name})
		var first Process
		eventually(t, func() error {
			for _, p := range launcher.children() {
				if first = p; isSystem(p.PID) {
					return nil
				}
			}
			return errors.New("it has not booted")
		})
		var found []Finding
		for _, f := range Doctor() {
			if f.Launcher == launcher.PID || f.Process == first.PID {
				found = append(found, f)
			}
		}
		want := []Finding{{Script: wantScript, Launcher: launcher.PID, Process: first.PID, Missing: []string{notOurs}}}
		if diff := cmp.Diff(want, found); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	sandbox := exec.CommandContext(t.Context(), "unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "read line; exit", "shepherd")
	in, err := sandbox.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sandbox.Start(); err != nil {
		t.Fatal(err)
	}
	defer sandbox.Wait()
	defer in.Close()
	parent, err := FindProcess(sandbox.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	var shell Process
	eventually(t, func() error {
		for _, shell = range parent.children() {
			if line := readFile(t, fmt.Sprintf("/proc/%d/cmdline", shell.PID)); strings.HasPrefix(string(line), "sh\x00") {
				return nil
			}
		}
		return errors.New("it has not started")
	})
	for _, f := range Doctor() {
		if f.Process == shell.PID {
			t.Errorf("a sandbox: %+v", f)
		}
	}
}
