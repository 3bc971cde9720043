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
	list := sexp.L(sexp.Int(growers))
	for i := range growers {
		name := fmt.Sprintf("grower-%d", i)
		if i == growers/2 {
			name = "greedy"
		}
		file := fmt.Sprintf("packages/%d.scm", i/10)
		list.Items = append(list.Items, sexp.L(sexp.String(name), sexp.String("1"), sexp.Int(i+1), sexp.Int(0), sexp.String(file)))
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
		} else if job.Package != "greedy" || job.Err.Key != "package-memory" || !strings.Contains(job.Err.Message(), "at most 200 MiB allowed") {
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

// scriptedStaleness stands in for an inferior that finds the store collected at every
// hundredth package, unless it is cautious.
func scriptedStaleness(_ []string, stdin io.Reader, stdout, _ io.Writer) int {
	cautious := false
	script := inferiortest.Script{Answer: func(expr sexp.Value) string {
		if _, ok := sexp.Tagged(expr, "guixci/enumerate"); ok {
			return inferiortest.Value(growingPackages())
		}
		if _, ok := sexp.Tagged(expr, "%current-system"); ok {
			return inferiortest.Value(sexp.String("x86_64-linux"))
		}
		if rest, ok := sexp.Tagged(expr, "set!"); ok {
			cautious = sexp.True(rest[1])
		}
		rest, ok := sexp.Tagged(expr, "guixci/lower")
		if !ok {
			return inferiortest.Value(sexp.Bool(true))
		}
		if n := rest[0].(sexp.Int); n%100 == 99 && !cautious {
			return inferiortest.Value(sexp.L(sexp.L(sexp.Symbol("stale"))))
		}
		job, err := sexp.Parse(fmt.Sprintf(`((derivation "/gnu/store/%d.drv") (substitutable #t))`, os.Getpid()))
		if err != nil {
			panic(err)
		}
		return inferiortest.Value(job)
	}}
	if err := script.Serve(stdin, stdout); err != nil {
		return 1
	}
	return 0
}

// A session in which something is missing is replaced by one that counts on nothing.
func TestEvaluateStale(t *testing.T) {
	seen, processes := map[string]bool{}, map[string]bool{}
	for job, err := range inferior.Evaluate(t.Context(), inferior.EvaluateOptions{
		Session:  inferior.Options{Program: inferiortest.Path(t, "stale")},
		Channels: []string{"mine"},
	}) {
		if err != nil || job.Err != nil || seen[job.Name] {
			t.Fatal(err, job)
		}
		seen[job.Name] = true
		processes[job.Derivation] = true
	}
	if len(seen) != growers || len(processes) != 2 {
		t.Errorf("%d jobs by %d sessions", len(seen), len(processes))
	}
}
