package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// shell makes a hook of shell commands.
func shell(t *testing.T, commands string) Hook {
	t.Helper()
	return Hook{Command: []string{"/bin/sh", "-c", commands}}
}

// withState returns a deployment that keeps state, which it copies before each switch, and where
// that is. One generation of it runs.
func withState(t *testing.T) (d *Deployment, state string, old *Generation) {
	t.Helper()
	d, state = testDeployment(t), makeState(t)
	d.Shares = []Mount{{Name: "state", Source: state, Target: "/srv/state"}}
	d.Switch.Snapshot = []string{"state"}
	old = mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	return d, state, old
}

// checkState checks that the state is as it was, and that no snapshot of a failed generation stays.
func checkState(t *testing.T, d *Deployment, state string, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, portrait(t, state)); diff != "" {
		t.Errorf("state (-before +after):\n%s", diff)
	}
	current, err := d.Current()
	if err != nil {
		t.Fatal(err)
	}
	found, err := fs.Glob(os.DirFS(d.path("generations")), "*/snapshot")
	if err != nil || len(found) != 1 || d.path("generations", found[0]) != d.snapshotPath(current.Number) {
		t.Errorf("snapshots %q, %v", found, err)
	}
	if left, err := fs.Glob(os.DirFS(d.path("generations")), "*/hook"); err != nil || len(left) > 0 {
		t.Errorf("hooks have left %q, %v", left, err)
	}
}

// A migration that works: it finds what it needs in its environment, and nothing runs meanwhile. The container gets
// the secret that it leaves.
func TestMigrate(t *testing.T) {
	d, state, old := withState(t)
	before := checkRuns(t, d, old)
	d.Environment = Environment{Name: "production", Settings: map[string]string{"URL": "here"},
		Secrets: []Secret{{Name: "db-key", File: writeSecret(t, "secret", 0o600)}}}
	told := filepath.Join(t.TempDir(), "told")
	live := shell(t, fmt.Sprintf("kill -0 %d", before.Process.PID))
	live.Live = true
	d.Switch.Hooks = []Hook{shell(t, fmt.Sprintf(`! kill -0 %d 2>/dev/null || exit 9
		echo 2 > "$GUIXCI_MOUNT_STATE/version"
		echo "$GUIXCI_DEPLOYMENT $GUIXCI_ENVIRONMENT $GUIXCI_OLD_GENERATION $GUIXCI_GENERATION $GUIXCI_SETTING_URL" > %q
		cat "$GUIXCI_SECRET_DB_KEY" >> %[2]q
		echo renewed > "$GUIXCI_SECRET_DB_KEY"`, before.Process.PID, told)), live}
	g := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	in := checkRuns(t, d, g)
	if text := readFile(t, filepath.Join(in.runDir(), "environment", "secrets", "db-key")); string(text) != "renewed\n" {
		t.Errorf("secret %q", text)
	}
	if text, err := os.ReadFile(told); err != nil || string(text) != "test production 1 2 here\nsecret" {
		t.Errorf("told %q, %v", text, err)
	}
	if text, err := os.ReadFile(filepath.Join(state, "version")); err != nil || string(text) != "2\n" {
		t.Errorf("version %q, %v", text, err)
	}
	history, err := d.History()
	if err != nil {
		t.Fatal(err)
	}
	s := history[len(history)-1].Switched
	if s == nil || len(s.Hooks) != 2 || s.Hooks[0].Failed != "" || !strings.HasPrefix(s.Hooks[0].Command, "/bin/sh -c kill") ||
		s.Snapshot == 0 || s.Gap < s.Stop+s.Prepare || s.Prepare < s.Hooks[1].Took {
		t.Errorf("the ledger has %+v", s)
	}
	if diff := cmp.Diff(s, g.Switched); diff != "" {
		t.Error(diff)
	}
}

// Whatever goes wrong after a migration has begun, state is what it was, and the old generation runs.
func TestMigrationIsUndone(t *testing.T) {
	const migrate = `cd "$GUIXCI_MOUNT_STATE"; rm -r db; echo half > program; chown 7 fifo; mkdir new; touch .; `
	for _, c := range []struct {
		name, mode, reply string
		hook              string
		says              string
	}{
		{"migration fails", "works", "status-works.sexp", migrate + "echo no such column >&2; exit 3", "no such column"},
		{"migration is killed", "works", "status-works.sexp", migrate + "kill -9 $$", "signal: killed"},
		{"probe fails", "works", "status-fails.sexp", migrate, "service broken"},
		{"launcher dies", "dies", "waitpid.log", migrate, "waitpid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, state, old := withState(t)
			want := portrait(t, state)
			if c.reply == "status-fails.sexp" {
				failing(d, AllServices{}, c.says)
			}
			d.Switch.Hooks = []Hook{shell(t, c.hook)}
			_, err := d.Apply(t.Context(), Revision{Script: script(t, d, c.mode, c.reply)})
			wantOutcome(t, err, RolledBack)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("does not say %q: %v", c.says, err)
			}
			checkRuns(t, d, old)
			checkState(t, d, state, want)
			history, err := d.History()
			if last := history[len(history)-1]; err != nil || last.Switched == nil || len(last.Switched.Hooks) != 1 {
				t.Errorf("ledger %+v, %v", last, err)
			}
		})
	}
}

// A hook that is live has stopped nothing when it fails.
func TestLiveHookFails(t *testing.T) {
	d, state, old := withState(t)
	before, want := checkRuns(t, d, old), portrait(t, state)
	h := shell(t, "exit 3")
	h.Live = true
	d.Switch.Hooks = []Hook{h}
	next := script(t, d, "works", "status-works.sexp")
	_, err := d.Apply(t.Context(), Revision{Script: next})
	wantOutcome(t, err, Kept)
	var hook *HookError
	if !errors.As(err, &hook) || hook.Reason != "exit status 3" {
		t.Errorf("error %v", err)
	}
	if in := checkRuns(t, d, old); in.Process != before.Process {
		t.Error("it was started again")
	}
	checkState(t, d, state, want)
	_, err = d.Apply(t.Context(), Revision{Script: next})
	wantOutcome(t, err, Refused)
}

// A disk that somebody else fills is no fault of the revision, which can be tried again.
func TestSnapshotWithoutSpace(t *testing.T) {
	disk, state := mountTmpfs(t, "4M"), t.TempDir()
	d := testDeployment(t)
	d.Dir, d.MinFree = filepath.Join(disk, hardName), 1
	d.Shares = []Mount{{Name: "state", Source: state, Target: "/srv/state"}}
	if err := os.WriteFile(filepath.Join(state, "rows"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	old := mustApply(t, d, script(t, d, "works", "status-works.sexp"))

	d.Switch.Snapshot = []string{"state"}
	filler := filepath.Join(disk, "filler")
	h := shell(t, "head -c 3500000 /dev/zero >"+filler)
	h.Live = true // once the preflight has found that there is enough
	d.Switch.Hooks = []Hook{h}
	next := script(t, d, "works", "status-works.sexp")
	_, err := d.Apply(t.Context(), Revision{Script: next})
	if failed := wantOutcome(t, err, RolledBack); !failed.Machine || failed.ExitCode() != NotTried.ExitCode() || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("status %d of %v", failed.ExitCode(), err)
	}
	checkRuns(t, d, old)
	if _, err := os.Stat(d.snapshotPath(2)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a snapshot: %v", err)
	}

	d.Switch.Hooks = nil
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	checkRuns(t, d, mustApply(t, d, next))
}

func TestHookTimeout(t *testing.T) {
	d, state, old := withState(t)
	want := portrait(t, state)
	here := filepath.Join(t.TempDir(), "here")
	h := shell(t, fmt.Sprintf(`echo > "$GUIXCI_MOUNT_STATE/new"; echo waiting; : > %q; exec sleep 1000`, here))
	// One that is over before the hook has come that far shows nothing.
	for h.Timeout = 200 * time.Millisecond; !exists(here) && h.Timeout < time.Minute; h.Timeout *= 4 {
		d.Switch.Hooks = []Hook{h}
		_, err := d.Apply(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
		wantOutcome(t, err, RolledBack)
		says := "it did not end in time"
		if exists(here) {
			says += "; its last output:\n  waiting"
		}
		if !strings.Contains(err.Error(), says) {
			t.Errorf("error %v", err)
		}
		checkRuns(t, d, old)
		checkState(t, d, state, want)
	}
	if !exists(here) {
		t.Error("the hook does not begin")
	}
}

// The deployer is killed in the middle of a migration, which must not go on while the
// next one puts the state back.
func TestKilledWhileMigrating(t *testing.T) {
	d, state, old := withState(t)
	want := portrait(t, state)
	killMigrating(t, d, state)
	trial, err := d.readRecord()
	if err != nil || trial.Generation != 2 || trial.Previous != 1 || trial.Launcher.isZero() || !trial.Process.isZero() {
		t.Fatalf("record %+v, %v", trial, err)
	}
	if got := portrait(t, state); cmp.Equal(want, got) {
		t.Error("the migration did not begin")
	}
	if _, err := d.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	checkRuns(t, d, old)
	checkState(t, d, state, want)
	for _, pid := range pids() {
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(line), "$0/new") {
			t.Errorf("the migration is still there: %q", line)
		}
	}
}

// killMigrating runs a deployment in another process and kills that in the middle of a migration.
func killMigrating(t *testing.T, d *Deployment, state string) {
	t.Helper()
	cmd := standIn(t.Context(), d, "deployer", "STATE="+state, "SCRIPT="+script(t, d, "works", "status-works.sexp"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	await(t, func() bool { return exists(filepath.Join(state, "new")) })
}

// Going back takes the state along if asked to.
func TestRollBackWithState(t *testing.T) {
	d, state, one := withState(t)
	want := portrait(t, state)
	d.Switch.Hooks = []Hook{shell(t, `rm -rf "$GUIXCI_MOUNT_STATE/db"`)}
	two := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	if cmp.Equal(want, portrait(t, state)) {
		t.Error("nothing was migrated")
	}
	migrated := portrait(t, state)

	// It does not come up: back to what the second had.
	if err := os.WriteFile(one.Script, []byte("#!/bin/sh\n: --pid-file\necho out of luck\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := d.RollBack(t.Context(), one.Number, Revision{RestoreState: true})
	wantOutcome(t, err, RolledBack)
	checkRuns(t, d, two)
	checkState(t, d, state, migrated)

	three := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	_, err = d.RollBack(t.Context(), one.Number, Revision{RestoreState: true})
	wantOutcome(t, err, Refused) // what there is is of generation 2
	back, err := d.RollBack(t.Context(), two.Number, Revision{RestoreState: true})
	if err != nil {
		t.Fatal(err)
	}
	if back.Script != two.Script || len(back.Switched.Hooks) != 0 || three.Number == back.Number {
		t.Errorf("generation %+v", back)
	}
	checkState(t, d, state, migrated)
}

func TestSwitchPreflight(t *testing.T) {
	d := testDeployment(t)
	d.Shares = []Mount{{Name: "state", Source: t.TempDir(), Target: "/srv/state"}}
	d.Exposes = []Mount{{Name: "data", Source: t.TempDir(), Target: "/srv/data"}}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		s     Switch
		check string
		says  string
	}{
		{Switch{Snapshot: []string{"state"}}, "", ""},
		{Switch{Snapshot: []string{"data"}}, "snapshot", `no writable mount of that name`},
		{Switch{Hooks: []Hook{{Command: []string{"migrate"}}}}, "hook", "not an absolute"},
		{Switch{Hooks: []Hook{{Command: []string{filepath.Join(filepath.Dir(plain), "migrate")}}}}, "hook", "no such file"},
		{Switch{Hooks: []Hook{{Command: []string{plain}}}}, "hook", "cannot be executed"},
	} {
		d.Switch = c.s
		p, err := d.Plan(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
		if err != nil {
			t.Fatal(err)
		}
		if c.check == "" && len(p.Refusals) == 0 {
			continue
		}
		if len(p.Refusals) != 1 || p.Refusals[0].Check != c.check || !strings.Contains(p.Refusals[0].Reason, c.says) {
			t.Errorf("%+v: refusals %+v", c.s, p.Refusals)
		}
	}
	// A disk that cannot take the copy, as it would be found out with everything stopped.
	d.Switch, d.MinFree = Switch{Snapshot: []string{"state"}}, 1<<62
	p, err := d.Plan(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
	if err != nil || !strings.Contains(fmt.Sprint(p.Refusals), "a snapshot needs") {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestReadSwitch(t *testing.T) {
	read := func(text string) (*Deployment, error) {
		file, err := ReadFile("d.scm", strings.NewReader(text))
		if err != nil {
			return nil, err
		}
		return file.Environment("a")
	}
	d, err := read(`(deployment (script "/s") (snapshot "state")
 (pre-switch "/bin/check" (live? #t))
 (environment "b" (pre-switch "/bin/other"))
 (environment "a" (pre-switch "/bin/migrate" "--up" (timeout "5m"))))`)
	if err != nil {
		t.Fatal(err)
	}
	want := Switch{Snapshot: []string{"state"}, Hooks: []Hook{{Command: []string{"/bin/check"}, Live: true},
		{Command: []string{"/bin/migrate", "--up"}, Timeout: 5 * time.Minute}}}
	if diff := cmp.Diff(want, d.Switch, sameAddress); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct{ field, says string }{
		{`(pre-switch)`, "d.scm:2:2: pre-switch: names no program"},
		{`(pre-switch "migrate")`, `d.scm:2:14: pre-switch: hook "migrate" is not an absolute`},
		{`(pre-switch "/m" (tiemout "1s"))`, "d.scm:2:19: pre-switch has no field"},
		{`(snapshot)`, "d.scm:2:2: snapshot: names no mount"},
	} {
		_, err := read("(deployment (script \"/s\") (environment \"a\"\n " + c.field + "))")
		if err == nil || !strings.HasPrefix(err.Error(), c.says) {
			t.Errorf("%s: error %v", c.field, err)
		}
	}
}
