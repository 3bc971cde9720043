//go:build bench

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
)

// likeGuix writes n derivations, shaped and as large as those of Guix, into a
// directory: layers whose members need some of those before. It returns the last layer.
func likeGuix(b *testing.B, dir string, n int) (roots []StorePath) {
	b.Helper()
	const width, inputs = 1000, 10
	name := func(i int) string { return fmt.Sprintf("package-number-%d", i) }
	for i := range n {
		d := Derivation{Outputs: []Output{{Name: "out", Path: toyOutput(name(i), "out")}},
			Env: []EnvVar{{"script", strings.Repeat("(invoke make)\n", 200)}}}
		if i%3 == 0 {
			d.Outputs = append(d.Outputs, Output{Name: "doc", Path: toyOutput(name(i), "doc")})
		}
		for j := range min(i/width*inputs, inputs) {
			below := i/width*width - 1 - (i*7+j*j*13)%min(i/width*width, 5*width)
			d.Inputs = append(d.Inputs, Input{toyPath(name(below)), []string{"out"}})
		}
		if err := os.WriteFile(filepath.Join(dir, toyPath(name(i)).Base()), []byte(d.String()), 0o444); err != nil {
			b.Fatal(err)
		}
		if i >= n-2*width {
			roots = append(roots, toyPath(name(i)))
		}
	}
	return roots
}

// BenchmarkGuixGraph measures a graph as large as that of all of Guix, and asks a real
// daemon what is missing of it: everything. Then it does the same with all that is in the
// store, which is all of Guix once that has been evaluated.
func BenchmarkGuixGraph(b *testing.B) {
	guixtest.Require(b)
	dir := b.TempDir()
	measureGraph(b, "", directory(dir), likeGuix(b, dir, 110_000))
	entries, err := os.ReadDir(substitute.StoreDir)
	if err != nil {
		b.Fatal(err)
	}
	var all []StorePath
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".drv") {
			all = append(all, StorePath(filepath.Join(substitute.StoreDir, e.Name())))
		}
	}
	measureGraph(b, "real-", nil, all)
}

// measureGraph loads the graph of all that roots need, and asks what is missing.
func measureGraph(b *testing.B, prefix string, derivations fs.FS, roots []StorePath) {
	var g *Graph
	b.Run(prefix+"load", func(b *testing.B) {
		before := heap()
		for b.Loop() {
			g = &Graph{Store: derivations}
			if err := g.Add(b.Context(), roots...); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(heap()-before)/1e6, "MB")
		b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s")
		b.ReportMetric(float64(g.Len()), "derivations")
	})
	var pool Pool
	defer pool.Close()
	b.Run(prefix+"missing", func(b *testing.B) {
		var plan *Plan
		for b.Loop() {
			var err error
			if plan, err = g.Missing(b.Context(), &pool, roots...); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s")
		b.ReportMetric(float64(plan.Len()), "derivations")
	})
}

// A directory opens files as a Graph does that has the store at hand.
type directory string

func (d directory) Open(name string) (fs.File, error) {
	fd, err := syscall.Open(string(d)+"/"+name, syscall.O_RDONLY, 0)
	return benchFile{plainFile(fd)}, err
}

type benchFile struct{ plainFile }

func (benchFile) Stat() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }

// heap is how many bytes are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
