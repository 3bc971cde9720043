package build

import (
	"context"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"
)

// instant is a builder that does nothing, so that only the scheduler is measured.
type instant struct{ *fake }

func (instant) Build(context.Context, StorePath, Limits, io.Writer) error { return nil }

// shapes are graphs of n derivations below jobs.
var shapes = map[string]func(n int) (lines, jobs []string){
	"wide": func(n int) (lines, jobs []string) {
		for i := range n {
			lines = append(lines, fmt.Sprintf("n%d:", i))
			jobs = append(jobs, fmt.Sprintf("n%d", i))
		}
		return lines, jobs
	},
	"deep": func(n int) (lines, jobs []string) {
		lines = append(lines, "n0:")
		for i := 1; i < n; i++ {
			lines = append(lines, fmt.Sprintf("n%d: n%d", i, i-1))
		}
		return lines, []string{fmt.Sprintf("n%d", n-1)}
	},
	// Layers of ten, each of which needs the whole layer below, as in a distribution.
	"diamond": func(n int) (lines, jobs []string) {
		const width = 10
		for i := range n {
			line := fmt.Sprintf("n%d:", i)
			for j := range width {
				if below := i/width*width - width + j; below >= 0 {
					line += fmt.Sprintf(" n%d", below)
				}
			}
			lines = append(lines, line)
			if i >= n-width {
				jobs = append(jobs, fmt.Sprintf("n%d", i))
			}
		}
		return lines, jobs
	},
}

func BenchmarkScheduler(b *testing.B) {
	for shape, make := range shapes {
		for _, n := range []int{1000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", shape, n), func(b *testing.B) {
				lines, jobs := make(n)
				var cpu time.Duration
				for b.Loop() {
					b.StopTimer()
					f := newFake(b, lines...)
					done := 0
					s := &Scheduler{Store: f, Builder: instant{f}, Derivations: f.files, Slots: 4, Notify: func(e Event) {
						if e.Kind == Finished && e.Result.Cause == Succeeded {
							done++
						}
					}}
					before := cpuTime(b)
					b.StartTimer()
					runJobs(b, s, jobs...)
					cpu += cpuTime(b) - before
					if done != n {
						b.Fatalf("%d built, want %d", done, n)
					}
				}
				b.ReportMetric(float64(cpu.Microseconds())/float64(b.N)/float64(n), "cpu-µs/derivation")
			})
		}
	}
}

// cpuTime is what this process has used of all processors.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// As many derivations as a distribution has, a chain of them at its worst, do no harm.
func TestMany(t *testing.T) {
	const n = many
	for shape, make := range shapes {
		t.Run(shape, func(t *testing.T) {
			lines, jobs := make(n)
			f := newFake(t, lines...)
			f.script["n0"] = fails(drv("n0"), "failed", "")
			s, o := scheduler(f)
			s.Slots = 4
			runJobs(t, s, jobs...)
			failed := 0
			for _, r := range o.results {
				if r.Cause == DependencyFailed && r.Culprit == drv("n0") {
					failed++
				}
			}
			if want := map[string]int{"wide": 0, "deep": n - 1, "diamond": n - 10}[shape]; failed != want {
				t.Errorf("%d dependents failed, want %d", failed, want)
			}
		})
	}
}
