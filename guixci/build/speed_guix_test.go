//go:build bench

package build_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// tiny adds n derivations of some shape and returns those nothing else needs.
func tiny(kit *storetest.Kit, shape string, n int) (jobs []store.StorePath) {
	const width = 10
	var all []*storetest.Build
	for i := range n {
		var inputs []*storetest.Build
		switch {
		case shape == "deep" && i > 0:
			inputs = all[i-1:]
		case shape == "diamond" && i >= width:
			inputs = all[i/width*width-width : i/width*width]
		}
		b := kit.Add(storetest.Spec{Name: fmt.Sprintf("n%d", i), Script: "echo >$out", Inputs: inputs})
		all = append(all, b)
		if shape == "wide" || shape == "deep" && i == n-1 || shape == "diamond" && i >= n-width {
			jobs = append(jobs, b.Derivation)
		}
	}
	return jobs
}

// BenchmarkGuixBuild compares the scheduler with "guix build" on a daemon and a
// store of its own: 1,000 derivations that do next to nothing.
func BenchmarkGuixBuild(b *testing.B) {
	guixtest.Require(b)
	const n, slots = 1000, 2
	for _, shape := range []string{"wide", "deep", "diamond"} {
		b.Run(shape, func(b *testing.B) {
			d := storetest.StartDaemon(b, storetest.DaemonOptions{})
			client := d.Dial()
			var ours, theirs time.Duration
			for b.Loop() {
				theirs += guixBuild(b, d, tiny(storetest.New(b, client), shape, n), slots)
				ours += schedule(b, d, tiny(storetest.New(b, client), shape, n), slots, n)
			}
			b.ReportMetric(ours.Seconds()/float64(b.N), "ours-s")
			b.ReportMetric(theirs.Seconds()/float64(b.N), "guix-s")
			b.ReportMetric(ours.Seconds()/theirs.Seconds(), "ratio")
		})
	}
}

func guixBuild(b *testing.B, d *storetest.Daemon, jobs []store.StorePath, slots int) time.Duration {
	args := []string{"build", "--no-substitutes", "--quiet", fmt.Sprintf("--max-jobs=%d", slots)}
	for _, j := range jobs {
		args = append(args, string(j))
	}
	begin := time.Now()
	cmd := d.Command("guix", args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	return time.Since(begin)
}

func schedule(b *testing.B, d *storetest.Daemon, jobs []store.StorePath, slots, n int) time.Duration {
	begin := time.Now()
	daemon := &build.Daemon{Pool: d.Pool()}
	defer daemon.Close()
	built := 0
	s := &build.Scheduler{Store: daemon, Builder: daemon, Derivations: d.Derivations(), Slots: slots, Logs: b.TempDir(),
		Notify: func(e build.Event) {
			if e.Kind == build.Finished && e.Result.Cause == build.Succeeded {
				built++
			}
		}}
	for _, j := range jobs {
		s.Add(build.Job{Derivation: j})
	}
	s.Seal()
	if err := s.Run(b.Context()); err != nil || built != n {
		b.Fatalf("%d built, %v", built, err)
	}
	return time.Since(begin)
}
