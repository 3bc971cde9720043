// Package guixci is the pipeline that the other packages are parts of: from the
// commit somebody pushed to the container that runs it.
//
//	p, err := guixci.Open("/var/lib/guixci", guixci.Options{Slots: 2})
//	defer p.Close()
//	report, err := p.Run(ctx, guixci.Specification{Name: "genenetwork", Channels: channels})
//	if report.Green {
//		script, err := p.Container(ctx, report.Lock, guixci.System{Channel: "gn-machines", File: "genenetwork.scm"})
//		…
//	}
//
// [Pipeline.Run] resolves the channels of a [Specification] to a Lock, authenticates
// what is new, pulls the lock, evaluates the packages of its channels and builds
// them, and says in a [Report] what it found. A second run on unchanged channels
// asks the repositories for their heads and does nothing else. [Pipeline.RunAll] does that for several
// specifications, which share their builds; package specification reads files of
// them. [History.Findings] says what broke or was fixed, since when, and what was committed
// in between, and [Pipeline.Prune] lets go of what is old. [Pipeline.Handler] serves what was
// built; [Pipeline.Container] and [Pipeline.Deploy] run it. Each stage is a method of its own
// for programs that want only some of them.
//
// It does what Cuirass does for one machine (node "Continuous Integration" of the
// Guix manual; Cuirass's own manual for specifications), embedded in a Go program
// and kept in one directory: record.db is the record, repos/ the mirrors, profiles/ the
// Guix of each lock, checkouts/ files of channels, roots/ what must not be collected as garbage, logs/ the build
// logs, keys/ the signing key, deployments/ the containers.
package guixci
