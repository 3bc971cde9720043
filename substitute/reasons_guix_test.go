package substitute

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// judge is a program that says of narinfos what (guix narinfo) and (guix pki) find wrong with them.
const judge = `(use-modules (guix narinfo) (guix pki) (gcrypt pk-crypto) (ice-9 match) (ice-9 textual-ports))
(match (command-line)
  ((_ acl . files)
   (let ((acl (canonical-sexp->sexp
               (string->canonical-sexp (call-with-input-file acl get-string-all)))))
     (for-each
      (lambda (file)
        (let* ((narinfo (call-with-input-file file
                          (lambda (port) (read-narinfo port "http://localhost/"))))
               (hash ((@@ (guix narinfo) narinfo-sha256) narinfo))
               (signature (narinfo-signature narinfo)))
          (display
           (cond ((not (and hash signature)) "unsigned")
                 (else (signature-case (signature hash acl)
                         (valid-signature "valid")
                         (invalid-signature "invalid")
                         (hash-mismatch "hash-mismatch")
                         (unauthorized-key "unauthorized")
                         (corrupt-signature "corrupt")))))
          (newline)))
      files))))
`

// theirReasons are Guix's words for ours. What cannot even be read as an s-expression is no signature to it.
var theirReasons = map[Reason][]string{
	0: {"valid"}, Unsigned: {"unsigned"}, IncompleteSigned: {"unsigned"}, CorruptSignature: {"corrupt", "unsigned"},
	UnauthorizedKey: {"unauthorized"}, SignedHashMismatch: {"hash-mismatch"}, InvalidSignature: {"invalid"},
}

// What is wrong with an unauthorized, altered or forged narinfo is the same to Guix and to us.
func TestGuixFindsTheSameReasons(t *testing.T) {
	guixtest.Require(t)
	dir := t.TempDir()
	script := filepath.Join(dir, "judge.scm")
	if err := os.WriteFile(script, []byte(judge), 0o644); err != nil {
		t.Fatal(err)
	}
	acl, err := filepath.Abs("testdata/ed25519/acl")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"repl", script, acl}
	tests := doubtfuls(t)
	names := slices.Sorted(maps.Keys(tests))
	for _, name := range names {
		file := filepath.Join(dir, strings.Map(func(c rune) rune {
			if isAlnum(byte(c)) {
				return c
			}
			return '_'
		}, name))
		if err := os.WriteFile(file, []byte(tests[name].text), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, file)
	}
	cmd := exec.CommandContext(t.Context(), "guix", args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, &said)
	}
	theirs := strings.Fields(string(out))
	if len(theirs) != len(names) {
		t.Fatalf("%d verdicts on %d narinfos:\n%s", len(theirs), len(names), out)
	}
	for i, name := range names {
		if want := theirReasons[tests[name].want]; !slices.Contains(want, theirs[i]) {
			t.Errorf("%s: Guix says %q, we %v (%q)", name, theirs[i], tests[name].want, want)
		}
	}
}
