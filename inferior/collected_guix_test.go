package inferior

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// What is collected while a session knows of it is made again, and what it has
// returned cannot be collected.
func TestGuixCollected(t *testing.T) {
	guixtest.Require(t)
	dir, err := filepath.Abs("testdata/collected")
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("%d-%d", time.Now().Unix(), os.Getpid())
	e := newEvaluation(EvaluateOptions{
		Session:  Options{Env: append(os.Environ(), "GUIXCI_TEST_NAME="+id)},
		LoadPath: []string{dir},
		Packages: []string{"hello", "broken-" + id, "above-" + id},
	})
	first := listed(t, e, false)
	lowered(t, e, first, "broken-"+id) // makes what is below it, too
	below, err := filepath.Glob("/gnu/store/*-below-" + id + "-1.0.drv")
	if err != nil || len(below) != 1 {
		t.Fatal(below, err)
	}
	first.Close()

	second := listed(t, e, false)
	lowered(t, e, second, "hello") // enough texts for it to know their names
	if v := lowered(t, e, second, "broken-"+id); !strings.Contains(v.String(), "misery") {
		t.Fatalf("broken: %v", v)
	}
	collect(t, below[0])
	above := text(lowered(t, e, second, "above-"+id), "derivation")
	for _, item := range []string{above, below[0]} {
		if _, err := os.Stat(item); err != nil {
			t.Error(err)
		}
		if out, err := exec.Command("guix", "gc", "--delete", item).CombinedOutput(); err == nil {
			t.Errorf("%s is held and could be collected:\n%s", item, out)
		}
	}
	if again := text(lowered(t, e, listed(t, e, true), "above-"+id), "derivation"); again != above {
		t.Errorf("a cautious session makes %s of %s", again, above)
	}
}

// collect deletes an item that nobody holds any more, as soon as the daemon has noticed that.
func collect(t *testing.T, item string) {
	t.Helper()
	for begin := time.Now(); ; {
		out, err := exec.Command("guix", "gc", "--delete", item).CombinedOutput()
		if err == nil {
			return
		}
		if !strings.Contains(string(out), "still alive") || time.Since(begin) > time.Minute {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// listed opens a session that is closed at the end of the test.
func listed(t *testing.T, e *evaluation, cautious bool) *listing {
	t.Helper()
	l, err := e.open(t.Context(), cautious)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// lowered returns what a session says about the package of that name.
func lowered(t *testing.T, e *evaluation, l *listing, name string) sexp.Value {
	t.Helper()
	for i, p := range e.entries {
		if p.name != name {
			continue
		}
		v, err := l.Eval(t.Context(), sexp.L(sexp.Symbol("guixci/lower"), sexp.Int(l.numbers[i]), sexp.String(e.Systems[0])))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	t.Fatalf("%s is not listed", name)
	return nil
}
