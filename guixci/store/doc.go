// Package store speaks with guix-daemon.
//
// It is the Go counterpart of (guix store) and (guix derivations): what is in
// the store, adding to it, building, fetching substitutes, collecting garbage,
// and the ".drv" files with the graph they form.
//
//	c, err := store.Dial(ctx, "") // $GUIX_DAEMON_SOCKET, or where it usually is
//	defer c.Close()
//	err = c.Build(ctx, []store.StorePath{drv}, store.BuildOptions{}, func(e store.Event) {
//		fmt.Print(e.Text) // the log, and what the daemon says
//	})
//
// The daemon may be on another machine, guix://HOST or ssh://HOST; a [Graph] reads
// derivations from a directory, and a [Plan] of it tells what is missing and in what order.
//
// A [Client] is one connection and does one thing at a time; a [Pool] has as
// many as are needed and makes new ones when the daemon was restarted.
//
// The protocol is that of nix/nix-daemon/nix-daemon.cc in Guix. Its description
// for people is in the nodes "The Store" and "Derivations" of the Guix manual.
package store
