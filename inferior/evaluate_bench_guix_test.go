package inferior_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// BenchmarkGuixEvaluate lowers all packages of Guix, in the plain way and in
// ours. Only figures of one run say anything together; .ci/bench-evaluate prints their ratio.
func BenchmarkGuixEvaluate(b *testing.B) {
	guixtest.Require(b)
	roomy := func(b *testing.B) { benchmarkSessions(b, 0) }
	b.Run("warm-up", roomy) // makes the store's state the same for the others
	b.Run("plain", benchmarkPlain)
	b.Run("sessions", roomy)
	b.Run("tight", func(b *testing.B) { benchmarkSessions(b, 1<<30) })
}

// benchmarkSessions lowers in two sessions that may have so much memory each; 0 means the default.
func benchmarkSessions(b *testing.B, memory int64) {
	for b.Loop() {
		began, cpu := time.Now(), childrenTime()
		peak := samplePeak(b)
		jobs, bad := 0, 0
		var first time.Duration
		for job, err := range inferior.Evaluate(b.Context(), inferior.EvaluateOptions{
			Channels: []string{"guix"}, Unsubstitutable: true, Sessions: 2, SessionMemory: memory,
		}) {
			if err != nil {
				b.Fatal(err)
			}
			if jobs++; jobs == 1 {
				first = time.Since(began)
			}
			if job.Err != nil {
				bad++
				b.Logf("%s: %v", job.Name, job.Err)
			}
		}
		report(b, began, cpu, jobs-bad, peak())
		b.ReportMetric(first.Seconds(), "first-s")
		b.ReportMetric(float64(bad), "bad")
	}
}

func benchmarkPlain(b *testing.B) {
	script, err := filepath.Abs("testdata/plain.scm")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		began, cpu := time.Now(), childrenTime()
		peak := samplePeak(b)
		cmd := exec.CommandContext(b.Context(), "guix", "repl", script)
		var out, messages bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &messages
		if err := cmd.Run(); err != nil {
			b.Fatalf("%v\n%s", err, messages.String())
		}
		var jobs int
		if _, err := fmt.Sscan(out.String(), &jobs); err != nil {
			b.Fatal(err)
		}
		report(b, began, cpu, jobs, peak())
	}
}

// report says what was done since began, when our children had used cpu.
func report(b *testing.B, began time.Time, cpu time.Duration, jobs int, peak int64) {
	b.ReportMetric(time.Since(began).Seconds(), "wall-s")
	b.ReportMetric((childrenTime() - cpu).Seconds(), "cpu-s")
	b.ReportMetric(float64(jobs), "jobs")
	b.ReportMetric(float64(peak>>20), "peak-MiB")
}

// childrenTime is the processor time of all our children that have ended.
func childrenTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// samplePeak watches the memory of all children together; peak ends that and
// returns the most that was seen, in bytes.
func samplePeak(b *testing.B) (peak func() int64) {
	stop, ended := make(chan struct{}), make(chan struct{})
	var most atomic.Int64
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				most.Store(max(most.Load(), childrenMemory()))
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-ended
		if most.Load() == 0 {
			b.Error("the memory of children cannot be told")
		}
		return most.Load()
	}
}

// childrenMemory is what our children occupy. Those that end while we look count nothing.
func childrenMemory() (sum int64) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 22 || fields[1] != fmt.Sprint(os.Getpid()) {
			continue
		}
		var pages int64
		if _, err := fmt.Sscan(fields[21], &pages); err == nil {
			sum += pages * int64(os.Getpagesize())
		}
	}
	return sum
}
