package inferior_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

const system = "x86_64-linux"

// smallGuix is the Guix at hand with few packages, targets and tests of systems.
func smallGuix(t *testing.T) string {
	t.Helper()
	file, err := filepath.Abs("testdata/small/guix")
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// modesDirectory is a checkout of a channel with what some modes look for.
func modesDirectory(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("testdata/modes")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// onBuild are options for field "build" of a specification.
func onBuild(t *testing.T, guix, build string, systems ...string) inferior.EvaluateOptions {
	t.Helper()
	dir := modesDirectory(t)
	o := inferior.EvaluateOptions{
		Session:   inferior.Options{Program: guix, Stderr: testLog{t}},
		Systems:   systems,
		Checkouts: []inferior.Checkout{{Name: "guix", Directory: dir, Commit: strings.Repeat("ab", 20)}},
	}
	if strings.HasPrefix(build, "(custom") {
		o.LoadPath = []string{dir}
	}
	if err := o.AddBuild(expr(t, build)); err != nil {
		t.Fatal(err)
	}
	return o
}

// cuirassJobs returns what (gnu ci) itself makes of the field, sorted and without repetitions.
func cuirassJobs(t *testing.T, guix, build string, systems ...string) []string {
	t.Helper()
	s := start(t, inferior.Options{Program: guix, Stderr: testLog{t}})
	for _, form := range []string{
		`(use-modules (gnu ci) (guix store))`,
		`(define (text x) (if (symbol? x) (symbol->string x) x))`,
		`(define store (open-connection))`,
	} {
		if _, err := s.Eval(t.Context(), expr(t, form)); err != nil {
			t.Fatal(err)
		}
	}
	path := sexp.L(sexp.Symbol("set!"), sexp.Symbol("%load-path"),
		sexp.L(sexp.Symbol("cons"), sexp.String(modesDirectory(t)), sexp.Symbol("%load-path")))
	if _, err := s.Eval(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	pair := func(key string, v ...sexp.Value) sexp.Value {
		return sexp.L(append([]sexp.Value{sexp.Symbol(key)}, v...)...)
	}
	channel := sexp.L(sexp.Symbol("repository"), pair("version", sexp.Int(0)), pair("url", sexp.String(modesDirectory(t))),
		pair("branch", sexp.String("master")), pair("commit", sexp.String(strings.Repeat("ab", 20))), pair("name", sexp.Symbol("guix")))
	arguments := sexp.L(pair("channels", channel), pair("systems", sexp.Strings(systems...).Items...),
		sexp.Cons(sexp.Symbol("subset"), expr(t, build)))
	call := sexp.L(sexp.Symbol("map"), expr(t, `(lambda (job)
	  (list (text (assq-ref job #:job-name)) (assq-ref job #:derivation) (assq-ref job #:nix-name)
	        (assq-ref job #:max-silent-time) (assq-ref job #:timeout)))`),
		sexp.L(sexp.Symbol("cuirass-jobs"), sexp.Symbol("store"), sexp.Quote(arguments)))
	v, err := s.Eval(t.Context(), call)
	if err != nil {
		t.Fatal(err)
	}
	items, _ := sexp.Items(v)
	jobs := make([]string, 0, len(items))
	for _, item := range items {
		jobs = append(jobs, item.String())
	}
	slices.Sort(jobs)
	return slices.Compact(jobs)
}

// ourJobs returns the same of what Evaluate makes, and checks that keys differ.
func ourJobs(t *testing.T, o inferior.EvaluateOptions) []string {
	t.Helper()
	var jobs []string
	keys := map[string]bool{}
	for job, err := range inferior.Evaluate(t.Context(), o) {
		if err != nil || job.Err != nil {
			t.Fatal(err, job.Name, job.Err)
		}
		if key := job.Key + " " + job.System; keys[key] {
			t.Errorf("two jobs are %s", key)
		} else {
			keys[key] = true
		}
		jobs = append(jobs, fmt.Sprintf("(%q %q %q %d %d)", job.Name, job.Derivation, job.NixName,
			int(job.MaxSilentTime.Seconds()), int(job.Timeout.Seconds())))
	}
	slices.Sort(jobs)
	return slices.Compact(jobs)
}

// What we enumerate is what (gnu ci) does, in every mode.
func TestGuixModesAsCuirass(t *testing.T) {
	guixtest.Require(t)
	for _, build := range []string{
		`hello`,
		`(packages "hello" "guile@3.0" "guile@2.2" "gcc-toolchain")`,
		`(manifests "manifest.scm")`,
		`(custom (my jobs))`,
		`guix`,
		`tarball`,
	} {
		t.Run(build, func(t *testing.T) {
			systems := []string{system}
			if build == "hello" {
				systems = append(systems, "aarch64-linux")
			}
			compareWithCuirass(t, "", build, systems...)
		})
	}
}

// The modes that make very many jobs, where there is less of everything. TestGuixModesInFull
// has all of it.
func TestGuixBigModesAsCuirass(t *testing.T) {
	guixtest.Require(t)
	for build, some := range map[string]string{
		`core`:         "aarch64-linux-gnu.hello.x86_64-linux",
		`all`:          "tunable.x86_64-linux.skylake",
		`images`:       "pine64-barebones-raw-image.x86_64-linux",
		`system-tests`: "test.",
	} {
		t.Run(build, func(t *testing.T) {
			if build == "all" {
				t.Setenv("GUIXCI_TEST_FEW_PACKAGES", "yes")
			}
			jobs := compareWithCuirass(t, smallGuix(t), build, system)
			if !strings.Contains(strings.Join(jobs, "\n"), some) {
				t.Errorf("%s is not among %d jobs", some, len(jobs))
			}
		})
	}
}

// compareWithCuirass checks that jobs are the same, and returns them.
func compareWithCuirass(t *testing.T, guix, build string, systems ...string) []string {
	t.Helper()
	began := time.Now()
	ours := ourJobs(t, onBuild(t, guix, build, systems...))
	t.Logf("%d jobs in %v", len(ours), time.Since(began))
	began = time.Now()
	theirs := cuirassJobs(t, guix, build, systems...)
	t.Logf("%d of (gnu ci) in %v", len(theirs), time.Since(began))
	if diff := cmp.Diff(theirs, ours); diff != "" || len(ours) == 0 {
		t.Errorf("(-cuirass +ours):\n%s", diff)
	}
	return ours
}

// One bad entry of a manifest is one bad job, and so is a bad manifest.
func TestGuixManifestsBroken(t *testing.T) {
	guixtest.Require(t)
	o := onBuild(t, "", `(manifests "bad-entry.scm" "bad-manifest.scm" "no-such.scm")`, system)
	o.Modules = []string{"(no such module)"}
	var got []string
	for job, err := range inferior.Evaluate(t.Context(), o) {
		if err != nil {
			t.Fatal(err)
		}
		verdict := "good"
		if job.Err != nil {
			verdict = job.Err.Key
		}
		got = append(got, job.Name+" "+verdict)
	}
	want := []string{"hello-2.12.2 good", "throws-2.12.2 wrong-type-arg", "bad-manifest.scm.x86_64-linux quit",
		"no-such.scm.x86_64-linux misc-error", "(no such module).x86_64-linux misc-error"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Packages of one name have one Name and different keys.
func TestGuixEvaluateTwins(t *testing.T) {
	guixtest.Require(t)
	var got []string
	for job, err := range inferior.Evaluate(t.Context(), onPackages(t, "twin@1.9", "twin@1.10", "hello")) {
		if err != nil || job.Err != nil {
			t.Fatal(err, job.Err)
		}
		if !strings.HasPrefix(job.Key, job.Package) || job.Name != job.Package+"."+system {
			t.Errorf("%+v", job)
		}
		got = append(got, job.Key+" "+job.Version)
	}
	slices.Sort(got)
	want := []string{"hello.x86_64-linux 2.12.2", "twin.x86_64-linux 1.10", "twin@1.9.x86_64-linux 1.9"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
