// This example asks a Guix for packages, and prints the derivation of each or the
// exception that prevented it.
//
//	go run ./examples/inferior hello guile@3.0
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/genenetwork/guixci/inferior"
)

func main() {
	log.SetFlags(0)
	for job, err := range inferior.Evaluate(context.Background(), inferior.EvaluateOptions{Packages: os.Args[1:]}) {
		switch {
		case err != nil:
			log.Fatal(err)
		case job.Err != nil:
			fmt.Printf("%s: %v\n", job.Package, job.Err)
		default:
			fmt.Printf("%s %s (%v): %s\n", job.Package, job.Version, job.Location, job.Derivation)
		}
	}
}
