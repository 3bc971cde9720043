// Package substitute offers store items to others, signed, in the way that
// "guix publish" does, so that any guix-daemon can fetch instead of build.
//
// Whatever has store items is a [Source]; a [Handler] serves one over HTTP:
//
//	key, err := substitute.EnsureKeyPair("/var/lib/guixci/keys/signing-key.sec")
//	…
//	l, err := net.Listen("tcp", ":8080")
//	…
//	http.Serve(substitute.QuickACK(l), &substitute.Handler{Source: source, Key: key})
//
// A [Server] does that for many clients, slow ones among them; a [Baker] keeps what was
// compressed in a [Cache], a directory that any web server could serve as well. A [Client] fetches
// from other servers, and is a Source too:
//
//	c := &substitute.Client{URLs: []string{"https://bordeaux.guix.gnu.org"}, ACL: acl}
//	offers, err := c.Query(ctx, paths)
//	…
//	err = c.Fetch(ctx, offers[0], "hello", nil)
//
// An [Exporter] puts items where they can be fetched without any of these: into a [Directory] for a
// web server, or other [Objects].
//
// Package storedb is the store of this machine as a Source, and package agent lets
// guix-daemon download through a Client.
//
// A client believes a [NarInfo] when its [Signature] was made by a key of its
// access-control list ([ACL]); "guix archive --authorize < signing-key.pub" adds
// one. A narinfo says what an item's archive (package nar) hashes to, so that
// the archive itself may come from anywhere.
//
// The formats are those of (guix narinfo), (guix pki), (guix scripts publish)
// and libgcrypt; the manual describes their use in the nodes "Substitutes" and
// "Invoking guix publish". The handler differs from guix publish where clients
// gain: it answers HEAD, knows the length of what it sends wherever that is
// possible, and says 404 for what cannot exist.
package substitute
