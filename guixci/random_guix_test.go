package guixci_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/internal/samples"
)

// tinyPackages are so many packages, each of which adds its name to a file as the last thing it
// does. Every fifth needs the one before it, every seventh fails.
const tinyPackages = `(define-module (sample packages)
  #:use-module (guix build-system trivial)
  #:use-module (guix gexp)
  #:use-module (guix packages))

(define (tiny n before)
  (package
    (name (string-append "tiny-" (number->string n)))
    (version "1")
    (source #f)
    (build-system trivial-build-system)
    (arguments
     (list #:builder
           #~(begin
               (list #$@(if (and before (zero? (modulo n 5))) (list before) '()))
               (let ((port (open-file #$TALLY "a")))
                 (display #$(string-append name "\n") port)
                 (close-port port))
               #$(if (zero? (modulo n 7)) #~(exit 1) #~(mkdir #$output)))))
    (home-page #f) (synopsis #f) (description #f) (license #f)))

(define all
  (let loop ((n 1) (made '()))
    (if (> n COUNT)
        made
        (loop (+ n 1)
              (cons (tiny n (and (pair? made) (car made))) made)))))

(define-public sample-salt SALT)
(define m (current-module))
(for-each (lambda (p)
            (let ((name (string->symbol (package-name p))))
              (module-define! m name p)
              (module-export! m (list name))))
          all)
`

// Killed at twenty random instants, one after the other, a run ends with the answers of an
// undisturbed one, and with as many builds.
func TestKilledAtRandom(t *testing.T) {
	guixtest.Require(t)
	const packages, kills = 25, 20
	dir := t.TempDir()
	set, err := samples.Make(filepath.Join(dir, "git"), "killed at random")
	if err != nil {
		t.Fatal(err)
	}
	tally := tallyFile(t, dir)
	text := strings.NewReplacer("TALLY", fmt.Sprintf("%q", tally), "COUNT", fmt.Sprint(packages),
		"SALT", fmt.Sprintf("%q", dir)).Replace(tinyPackages)
	if _, err := set.Repo(samples.Channel).Commit("master", "Many packages.", map[string]string{"sample/packages.scm": text}, set.Alice); err != nil {
		t.Fatal(err)
	}
	project := set.Repo(samples.Project)
	if _, err := project.Commit("master", "No packages.", map[string]string{".guix/modules/sample-project.scm": "(define-module (sample-project))\n"}, set.Alice); err != nil {
		t.Fatal(err)
	}
	spec := guixci.Specification{Name: "sample", Channels: set.Channels()}
	form, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "spec.json"), form, 0o600); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, seed))
	for i := range kills {
		n, last := 0, 1+random.IntN(2*packages-5)
		if pulled, _ := filepath.Glob(filepath.Join(dir, "state", "profiles", "*.pulled")); len(pulled) == 0 {
			last = 1 + random.IntN(120) // what guix pull says
		}
		if _, inTime := killed(t, dir, false, func(line) bool { n++; return n >= last }); !inTime {
			if t.Logf("the end came before kill %d", i+1); i < 5 {
				t.Error("it was hardly killed")
			}
			break
		}
	}
	p, err := guixci.Open(filepath.Join(dir, "state"), guixci.Options{Slots: 2, Log: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r, err := p.Run(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	checkTinies(t, p, r, packages)
	checkTally(t, p, r, tally)
	noneStarted(t, p)
	for _, pattern := range []string{"checkouts/.new-*", "profiles/.new-*", "systems/*"} {
		if left, _ := filepath.Glob(filepath.Join(dir, "state", pattern)); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}

// tallyFile makes a file that builders can write to.
func tallyFile(t *testing.T, dir string) string {
	t.Helper()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tally := filepath.Join(dir, "tally")
	if err := os.WriteFile(tally, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tally, 0o666); err != nil {
		t.Fatal(err)
	}
	return tally
}

// checkTinies compares the answers with those that there must be.
func checkTinies(t *testing.T, p *guixci.Pipeline, r *guixci.Report, packages int) {
	t.Helper()
	want := map[string]string{}
	for n := 1; n <= packages; n++ {
		status := record.Succeeded
		if n%7 == 0 {
			status = record.Failed
		} else if n%5 == 0 && (n-1)%7 == 0 {
			status = record.DependencyFailed
		}
		want[fmt.Sprintf("tiny-%d", n)] = status.String()
	}
	if diff := cmp.Diff(want, statuses(r)); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

// checkTally counts builds: what was finished was so once, and what was begun again
// had been interrupted.
func checkTally(t *testing.T, p *guixci.Pipeline, r *guixci.Report, tally string) {
	t.Helper()
	text, err := os.ReadFile(tally)
	if err != nil {
		t.Fatal(err)
	}
	built := map[string]int{}
	for _, name := range strings.Fields(string(text)) {
		built[name]++
	}
	total := 0
	for _, j := range r.Jobs {
		done, interrupted := 0, 0
		for b, err := range p.Record().Builds(j.Derivation) {
			switch {
			case err != nil:
				t.Fatal(err)
			case b.Cause == record.Interrupted:
				interrupted++
			case b.Status == record.Succeeded || b.Status == record.Failed:
				done++
			}
		}
		name, _, _ := strings.Cut(j.Name, ".")
		wanted := 1
		if j.Status == record.DependencyFailed {
			wanted = 0
		}
		if done != wanted || built[name] < wanted || built[name] > wanted+interrupted {
			t.Errorf("%s: recorded as built %d times and interrupted %d times; its builder ended %d times", store.StorePath(j.Derivation).Name(), done, interrupted, built[name])
		}
		total += built[name]
	}
	t.Logf("%d builds of %d jobs", total, len(r.Jobs))
}
