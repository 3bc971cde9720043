package container

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRollBack(t *testing.T) {
	d := testDeployment(t)
	_, err := d.RollBack(t.Context(), 0, Revision{})
	wantOutcome(t, err, Refused)

	d.Environment.Settings = map[string]string{"VERSION": "1"}
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	_, err = d.RollBack(t.Context(), 0, Revision{})
	wantOutcome(t, err, Refused)

	d.Environment.Settings = map[string]string{"VERSION": "2"}
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	_, err = d.Apply(t.Context(), Revision{Script: script(t, d, "dies", "waitpid.log")})
	wantOutcome(t, err, RolledBack)

	// 1 ← 2 × 3: back to 1, as generation 4, with what 1 was given
	four, err := d.RollBack(t.Context(), 0, Revision{Who: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	checkRuns(t, d, four)
	if four.Number != 4 || four.Script != one.Script || four.Bindings() != one.Bindings() {
		t.Errorf("generation %+v", four)
	}
	history, err := d.History()
	if err != nil || history[len(history)-1].Who != "bob" || history[len(history)-1].Why != "back to generation 1" {
		t.Errorf("history %+v, %v", history, err)
	}

	// and forward again, by name
	five, err := d.RollBack(t.Context(), 2, Revision{})
	if err != nil || five.Environment.Settings["VERSION"] != "2" {
		t.Errorf("%+v, %v", five, err)
	}
	_, err = d.RollBack(t.Context(), 9, Revision{})
	wantOutcome(t, err, Refused)
}

// Going back twice goes back twice, and never to what was gone back from.
func TestRollBackAgain(t *testing.T) {
	d := testDeployment(t)
	version := func(v string) {
		t.Helper()
		d.Environment.Settings = map[string]string{"VERSION": v}
		mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	}
	back := func(number int, want string) {
		t.Helper()
		g, err := d.RollBack(t.Context(), number, Revision{})
		if err != nil || g.Environment.Settings["VERSION"] != want {
			t.Errorf("%+v, %v", g, err)
		}
	}
	refused := func() {
		t.Helper()
		_, err := d.RollBack(t.Context(), 0, Revision{})
		wantOutcome(t, err, Refused)
	}
	for _, v := range []string{"1", "2", "3"} {
		version(v)
	}
	back(0, "2")
	back(0, "1")
	refused()
	version("4")
	back(0, "1")
	back(3, "3") // by name it is as good as any
	version("5")
	back(0, "3")
	back(2, "2") // those between are left behind, too
	back(0, "1")
	current, err := d.Current()
	if err != nil {
		t.Fatal(err)
	}
	// Side by side what is gone back to may be newer than the one that was named, which it repeats.
	if err := errors.Join(d.willWithdraw(current.Number, current.Number-1, current.Number), d.withdraw(current.Number)); err != nil {
		t.Fatal(err)
	}
	if current, err = d.Current(); err != nil || current.Withdrawn {
		t.Errorf("%+v, %v", current, err)
	}
	d.Keep = Retention{Last: 1}
	version("6")
	back(0, "1") // which was kept
}

func TestLogs(t *testing.T) {
	d := testDeployment(t)
	if err := d.Logs(t.Context(), t.Output(), "", false); err == nil {
		t.Error("logs of nothing")
	}
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	var text strings.Builder
	if err := d.Logs(t.Context(), &text, "", false); err != nil || !strings.Contains(text.String(), "is running as PID") {
		t.Errorf("%q, %v", &text, err)
	}
	if err := d.Logs(t.Context(), &text, "no-such-service", false); err == nil || !strings.Contains(err.Error(), "no such service") {
		t.Errorf("error %v", err)
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	var last strings.Builder // following ends with the container
	if err := d.Logs(t.Context(), &last, "", true); err != nil || !strings.HasPrefix(last.String(), "system container") {
		t.Errorf("%q, %v", &last, err)
	}
}

// What is missing for a container is said, for each reason.
func TestDoctor(t *testing.T) {
	d := testDeployment(t)
	examine := func() []string {
		t.Helper()
		for _, f := range Doctor(d) {
			if f.Deployment == d.Name && f.Generation > 0 {
				return f.Missing
			}
		}
		return nil
	}
	if missing := examine(); missing != nil {
		t.Errorf("%q", missing)
	}
	mount := t.TempDir()
	d.Exposes = []Mount{{Source: mount, Target: "/data"}}
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	in, err := d.Running()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	if len(groupsNamed(in.unit().Name)) == 0 {
		want = append(want, "no control group: nothing limits it, and only its pid namespace holds it together")
	}
	want = append(want, "no supervisor: nobody starts it when it ends, or with the machine; "+haveOne,
		"no root: the garbage collector deletes it as soon as it stops")
	if diff := cmp.Diff(want, examine()); diff != "" {
		t.Error(diff)
	}
	if err := in.Launcher.signal(9); err != nil {
		t.Fatal(err)
	}
	if err := in.Launcher.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if missing := examine(); len(missing) == 0 || !strings.Contains(missing[0], "launcher has ended") {
		t.Errorf("%q", missing)
	}
	if err := in.Process.signal(9); err != nil {
		t.Fatal(err)
	}
	if err := in.Process.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if missing := examine(); len(missing) != 1 || !strings.Contains(missing[0], "ought to run and does not") {
		t.Errorf("%q", missing)
	}
}

const haveOne = `have a service of the machine supervise it, as "guixci-deploy supervise --help" shows`

// A service manager starts again what ends, but nothing with the machine. That is missing until somebody supervises it.
func TestDoctorOfAnotherRunner(t *testing.T) {
	d := testDeployment(t)
	d.Runners, d.Environment.Runner = map[string]Runner{"manager": new(Supervisor)}, "manager"
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	isMissing := func() bool {
		found := Doctor(d)
		i := slices.IndexFunc(found, func(f Finding) bool { return f.Deployment == d.Name && f.Process != 0 })
		if i < 0 {
			t.Fatalf("it is not found: %+v", found)
		}
		return slices.Contains(found[i].Missing,
			"no supervisor: manager knows nothing of it once the machine has restarted, and nobody else starts it then; "+haveOne)
	}
	if !isMissing() {
		t.Error("that nobody starts it with the machine is not said")
	}
	lock, err := d.superviseAlone()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if isMissing() {
		t.Error("it has a supervisor")
	}
}

// A deployment whose state cannot be read is said to be one, and the others are judged all the same.
func TestDoctorGoesOn(t *testing.T) {
	d := testDeployment(t)
	broken := &Deployment{Name: "broken", Dir: t.TempDir()}
	if err := os.WriteFile(broken.path("running.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	var missing string
	judged := false
	for _, f := range Doctor(broken, d) {
		if f.Deployment == "broken" {
			missing = strings.Join(f.Missing, "")
		}
		judged = judged || f.Deployment == d.Name && f.Generation == g.Number
	}
	if !judged || !strings.HasPrefix(missing, "it cannot be judged: read ") {
		t.Errorf("judged: %v; %q", judged, missing)
	}
}

// A process that is killed once a return is confirmed does not make forgotten what was gone back from.
func TestKilledGoingBack(t *testing.T) {
	d := testDeployment(t)
	for _, v := range []string{"1", "2", "3"} {
		d.Environment.Settings = map[string]string{"VERSION": v}
		mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	}
	if _, err := d.RollBack(t.Context(), 0, Revision{}); err != nil {
		t.Fatal(err)
	}
	three := func() *Generation {
		t.Helper()
		g, err := d.Generation(3)
		if err != nil || !g.Withdrawn {
			t.Fatalf("%+v, %v", g, err)
		}
		return g
	}
	asKilled := func() { // right after the pointer has moved
		t.Helper()
		g := three()
		g.Withdrawn = false
		if err := errors.Join(d.writeGeneration(g), d.willWithdraw(4, 2, 3)); err != nil {
			t.Fatal(err)
		}
	}
	asKilled()
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	three()

	asKilled()
	g, err := d.RollBack(t.Context(), 0, Revision{})
	if err != nil || g.Environment.Settings["VERSION"] != "1" {
		t.Errorf("%+v, %v", g, err)
	}
}
