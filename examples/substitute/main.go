// This example serves the local store to other machines, as "guix publish" would.
//
//	go run ./examples/substitute :8080
//
// Elsewhere: fetch http://HOST:8080/signing-key.pub, have it authorized with
// "guix archive --authorize", and use --substitute-urls=http://HOST:8080.
package main

import (
	"log"
	"net"
	"net/http"
	"os"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/substitute"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: substitute ADDRESS")
	}
	key, err := substitute.EnsureKeyPair("signing-key.sec")
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("serving /gnu/store on %s", l.Addr())
	log.Fatal(http.Serve(substitute.QuickACK(l), &substitute.Handler{Source: &store.Pool{}, Key: key}))
}
