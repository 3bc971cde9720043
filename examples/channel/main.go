// This example resolves a channels.scm to a lock, authenticates it, and prints it as a
// channels.scm with every commit, also of the channels that others depend on.
//
//	go run ./examples/channel channels.scm
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/genenetwork/guixci/channel"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: channel FILE")
	}
	if err := lock(context.Background(), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func lock(ctx context.Context, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	list, err := channel.ReadList(name, f)
	if err != nil {
		return err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	repos := &channel.Repositories{Dir: filepath.Join(cache, "guixci-example")}
	lock, err := (&channel.Resolver{Repositories: repos}).Resolve(ctx, list)
	if err != nil {
		return err
	}
	seen, err := (&channel.Authenticator{Repositories: repos}).AuthenticateLock(ctx, lock)
	if err != nil {
		return err
	}
	for _, a := range seen {
		fmt.Fprintf(os.Stderr, "%s: %d commits checked\n", a.Channel, a.Commits)
	}
	_, err = lock.WriteTo(os.Stdout)
	return err
}
