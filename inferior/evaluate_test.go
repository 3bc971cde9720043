package inferior_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/inferiortest"
	"github.com/genenetwork/guixci/inferior/sexp"
)

// scriptedEvaluation stands in for an inferior that has loaded evaluate.scm. Its packages are
// good, thrower, looper, killer, one that prints rubbish, unsupported, private and again a good one.
func scriptedEvaluation(_ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	done := make(chan int, 1)
	go func() { // the killer ends it from inside
		script := inferiortest.Script{Answer: func(expr sexp.Value) string { return evaluationReply(expr, stderr, done) }}
		script.Serve(stdin, stdout)
		done <- 0
	}()
	return <-done
}

var scriptedPackages = []string{"good", "thrower", "looper", "killer", "babbler", "unsupported", "private", "last"}

func evaluationReply(expr sexp.Value, stderr io.Writer, done chan<- int) string {
	if _, ok := sexp.Tagged(expr, "guixci/enumerate"); ok {
		list := sexp.L(sexp.Int(len(scriptedPackages)))
		for i, name := range scriptedPackages {
			list.Items = append(list.Items, sexp.L(sexp.String(name), sexp.String("1.0"), sexp.Int(10*i+1), sexp.Int(2), sexp.String("my/packages.scm")))
		}
		return inferiortest.Value(list)
	}
	if _, ok := sexp.Tagged(expr, "%current-system"); ok {
		return inferiortest.Value(sexp.String("x86_64-linux"))
	}
	rest, ok := sexp.Tagged(expr, "guixci/lower")
	if !ok {
		return inferiortest.Value(sexp.Bool(true)) // a definition
	}
	i, _ := rest[0].(sexp.Int)
	switch name := scriptedPackages[i]; name {
	case "looper":
		return forEver()
	case "babbler":
		return "and so on )"
	case "killer":
		fmt.Fprintln(stderr, "Too many heap sections")
		done <- 6
		return forEver()
	default:
		v, err := sexp.Parse(scriptedJobs[name])
		if err != nil {
			panic(err)
		}
		return inferiortest.Value(v)
	}
}

// forEver never answers, until the process ends.
func forEver() string {
	for {
		syscall.Pause()
	}
}

var scriptedJobs = map[string]string{
	"good": `((synopsis "Good") (home-page "https://example.org") (systems "x86_64-linux" "i586-gnu") (licenses "GPL 3+" "Expat") (base #t) (derivation "/gnu/store/g.drv")
	  (outputs ("doc" . "/gnu/store/g-doc") ("out" . "/gnu/store/g")) (nix-name "good-1.0") (substitutable #t) (always #f) (max-silent-time 60) (timeout 120))`,
	"last": `((licenses) (derivation "/gnu/store/l.drv") (outputs ("out" . "/gnu/store/l")) (nix-name "last-1.0") (substitutable #t) (always #f) (max-silent-time 1) (timeout 2))`,
	"thrower": `((licenses) (exception (arguments unbound-variable (value #f) (value "Unbound variable: ~S") (value (x)) (value #f))
	  (stack (f ("my/packages.scm" 11 4)))))`,
	"unsupported": `((licenses) (unsupported))`,
	"private":     `((licenses) (derivation "/gnu/store/p.drv") (outputs ("out" . "/gnu/store/p")) (nix-name "p") (substitutable #f) (always #f) (max-silent-time 1) (timeout 2))`,
}

func scriptedOptions(t *testing.T) inferior.EvaluateOptions {
	return inferior.EvaluateOptions{
		Session:        inferior.Options{Program: inferiortest.Path(t, "evaluate"), StopTimeout: time.Second},
		Channels:       []string{"mine"},
		PackageTimeout: 300 * time.Millisecond,
	}
}

// patiently evaluates what o says, once more with twice the PackageTimeout as long as
// others were late than those who never end: how fast a machine is nobody knows. It returns the
// names of packages in the order in which they came, the jobs by package, and the time they had.
func patiently(t *testing.T, o inferior.EvaluateOptions, endless string) (names []string, jobs map[string]inferior.Job, limit time.Duration) {
	t.Helper()
	for ; ; o.PackageTimeout *= 2 {
		names, jobs = nil, map[string]inferior.Job{}
		late := false
		for job, err := range inferior.Evaluate(t.Context(), o) {
			if err != nil {
				t.Fatal(err)
			}
			if _, twice := jobs[job.Package]; twice {
				t.Errorf("%s comes twice", job.Package)
			}
			names = append(names, job.Package)
			jobs[job.Package] = job
			late = late || job.Err != nil && job.Err.Key == "package-timeout" && job.Package != endless
		}
		if !late || o.PackageTimeout > 2*time.Minute {
			return names, jobs, o.PackageTimeout
		}
	}
}

// What loops or kills its inferior costs itself only.
func TestEvaluate(t *testing.T) {
	names, jobs, limit := patiently(t, scriptedOptions(t), "looper")
	if want := []string{"good", "thrower", "looper", "killer", "babbler", "last"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	good := inferior.Job{
		Name: "base.good.x86_64-linux", Key: "base.good.x86_64-linux", System: "x86_64-linux", Derivation: "/gnu/store/g.drv",
		Outputs: map[string]string{"out": "/gnu/store/g", "doc": "/gnu/store/g-doc"}, NixName: "good-1.0", Package: "good", Version: "1.0",
		Location: inferior.Location{File: "my/packages.scm", Line: 1, Column: 2}, Synopsis: "Good", License: "GPL 3+, Expat",
		HomePage: "https://example.org", SupportedSystems: []string{"x86_64-linux", "i586-gnu"}, MaxSilentTime: time.Minute, Timeout: 2 * time.Minute, Substitutable: true,
	}
	if diff := cmp.Diff(good, jobs["good"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{
		"thrower": "unbound-variable: Unbound variable: x",
		"looper":  fmt.Sprintf("package-timeout: not lowered within %v", limit),
		"babbler": "session-ended: inferior session broke: reply \"and\" is neither values nor an exception (signal: killed)",
		"killer":  "session-ended: inferior session broke: the inferior ended (exit status 6)\n  Too many heap sections",
	} {
		if err := jobs[name].Err; err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if where, ok := jobs["thrower"].Err.Where(); !ok || where != (inferior.Frame{Procedure: "f", File: "my/packages.scm", Line: 12, Column: 4}) {
		t.Errorf("thrown at %+v", where)
	}
}

func TestEvaluateUnsubstitutable(t *testing.T) {
	o := scriptedOptions(t)
	o.Unsubstitutable = true
	_, jobs, _ := patiently(t, o, "looper")
	if job, ok := jobs["private"]; !ok || job.Err != nil || job.Substitutable {
		t.Errorf("the package that is not substitutable: %+v", job)
	}
}

func TestEvaluateStopsEarly(t *testing.T) {
	n := 0
	for _, err := range inferior.Evaluate(t.Context(), scriptedOptions(t)) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d jobs", n)
	}
}

func TestEvaluateCannotStart(t *testing.T) {
	o := scriptedOptions(t)
	o.Session.Program = inferiortest.Path(t, "dies")
	var last error
	for job, err := range inferior.Evaluate(t.Context(), o) {
		if err == nil {
			t.Errorf("%+v", job)
		}
		last = err
	}
	if !errors.Is(last, inferior.ErrClosed) {
		t.Errorf("%v, want the session that ended", last)
	}
}
