// Package container deploys Guix System containers and takes a bad deployment back.
//
// It is given what "guix system container" printed, a script such as
// /gnu/store/…-run-container, and makes it the running generation of a deployment:
//
//	d := &container.Deployment{Name: "gn-staging", Dir: "/var/lib/guixci/gn-staging",
//		Shares: []container.Mount{{Source: "/export/data"}},
//		Probes: container.Probes{container.AllServices{}, container.HTTP{URL: "http://localhost:8080/"}}}
//	generation, err := d.Apply(ctx, container.Revision{Script: script, Who: "alice", Why: "release 7"})
//
// [Deployment.Apply] refuses what would end badly, roots the new generation, stops
// the old one, starts the new one and watches its [Probes]. Only when they pass does
// the pointer "current" move; on any failure, on the end of ctx too, the old
// generation runs again, started and probed by the same code. What became of it
// is the [Outcome] of the [*Error].
//
// [Deployment.Plan] says beforehand what would change and what would be refused.
// The same script runs in several places, each with an [Environment] of its own: settings,
// secrets, limits. [ReadFile] reads all of them from one file, [Diff] tells two
// generations apart, [Deployment.Promote] has one place follow another, and [Deployment.Export]
// takes all of a deployment to another machine.
//
// What else a switch takes is its [Switch]: hooks, such as a migration, and a snapshot of state
// that comes back when the switch fails. [Switched], in the generation and the ledger, says
// how long nothing served. In the mode [SideBySide] nothing is interrupted: the new container starts on
// other ports, a hook moves the traffic, and the old one is kept, to return to it at once.
// For a web server in front the hook writes the upstream's port and reloads it:
//
//	(side-by-side
//	 (move-traffic "/bin/sh" "-c"
//	  "echo \"server 127.0.0.1:$GUIXCI_PORTS;\" > /etc/nginx/gn.upstream && nginx -s reload")
//	 (ports 8081) (settings (PORT "8081")))
//	(probes (http "http://127.0.0.1:${PORT}/"))
//
// A container with a [Network] of its own has another address then, and may keep its ports:
//
//	(network (address "10.77.0.2") (gateway "10.77.0.1"))
//	(side-by-side
//	 (move-traffic "/bin/sh" "-c"
//	  "echo \"server $GUIXCI_ADDRESS:$GUIXCI_PORTS;\" > /etc/nginx/gn.upstream && nginx -s reload")
//	 (address "10.77.0.3"))
//	(probes (http "http://${ADDRESS}:8080/"))
//
// An address of IPv6 is put in brackets, as anywhere: "http://[${ADDRESS}]:8080/".
//
// [Deployment.RunBeside] runs an older generation beside the live one, only to look at it.
//
// A deployment lives in its directory: generations, each with its log, the pointer, a
// record of what is running, a lease, and a ledger that is only ever appended
// to. Another process, or this one after a restart, finds the container there again.
//
// Who starts the script, limits it and finds it again is a [Runner]: our own [Supervisor], or a
// service manager of the machine, which the environment names. [Deployment.Supervise] keeps
// a container running where no service manager does.
//
// The script and its options are described in "Invoking guix system" (action
// container) of the Guix manual and made by (gnu system linux-container); a
// container's services are asked for over the protocol of (shepherd comm).
package container
