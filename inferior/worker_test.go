package inferior_test

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/inferiortest"
	"github.com/genenetwork/guixci/inferior/sexp"
)

const growers = 300

// scriptedGrowth stands in for an inferior whose memory grows with each package, by
// little; with the one called greedy without end. A package's derivation names the process.
func scriptedGrowth(_ []string, stdin io.Reader, stdout, _ io.Writer) int {
	var kept [][]byte
	grow := func(size int) {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(i)
		}
		kept = append(kept, b)
	}
	script := inferiortest.Script{Answer: func(expr sexp.Value) string {
		if _, ok := sexp.Tagged(expr, "guixci/enumerate"); ok {
			return inferiortest.Value(growingPackages())
		}
		if _, ok := sexp.Tagged(expr, "%current-system"); ok {
			return inferiortest.Value(sexp.String("x86_64-linux"))
		}
		rest, ok := sexp.Tagged(expr, "guixci/lower")
		if !ok {
			return inferiortest.Value(sexp.Bool(true))
		}
		for rest[0] == sexp.Value(sexp.Int(growers/2)) {
			grow(16 << 20)
		}
		grow(1 << 20)
		job, err := sexp.Parse(fmt.Sprintf(`((derivation "/gnu/store/%d.drv") (substitutable #t))`, os.Getpid()))
		if err != nil {
			panic(err)
		}
		return inferiortest.Value(job)
	}}
	if err := script.Serve(stdin, stdout); err != nil {
		return 1
	}
	runtime.KeepAlive(kept)
	return 0
}

func growingPackages() sexp.Value {
	list := sexp.L()
	for i := range growers {
		name := fmt.Sprintf("grower-%d", i)
		if i == growers/2 {
			name = "greedy"
		}
		file := fmt.Sprintf("packages/%d.scm", i/10)
		list.Items = append(list.Items, sexp.L(sexp.String(""), sexp.String(name), sexp.String(""), sexp.String(name), sexp.String("1"),
			sexp.String(file), sexp.Int(i+1), sexp.Int(0)))
	}
	return list
}

// Sessions side by side do each package once, are replaced when they have
// grown, and one greedy package costs itself only.
func TestEvaluateSessions(t *testing.T) {
	seen := map[string]inferior.Job{}
	processes := map[string]bool{}
	for job, err := range inferior.Evaluate(t.Context(), inferior.EvaluateOptions{
		Session:       inferior.Options{Program: inferiortest.Path(t, "grows"), StopTimeout: time.Second},
		Channels:      []string{"mine"},
		Sessions:      2,
		SessionMemory: 100 << 20,
	}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := seen[job.Name]; twice {
			t.Errorf("%s comes twice", job.Name)
		}
		seen[job.Name] = job
		if job.Err == nil {
			processes[job.Derivation] = true
		} else if job.Package != "greedy" || job.Err.Key != "package-memory" || !strings.Contains(job.Err.Message(), "at most 200 allowed") {
			t.Errorf("%s: %v", job.Name, job.Err)
		}
	}
	if greedy := seen["greedy.x86_64-linux"]; len(seen) != growers || greedy.Err == nil {
		t.Errorf("%d jobs, %+v", len(seen), greedy)
	}
	if len(processes) < 3 {
		t.Errorf("%d sessions did all, though each may grow by less than 100 packages", len(processes))
	}
}
