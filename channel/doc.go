// Package channel decides which code is built, and whether to believe it.
//
// A channels.scm becomes a [List], the list becomes a [Lock] in which every
// channel, also those that others depend on, stands at one full commit, and the
// commits of the lock are authenticated the way "guix pull" does it:
//
//	list, err := channel.ReadList("channels.scm", file)
//	repos := &channel.Repositories{Dir: state + "/repos"}
//	lock, err := (&channel.Resolver{Repositories: repos}).Resolve(ctx, list)
//	seen, err := (&channel.Authenticator{Repositories: repos}).AuthenticateLock(ctx, lock)
//	lock.WriteTo(os.Stdout) // a channels.scm for "guix pull -C"
//
// [Resolver.Lint] says what is wrong with a list, [Resolver.Explain] which declaration of
// a channel won, [File.Pin] changes commits where they are written, and a [Watcher]
// sees branches move. An [Authenticator] agrees with Guix, or is Strict beyond it.
//
// Everything is done in Go: nothing a channel contains is evaluated here. Only an
// [Evaluator], if one asks for it, has a Guix run a channels.scm that is a program.
// It agrees with the modules (guix channels), (guix git-authenticate) and
// (guix openpgp) of Guix 1.5.0; see "Channels" and "Invoking guix git
// authenticate" in its manual.
package channel
