// Package inferior runs a Guix of exactly the code one wants, and asks it things.
//
// A Guix that evaluates somebody's channels is never this process: it is another
// Guix, at another commit, in a process of its own. Guix calls it an inferior
// (node "Inferiors" of its manual, module (guix inferior)) and so do we.
//
//	p := inferior.Puller{Dir: "/var/lib/ci/profiles", CacheDir: "/var/lib/ci/cache"}
//	profile, err := p.Pull(ctx, lock.Digest(), channelsFile) // guix pull, or a *PullError that says why not
//	for job, err := range inferior.Evaluate(ctx, inferior.EvaluateOptions{
//		Session:  inferior.Options{Program: profile.Guix()},
//		Channels: []string{"my-channel"},
//	}) {
//		… // one package, lowered to a derivation, or the exception that prevented it
//	}
//
// Three things build on each other:
//
//   - [Session] speaks the protocol of "guix repl -t machine" (module (guix repl)):
//     an expression goes in as [sexp.Value], a value or an [*Exception] comes out.
//   - [Puller] turns the text of a channels.scm into a rooted profile ("guix pull"),
//     once, and otherwise finds out which channel, module and line is to blame.
//   - [Evaluate] lists the packages of channels and lowers them one by one, as
//     (gnu ci) does for Cuirass, except that one bad package is one bad job.
//
// [SystemContainer] builds the script that "guix system container" makes.
//
// A child has a process group of its own and, where the caller may make one, a control
// group: nothing of it is left when it has ended, and a limit on its memory
// ([Options], [Puller]) counts what it has started too.
//
// Channel code runs in the children with the rights of the caller:
// authenticate it before.
package inferior
