// Package guixci is the map of this module: continuous integration and deployment
// for GNU Guix channels, as a library with thin drivers. It has no code of its own.
//
// # A commit's way
//
//	git push
//	   │  poll or webhook
//	channel     which code, and whether to believe it      new head → every new commit authenticated → Lock
//	   │                                                   (all channels, transitive, 40 hex digits, digest)
//	inferior    a Guix of exactly that code                guix pull of the Lock → profile, or a verdict that says why not
//	   │                                                   sessions of its "guix repl" → jobs, streamed one by one
//	guixci      what is to be built, and what happened     .drv graph → only what is missing → guix-daemon, in dependency order
//	   │                                                   record: jobs, builds, weather, last green Lock
//	substitute  others need not build it again             signed narinfo and archive, from the store or a cache
//	   │
//	container   it runs                                    switch → probes → confirm, or back to the previous generation
//
// Everything is addressed by content: the Lock's digest names a profile, a derivation names
// a build, a store path names a substitute, a generation names a deployment. Doing
// anything twice finds it done. A killed process loses nothing: what is not in the
// record or the store has not happened yet.
//
// # The folders
//
//   - channel: channel lists, locks, repositories, authentication; channeltest makes
//     throw-away signed repositories.
//   - inferior: a Guix in a process of its own: sessions, pull, evaluation; inferior/sexp is
//     Guile data, which channel and container speak too; inferiortest is a scripted inferior.
//   - substitute: store paths, signatures, narinfo, server, client, cache; substitute/nar
//     is the archive format, substitute/storedb reads guix-daemon's database, and
//     substitute/agent answers guix-daemon in place of "guix substitute".
//   - container: deployments of system containers: apply, probe, roll back.
//   - guixci: the pipeline that composes these, with guixci/store (guix-daemon's protocol,
//     derivations), guixci/build (the scheduler), guixci/record (what happened) and
//     guixci/specification (Cuirass's records).
//   - drivers: the programs. examples: one small program per folder of the library.
//   - internal: what no importer may see, above all guixbox, a real Guix for machines
//     without one, in which the tests run.
//
// Imports go one way, from drivers down to sexp and nar; a test in this
// directory says which. inferior, substitute and container know nothing of each other nor
// of channel: each can be embedded alone.
package guixci
