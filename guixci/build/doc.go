// Package build decides which derivation is built when, and says what became of each.
//
//	daemon := &build.Daemon{Pool: &store.Pool{}}
//	s := &build.Scheduler{Store: daemon, Builder: daemon, Slots: 2, Logs: "logs",
//		Notify: func(e build.Event) { fmt.Println(e.Kind, e.Derivation, e.Result.Cause) }}
//	s.Add(build.Job{Name: "hello", Derivation: drv}) // also while it runs
//	s.Seal()                                         // no more to come
//	err := s.Run(ctx)
//
// guix-daemon builds whatever a derivation needs as part of the same request,
// which is how "guix build" works and why a CI on top of it builds a shared
// dependency inside somebody else's job, where its failure is everybody's and its log
// is nobody's. Here every derivation that is missing from the store is a
// build of its own: made once, whoever wants it, after those it needs, with a log and a
// [Cause] of its own. What is there already is not looked at further, and with
// [Scheduler.Substitutes] neither is what somebody else has built.
//
// # Order
//
// Of the derivations that could be built now the one with the lowest priority number
// goes first and among equals the one with the longest chain of others
// waiting for it, so that the end is not one long chain on one processor.
//
// # Failures
//
// A derivation whose builder failed is failed and stays so. Those that need it, directly or
// not, have "dependency failed" and name the culprit; what only they needed is
// not built. What says nothing about a derivation, such as that it was cancelled, or the disk
// full at every attempt, says nothing about those that need it: they end with the same cause.
// When it is the machinery that failed (see [Cause.Machinery]), the build
// is tried again, later and not for ever. A failure from an earlier run that [Scheduler.Known]
// remembers is not tried; [Scheduler.Retry] has it tried nevertheless.
//
// # Logs
//
// The complete log of every build is in [Scheduler.Logs], compressed when it has ended.
// [Scheduler.Follow] yields it while it grows.
//
// The nodes "Derivations" and "Invoking guix-daemon" of the Guix manual are the background.
package build
