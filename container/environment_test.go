package container

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// writeSecret makes the file of a secret where nobody else may write, in the temporary directory if
// that is such a place.
func writeSecret(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	if judgeDirs(filepath.Join(dir, "secret")) != nil {
		var err error
		if dir, err = os.MkdirTemp("/run", "guixci-test-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	name := filepath.Join(dir, "secret")
	if err := errors.Join(os.Chmod(dir, 0o700), os.WriteFile(name, []byte(text), mode)); err != nil {
		t.Fatal(err)
	}
	return name
}

const odd = "it's \"$HOME\" `x` \\ \n two lines"

func TestSettingsAreReadBack(t *testing.T) {
	e := Environment{Settings: map[string]string{"ODD": odd, "A": "1"}}
	text, err := e.render()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", string(text)+`printf %s "$ODD"`).Output()
	if err != nil || string(out) != odd {
		t.Errorf("shell read %q, %v", out, err)
	}

	e.Format = Scheme
	text, err = e.render()
	if err != nil {
		t.Fatal(err)
	}
	v, err := sexp.Parse(string(text))
	if err != nil || v.String() != sexp.L(sexp.Cons(sexp.String("A"), sexp.String("1")), sexp.Cons(sexp.String("ODD"), sexp.String(odd))).String() {
		t.Errorf("scheme %v, %v", v, err)
	}
}

// What the preflight says about an environment that cannot be handed over.
func TestEnvironmentRefused(t *testing.T) {
	good := writeSecret(t, "x", 0o600)
	open := writeSecret(t, "x", 0o640)
	exposed, shared := writeSecret(t, "x", 0o600), writeSecret(t, "x", 0o600)
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.Chmod(filepath.Dir(exposed), 0o777), os.Chmod(filepath.Dir(shared), 0o777|os.ModeSticky), os.Symlink(exposed, link)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, says string
		e          Environment
	}{
		{"name", "letters, digits", Environment{Settings: map[string]string{"A B": ""}}},
		{"null", "null character", Environment{Settings: map[string]string{"A": "\x00"}}},
		{"format", "unknown format", Environment{Format: "yaml"}},
		{"required", `"A" is not set`, Environment{Required: []string{"A"}}},
		{"mode", "mode 0640", Environment{Secrets: []Secret{{Name: "s", File: open}}}},
		{"in a directory of everybody's", "mode 0777", Environment{Secrets: []Secret{{Name: "s", File: exposed}}}},
		{"by a link into one", "mode 0777", Environment{Secrets: []Secret{{Name: "s", File: link}}}},
		{"missing", "no such file", Environment{Secrets: []Secret{{Name: "s", File: open + "x"}}}},
		{"directory", "not a regular file", Environment{Secrets: []Secret{{Name: "s", File: filepath.Dir(open)}}}},
		{"relative", "absolute", Environment{Secrets: []Secret{{Name: "s", File: "secret"}}}},
		{"climbs", "not a name", Environment{Secrets: []Secret{{Name: "../s", File: good}}}},
		{"twice", "two secrets", Environment{Secrets: []Secret{{Name: "s", File: good}, {Name: "s", File: good}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := testDeployment(t)
			d.Environment = c.e
			_, err := d.Apply(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
			wantOutcome(t, err, Refused)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("does not say %q: %v", c.says, err)
			}
		})
	}
	e := Environment{Required: []string{"s", "t"}, Secrets: []Secret{{Name: "s", File: good}, {Name: "t", File: shared}}}
	d := &Deployment{}
	if err := errors.Join(d.checkEnvironment(e), d.checkPlaces(e)); err != nil {
		t.Error(err)
	}
}

// A running container has the files; nothing else has the secret, and nothing once it stops.
func TestSecretIsNowhereElse(t *testing.T) {
	const hidden = "correct horse battery staple"
	d := testDeployment(t)
	d.Environment = Environment{
		Name: "production", Settings: map[string]string{"PORT": "80"},
		Secrets: []Secret{{Name: "key", File: writeSecret(t, hidden, 0o400), UID: os.Geteuid(), GID: os.Getegid()}},
	}
	g := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	in := checkRuns(t, d, g)

	dir := filepath.Join(in.runDir(), "environment")
	info, err := os.Stat(filepath.Join(dir, "secrets", "key"))
	if err != nil || info.Mode() != 0o400 {
		t.Fatalf("%v, %v", info, err)
	}
	if got := whereIs(t, d.Dir, hidden); len(got) != 1 || got[0] != filepath.Join(dir, "secrets", "key") {
		t.Errorf("the secret is in %q", got)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", in.Launcher.PID))
	if err != nil || bytes.Contains(line, []byte(hidden)) || !bytes.Contains(line, []byte("--expose="+dir+"=/etc/guixci\x00")) {
		t.Errorf("arguments %q, %v", line, err)
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d, in)
	if got := whereIs(t, d.Dir, hidden); len(got) > 0 {
		t.Errorf("the secret is still in %q", got)
	}
	history, err := d.History()
	if err != nil || history[0].Bindings != g.Bindings() || history[0].Environment != "production" {
		t.Errorf("history %+v, %v", history, err)
	}
}

// whereIs returns the files below dir that contain text.
func whereIs(t *testing.T, dir, text string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(name)
		if bytes.Contains(content, []byte(text)) {
			found = append(found, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// The same script in another environment is another generation: it must not
// be taken for done.
func TestBindings(t *testing.T) {
	d := testDeployment(t)
	works := script(t, d, "works", "status-works.sexp")
	one := mustApply(t, d, works)
	d.Environment.Settings = map[string]string{"PORT": "81"}
	two := mustApply(t, d, works)
	if two.Number == one.Number || two.Bindings() == one.Bindings() {
		t.Errorf("generation %d, then %d", one.Number, two.Number)
	}
	again, err := d.Generation(two.Number)
	if err != nil || again.Bindings() != two.Bindings() {
		t.Errorf("bindings do not survive being written down: %v", err)
	}
	d.Schedule.Window = time.Millisecond
	if three := mustApply(t, d, works); three.Number != two.Number {
		t.Error("the schedule is no binding")
	}
}
