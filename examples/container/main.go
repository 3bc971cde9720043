// This example runs what "guix system container" printed, and takes it back if its
// services do not come up. As root:
//
//	go run ./examples/container /gnu/store/…-run-container
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/genenetwork/guixci/container"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: container SCRIPT")
	}
	ctx := context.Background()
	d := &container.Deployment{Name: "example", Dir: "/var/lib/guixci-example"}
	generation, err := d.Apply(ctx, container.Revision{Script: os.Args[1], Why: "an example"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("generation %d is healthy:\n", generation.Number)
	status, err := d.Status(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range status.Services {
		fmt.Printf("  %-20s %s\n", s.Name(), s.Status)
	}
	if err := d.Stop(ctx); err != nil {
		log.Fatal(err)
	}
}
