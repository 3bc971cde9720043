package main

import "github.com/spf13/cobra"

// fileTopic is what "help deployment-file" prints.
func fileTopic() *cobra.Command {
	return &cobra.Command{Use: "deployment-file", Short: "What --file says: systems, environments, probes", Long: fileHelp[1:]}
}

const fileHelp = `
A deployment file says what to run, and for each environment what it is given there. It
is data, and is never evaluated. Commands that ask for --file want --environment, too.

` + fileExample + `
WHAT RUNS
  (lock FILE)         locked channels, as "guixci-channels lock" prints; relative to this file
  (system (channel NAME) (file FILE) (network? #t))
                      the file of a channel that declares the operating system; with network?
                      it has the network of the host
  (script FILE)       in the place of both: what "guix system container" printed
  (environment NAME (follows ENVIRONMENT) ...)
                      a place where it runs; if it follows another, any but the very store
                      item that is confirmed there is refused, and that one, too, as long as it
                      does not run well there; "promote" brings it

These are said once for all environments, or in an environment, for that; lists are added up.

WHAT IT IS GIVEN
  (mount NAME (source DIRECTORY) (target DIRECTORY) (writable? #t) (owner ACCOUNT)
         (concurrent? #t))
                      a directory of this machine; an owner is checked, concurrent state
                      may be written to by two containers at a time
  (settings (NAME VALUE)...)
                      written to /etc/guixci/settings in the container
  (settings-format "shell")    or "scheme", or "json"
  (secret NAME (file FILE) (uid N) (gid N))
                      a copy is in /etc/guixci/secrets/NAME, for that user only
  (required NAME...)  settings and secrets without which nothing is tried
  (target DIRECTORY)  in the place of /etc/guixci
  (ports N...)        of this machine, on which it listens: with network?, or an address
  (network (address A) (gateway B))    of its own, for a system without network?
  (memory "8G") (tasks N)    limits; sizes are in K, M, G or T
  (runner "supervisor")      who runs it: "supervisor", "systemd" or "shepherd"

WHEN IT IS HEALTHY
  (probes PROBE...)   all must pass; ${NAME} in a URL, in HOST:PORT and in the NAME of dns is
                      the setting of that name, ${ADDRESS}, if there is none, the address in
                      the network; a dollar sign in a URL is %24:
    (process) (all-services (except NAME...)) (services NAME...) (command PROGRAM ARGUMENT...)
    (http URL (status N) (contains TEXT) (within "2s") (version TEXT) (version-of CHANNEL)
          (header NAME) (inside? #t))
    (tcp "HOST:PORT" (inside? #t)) (unix FILE) (dns NAME (within "1s"))
    (tls "HOST:PORT" (certificates FILE) (valid-for "168h"))
  (schedule (start-period "1m") (window "3s") (interval "1s") (timeout "5s") (threshold 3))
                      failures in the start period do not count; then all must pass for the
                      window, before which so many failures, in a row or not, are too many;
                      a long window is a confirmation after a delay
  (confirm-by "10m")  taken back unless "confirm" comes by then

HOW IT TAKES THE PLACE OF THE ONE BEFORE
  (pre-switch PROGRAM ARGUMENT... (timeout "10m") (live? #t))
                      a hook, such as a migration; a live one runs before the old one stops
  (snapshot MOUNT...) comes back when the switch fails
  (side-by-side (move-traffic PROGRAM ARGUMENT... (timeout "10m")) (ports N...) (address A)
                (settings (NAME VALUE)...) (drain "30s") (stop-old? #t))
                      the new one starts on other ports, or at another address, before the
                      old one stops
  (start-timeout "1m") (stop-timeout "30s")
  (keep (last N) (healthy N))    generations that stay; without it, all
  (free-space "256M") on each disk that is written to
  (may-fetch SERVICE...)         services that may fetch code when they start
  (renamed OLD NEW)   an account that goes on under another name: what the old one owns in
                      writable mounts may be the new one's, which is refused otherwise
`

const fileExample = `(deployment
 (lock "channels.lock")
 (system (channel "my-project") (file "deploy/container.scm") (network? #t))
 (probes (all-services) (http "http://127.0.0.1:${PORT}/"))
 (environment "cd"
  (mount "state" (source "/srv/cd") (target "/var/lib/my-project") (writable? #t))
  (settings (PORT "8081"))
  (ports 8081))
 (environment "production"
  (follows "cd")
  (mount "state" (source "/srv/production") (target "/var/lib/my-project") (writable? #t))
  (settings (PORT "8080"))
  (ports 8080)))
`
