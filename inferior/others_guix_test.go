package inferior_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// others are modules that nobody wrote for us: some of Guix's own, under other names.
var others = []string{"calcurse", "datamash", "figlet", "less", "parallel", "rsync", "screen"}

// othersFiles are the files of a channel that has them.
func othersFiles(t *testing.T) map[string]string {
	t.Helper()
	s := start(t, inferior.Options{})
	files := map[string]string{".guix-channel": channeltest.Metadata("")}
	for _, name := range others {
		v, err := s.Eval(t.Context(), expr(t, fmt.Sprintf("(search-path %%load-path %q)", "gnu/packages/"+name+".scm")))
		if err != nil {
			t.Fatal(err)
		}
		file, _ := sexp.Text(v)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		old, renamed := "(define-module (gnu packages "+name+")", "(define-module (others "+name+")"
		if !bytes.Contains(text, []byte(old)) {
			t.Fatalf("%s has no %q", file, old)
		}
		files["others/"+name+".scm"] = strings.Replace(string(text), old, renamed, 1)
	}
	return files
}

// A channel of real modules that match its Guix pulls, and all its packages become the very
// derivations that they are in Guix. With a name that this Guix does not know it is red, and
// says which name, and where.
func TestGuixPullOthers(t *testing.T) {
	guixtest.Require(t)
	set := sampleSet(t)
	repo, intro, err := channeltest.New(filepath.Join(t.TempDir(), "others.git"), set.Alice, othersFiles(t))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := (channel.List{set.Channels()[0], repo.Channel("others", intro)}).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	p := puller(t)
	profile, err := p.Pull(t.Context(), "others", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	session := inferior.Options{Program: profile.Guix(), Stderr: testLog{t}}
	ours := derivations(t, inferior.EvaluateOptions{Session: session, Channels: []string{"others"}, Unsubstitutable: true})
	theirs := derivations(t, inferior.EvaluateOptions{Packages: slices.Sorted(maps.Keys(ours))})
	if diff := cmp.Diff(theirs, ours); diff != "" || len(ours) < 20 {
		t.Errorf("%d packages (-guix +channel):\n%s", len(ours), diff)
	}

	if _, err := repo.Commit("master", "Use what is to come.", map[string]string{
		"others/less.scm": strings.Replace(othersFiles(t)["others/less.scm"], "(list ncurses)", "(list ncurses-7)", 1)}, set.Alice); err != nil {
		t.Fatal(err)
	}
	_, err = p.Pull(t.Context(), "newer", b.Bytes())
	var failed *inferior.PullError
	if !errors.As(err, &failed) || failed.Channel != "others" || failed.Message != "Unbound variable: ncurses-7" ||
		failed.Location.File != "others/less.scm" || failed.Location.Line == 0 || failed.Module != "(others less)" ||
		failed.Cause != inferior.CauseUnboundVariable || failed.Hint == "" {
		t.Errorf("%v: %+v", err, failed)
	}
}

// derivations are those of all jobs, which must be good, by NAME@VERSION.
func derivations(t *testing.T, o inferior.EvaluateOptions) map[string]string {
	t.Helper()
	all := map[string]string{}
	for job, err := range inferior.Evaluate(t.Context(), o) {
		if err != nil {
			t.Fatal(err)
		}
		if job.Err != nil {
			t.Errorf("%s: %s", job.Name, job.Err.Message())
		}
		all[job.Package+"@"+job.Version] = job.Derivation
	}
	return all
}
