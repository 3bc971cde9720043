package nar

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

func guix(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "guix", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("guix %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// What we restore, "guix hash" finds to have the hash of the archive; what "guix
// archive --extract" restores of our archives, we dump to the same bytes.
func TestGuixReadsArchives(t *testing.T) {
	guixtest.Require(t)
	for _, a := range archives {
		if a.name == notText {
			continue // beyond what commands written in Guile can name
		}
		t.Run(a.name, func(t *testing.T) {
			sum := sha256.Sum256([]byte(a.bytes))
			got := guix(t, nil, "hash", "--serializer=nar", "--format=hex", restored(t, []byte(a.bytes)))
			if got != hex.EncodeToString(sum[:]) {
				t.Errorf("guix hash: %s, want %x", got, sum)
			}
			path := filepath.Join(t.TempDir(), "item")
			guix(t, []byte(a.bytes), "archive", "--extract="+path)
			if string(dumped(t, path)) != a.bytes {
				t.Error("the archive of what Guix extracted differs")
			}
		})
	}
}

// The items of a real store have the archives that their hashes were taken of:
// a tree of ours that Guix adds, and some that came otherwise.
func TestGuixStoreItems(t *testing.T) {
	guixtest.Require(t)
	script := filepath.Join(t.TempDir(), "items.scm")
	err := os.WriteFile(script, []byte(`(use-modules (guix store) (guix base16) (ice-9 ftw) (srfi srfi-1))
(with-store store
  (define (some-items n)
    (let loop ((names (scandir "/gnu/store" (lambda (name) (string-index name #\-)))) (n n))
      (if (or (zero? n) (null? names))
          '()
          (let ((item (string-append "/gnu/store/" (car names))))
            (if (valid-path? store item)
                (cons item (loop (cdr names) (- n 1)))
                (loop (cdr names) n))))))
  (for-each (lambda (item)
              (format #t "~a ~a~%" item
                      (bytevector->base16-string (query-path-hash store item))))
            (cons (add-to-store store "guixci-nar-tree" #t "sha256" (second (command-line)))
                  (some-items 50))))
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	tree := restored(t, []byte(archives[5].bytes))
	lines := strings.Split(guix(t, nil, "repl", script, tree), "\n")
	for i, line := range lines {
		path, want, _ := strings.Cut(line, " ")
		sum := sha256.New()
		if err := Dump(sum, path); err != nil {
			t.Error(err)
			continue
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != want {
			t.Errorf("%s: hash %s, Guix has %s", path, got, want)
		}
		if i == 0 && string(dumped(t, path)) != archives[5].bytes {
			t.Error("the tree that Guix added has another archive than ours")
		}
	}
	if len(lines) < 2 {
		t.Errorf("items %q: too few", lines)
	}
}
