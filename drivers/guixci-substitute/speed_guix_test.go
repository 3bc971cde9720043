//go:build bench

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
)

// TestSpeed compares an unmodified daemon that downloads through this program with one that
// downloads through guix substitute, from the same server, of $GUIXCI_BENCH_ITEMS items
// (go test -tags bench).
func TestSpeed(t *testing.T) {
	guixtest.Require(t)
	count, _ := strconv.Atoi(os.Getenv("GUIXCI_BENCH_ITEMS"))
	if count == 0 {
		t.Skip("a measurement: set GUIXCI_BENCH_ITEMS")
	}
	stock, err := exec.LookPath("guix")
	if err != nil {
		t.Fatal(err)
	}
	key := substitute.GenerateKey()
	m, paths := gifts(t, count)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &substitute.Server{Handler: &substitute.Handler{Source: m, Key: key}, Drain: time.Millisecond}
	go s.Run(t.Context(), l) // ends with the test
	var took []time.Duration
	for i, guix := range []string{stock, "", stock, ""} {
		socket, _ := daemonWith(t, guix, key.Public(), 2)
		pool := store.Pool{Address: socket}
		start := time.Now()
		err := pool.EnsurePath(t.Context(), paths[len(paths)-1], store.BuildOptions{SubstituteURLs: []string{"http://" + l.Addr().String()}, MaxJobs: 2}, nil)
		took = append(took, time.Since(start))
		pool.Close()
		if err != nil {
			t.Fatal(err)
		}
		if i < 3 {
			drop(t, paths)
		}
	}
	fmt.Printf("%d items through guix-daemon: guix substitute %v, %v; this program %v, %v; ratio %.1f\n",
		count, took[0], took[2], took[1], took[3], float64(took[0]+took[2])/float64(took[1]+took[3]))
}
