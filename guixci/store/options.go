package store

import (
	"maps"
	"strconv"
	"strings"
	"time"
)

// A Mode says what [Client.Build] does with outputs that are valid already.
type Mode uint64

const (
	Normal Mode = 0 // nothing, they need not be built
	Repair Mode = 1 // builds or fetches those whose contents are damaged (for root only)
	Check  Mode = 2 // builds again and compares: an error tells of a difference
)

// BuildOptions change how builds are done. The zero value means to build one
// derivation at a time, on this machine, as the daemon is configured, and to
// fetch nothing.
//
// The daemon keeps options by connection and has no way to forget one: on one
// [Client] what zero leaves to the daemon stays what an earlier build there set
// it to. A [Pool] sees to it that builds with unlike options do not meet.
type BuildOptions struct {
	// Cores is how many processor cores one build may use (NIX_BUILD_CORES).
	// 0 leaves it to the daemon's --cores.
	Cores int
	// MaxJobs is how many derivations may be built at the same time for one
	// request. 0 means 1.
	MaxJobs int
	// KeepGoing builds what still can be built after a failure.
	KeepGoing bool
	// KeepFailed leaves the directory of a failed build on the disk.
	KeepFailed bool
	// MaxSilentTime ends a build that prints nothing for so long,
	// Timeout one that lasts longer. They count in whole seconds.
	// 0 leaves it to the daemon; negative means no limit.
	MaxSilentTime, Timeout time.Duration
	// UseSubstitutes fetches outputs that somebody has built already.
	UseSubstitutes bool
	// SubstituteURLs is where from. Empty means the daemon's --substitute-urls.
	// The daemon believes it from trusted users only.
	SubstituteURLs []string
	// Fallback builds what was found as a substitute but could not be fetched.
	Fallback bool
	// Offload lets the daemon send builds to the machines of
	// /etc/guix/machines.scm. It costs starting "guix offload" at each Build.
	Offload bool
	// Verbosity of the daemon: 0 errors only … 3 what it does … 6 everything.
	Verbosity int
	// Mode is what to do with valid outputs.
	Mode Mode
}

// The daemon's ways to print. Only in the flat one are traces where lines begin.
const logFlat = 2

// sentOptions is what a connection was told last.
type sentOptions struct {
	told  bool
	fixed fixedOptions
	named map[string]string
}

// fixedOptions are those the protocol always sends.
type fixedOptions struct {
	keepFailed, keepGoing, fallback, offload, substitutes bool
	verbosity                                             int
}

func (o *BuildOptions) fixed() fixedOptions {
	return fixedOptions{o.KeepFailed, o.KeepGoing, o.Fallback, o.Offload, o.UseSubstitutes, o.Verbosity}
}

// named are those sent by name. What is not sent keeps its value.
func (o *BuildOptions) named() map[string]string {
	named := map[string]string{
		"print-extended-build-trace": "1",
		"multiplexed-build-output":   "true",
		"build-max-jobs":             strconv.Itoa(max(1, o.MaxJobs)),
	}
	seconds := func(key string, d time.Duration) {
		if d > 0 {
			named[key] = strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
		} else if d < 0 {
			named[key] = "0"
		}
	}
	seconds("build-max-silent-time", o.MaxSilentTime)
	seconds("build-timeout", o.Timeout)
	if o.Cores > 0 {
		named["build-cores"] = strconv.Itoa(o.Cores)
	}
	if len(o.SubstituteURLs) > 0 {
		named["substitute-urls"] = strings.Join(o.SubstituteURLs, " ")
	}
	return named
}

// suits reports whether a connection with these options can be given others:
// what was once sent by name can be changed but not taken back.
func (s *sentOptions) suits(o *BuildOptions) bool {
	named := o.named()
	for key := range s.named {
		if _, ok := named[key]; !ok {
			return false
		}
	}
	return true
}

// setOptions tells the daemon the options unless it knows. The caller has the turn.
func (c *Client) setOptions(o *BuildOptions) error {
	fixed, named := o.fixed(), maps.Clone(c.options.named)
	if named == nil {
		named = map[string]string{}
	}
	maps.Copy(named, o.named())
	if c.options.told && c.options.fixed == fixed && maps.Equal(c.options.named, named) {
		return nil
	}
	err := c.request(exchange{op: opSetOptions, send: func(w *writer) { writeOptions(w, fixed, named) }})
	if err == nil {
		c.options = sentOptions{true, fixed, named}
	}
	return err
}

func writeOptions(w *writer, o fixedOptions, named map[string]string) {
	w.bool(o.keepFailed)
	w.bool(o.keepGoing)
	w.bool(o.fallback)
	w.uint(uint64(max(0, o.verbosity)))
	w.bool(o.offload)
	w.uint(0) // build verbosity: show the output of builders
	w.uint(logFlat)
	w.bool(true) // print a build trace
	w.bool(o.substitutes)
	w.uint(uint64(len(named)))
	for key, value := range named {
		w.string(key)
		w.string(value)
	}
}
