// This example is a continuous integration in a page: it checks a channels.scm now and
// then, and serves the last green lock and the substitutes.
//
//	go run ./examples/guixci channels.scm :8080
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/record"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: guixci FILE ADDRESS")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := serve(ctx, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, file, address string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	list, err := channel.ReadList(file, f)
	if err != nil {
		return err
	}
	p, err := guixci.Open("guixci-state", guixci.Options{Slots: 2, Publish: true})
	if err != nil {
		return err
	}
	defer p.Close()
	substitutes, err := p.Handler()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", substitutes)
	mux.HandleFunc("/channels.scm", func(w http.ResponseWriter, r *http.Request) {
		lock, err := p.LastGreen("example", record.Policy{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		lock.WriteTo(w)
	})
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		watch(ctx, p, guixci.Specification{Name: "example", Channels: list})
		return server.Close()
	})
	group.Go(func() error {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return group.Wait()
}

// watch checks the channels until ctx ends.
func watch(ctx context.Context, p *guixci.Pipeline, spec guixci.Specification) {
	for {
		if report, err := p.Run(ctx, spec); err != nil {
			log.Print(err)
		} else if !report.Unchanged {
			log.Printf("lock %.12s: green is %v: %v", report.Digest, report.Green, report.Verdict)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Minute):
		}
	}
}
