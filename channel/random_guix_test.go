package channel_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// judgeProgram answers requests (DIRECTORY INTRODUCTION SIGNER END KEYRING (HISTORICAL ...))
// with what "guix git authenticate" makes of them, without starting anew for each.
const judgeProgram = `
(use-modules (git) (guix git) (guix git-authenticate) (guix base16) (guix openpgp)
             (ice-9 match) (ice-9 exceptions))
(define out (current-output-port))
(define (judge directory intro signer end keyring historical)
  (with-exception-handler
   (lambda (e) (list 'refused (object->string e)))
   (lambda ()
     (let ((repository (repository-open directory)))
       (authenticate-repository repository (string->oid intro) (base16-string->bytevector signer)
                                #:end (string->oid end) #:keyring-reference keyring
                                #:historical-authorizations (map base16-string->bytevector historical)
                                #:cache-key (basename directory)))
     '(accepted))
   #:unwind? #t))
(with-output-to-port (current-error-port)
  (lambda ()
    (let loop ((request (read (current-input-port))))
      (unless (eof-object? request)
        (write (apply judge request) out)
        (newline out)
        (force-output out)
        (loop (read (current-input-port)))))))
`

// A judge is a Guix that stays to be asked.
type judge struct {
	in  io.Writer
	out *sexp.Reader
}

func startJudge(t *testing.T) *judge {
	t.Helper()
	home := t.TempDir()
	program := filepath.Join(home, "judge.scm")
	if err := os.WriteFile(program, []byte(judgeProgram), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "guix", "repl", "--", program)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	said := &strings.Builder{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("guix repl: %v\n%s", err, said)
		}
	})
	return &judge{in, sexp.NewReader(out)}
}

// ask returns Guix's verdict of a scene.
func (j *judge) ask(t testing.TB, s *scene) (accepted bool, said string) {
	t.Helper()
	var historical []string
	for _, f := range s.historical {
		historical = append(historical, fmt.Sprintf("%x", f[:]))
	}
	request := sexp.L(sexp.String(s.repo.Dir), sexp.String(s.intro.Commit), sexp.String(fmt.Sprintf("%x", s.intro.Signer[:])),
		sexp.String(s.target), sexp.String(s.keyring), sexp.Strings(historical...))
	if _, err := fmt.Fprintln(j.in, request); err != nil {
		t.Fatal(err)
	}
	answer, err := j.out.Next()
	if err != nil {
		t.Fatalf("Guix does not answer: %v", err)
	}
	_, accepted = sexp.Tagged(answer, "accepted")
	return accepted, answer.String()
}

// TestGuixAgreesOnRandom compares the verdicts of random histories. A disagreement is
// shrunk to a small history before it is reported.
func TestGuixAgreesOnRandom(t *testing.T) {
	guixtest.Require(t)
	const histories = 520
	j := startJudge(t)
	disagree := func(p plan) bool {
		s := p.make(t)
		accepted, _ := j.ask(t, s)
		return accepted != (s.ours(t) == nil)
	}
	verdicts := map[string]int{}
	for seed := range uint64(histories) {
		p := newPlan(rand.New(rand.NewPCG(seed, 2)))
		s := p.make(t)
		accepted, said := j.ask(t, s)
		ours := s.ours(t)
		verdicts[verdictOf(ours)]++
		if accepted == (ours == nil) {
			continue
		}
		small := shrink(p, disagree)
		t.Fatalf("seed %d: we said: %v\nGuix: %s\nthe smallest such history: %+v", seed, ours, said, small)
	}
	t.Logf("%d histories: %v", histories, verdicts)
}

// TestJudgeIsGuix checks that asking the procedures gives the verdicts of the command, which
// TestGuixAgrees asks.
func TestJudgeIsGuix(t *testing.T) {
	guixtest.Require(t)
	j := startJudge(t)
	for _, story := range stories {
		s := newScene(t, story)
		accepted, said := j.ask(t, s)
		if want := (story.rule == "") != (story.differs != ""); accepted != want {
			t.Errorf("%s: the judge says %s", story.name, said)
		}
	}
}
