package inferior

import (
	"fmt"
	"strings"
)

// A Stage is how far a pull came.
type Stage string

// The stages of a pull, in their order.
const (
	StageStart        Stage = "start"         // before anything was fetched: no daemon, no right to write, no such list
	StageFetch        Stage = "fetch"         // getting a channel's repository or commit
	StageAuthenticate Stage = "authenticate"  // checking who signed it
	StageDependencies Stage = "dependencies"  // a channel that another one needs, or what says so
	StageBuild        Stage = "build"         // compiling the modules of a channel
	StagePackageCache Stage = "package-cache" // listing all packages of all channels together
	StageProfile      Stage = "profile"       // putting the result together
)

// A Cause is what kind of thing went wrong.
type Cause string

// The causes that are recognised; empty is any other.
const (
	CauseUnboundVariable Cause = "unbound-variable" // a name that is not defined, or not exported
	CauseMissingModule   Cause = "missing-module"   // a module that does not exist
	CauseSyntax          Cause = "syntax"           // text that is not Scheme, or a form that is not one
	CauseAuthentication  Cause = "authentication"   // a commit that is not signed as it has to be
	CauseMissingGuix     Cause = "missing-guix"     // a list without the channel called guix
	CauseChannelsFile    Cause = "channels-file"    // a list that is not one
	CauseRepository      Cause = "repository"       // a repository, branch or commit that is not there
	CauseNetwork         Cause = "network"          // a host that does not answer
	CauseNoSpace         Cause = "no-space"         // a disk that is full
	CausePermission      Cause = "permission"       // a directory that is not ours to write to
	CauseMemory          Cause = "memory"           // more memory than allowed
	CauseTimeout         Cause = "timeout"          // it, or a build for it, took or was silent for longer than allowed
	CauseMachinery       Cause = "machinery"        // no daemon, no Guix, a process killed
)

// A Failure is what is known about a Guix command that did not succeed.
type Failure struct {
	Cause Cause // empty if it is none of those known
	// Message is one line in the words of Guix or Guile, such as
	// "Unbound variable: linux-libre-7.2".
	Message string
	// Location is where; relative to the repository of its channel, if it is a channel's.
	Location Location
	// Exception is what Guile threw in a build; nil otherwise.
	Exception *Exception
	Hint      string // what to try; may be empty
	// Derivation is the build that failed, and BuildLog the file with its
	// log; empty if no build did.
	Derivation string
	BuildLog   string
	// Log is the end of what the command printed, and of the failed build's log.
	Log string
}

// Machinery reports whether the answer is unknown rather than no: the same
// thing may succeed once the disk, network or daemon is well.
func (f *Failure) Machinery() bool {
	switch f.Cause {
	case CauseNetwork, CauseNoSpace, CausePermission, CauseMachinery:
		return true
	}
	return false
}

// Advice is the hint.
func (f *Failure) Advice() string { return f.Hint }

// why is the location and the message.
func (f *Failure) why() string {
	if f.Location.File == "" {
		return f.Message
	}
	return f.Location.String() + ": " + f.Message
}

// A PullError is the verdict on channels that could not be pulled.
type PullError struct {
	Stage   Stage
	Channel string // whose fault it is; empty if that is not known
	Module  string // such as "(my packages)"; empty if not known
	Failure
}

// Error returns one line: what failed for which channel, where, why.
func (e *PullError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pull: %s", e.Stage)
	if e.Channel != "" {
		fmt.Fprintf(&b, " of channel %q", e.Channel)
	}
	fmt.Fprintf(&b, ": %s", e.why())
	return b.String()
}

// A SystemError says why a system could not be computed or built.
type SystemError struct {
	File string // the configuration
	Failure
}

// Error returns one line: which configuration, where, why.
func (e *SystemError) Error() string {
	return fmt.Sprintf("build system of %q: %s", e.File, e.why())
}

// hints are what to try, by cause. Guix's own hint, where it gives one, goes first.
var hints = map[Cause]string{
	CauseUnboundVariable: "the channel may be newer than its guix, or so old that its guix has this no more, or the module that defines " +
		"the variable is missing from #:use-module: update whichever is behind, or go back to a commit that matches",
	CauseMissingModule: "the channel may be newer than its guix, or so old that its guix has this no more, or need another channel that it " +
		"does not declare in .guix-channel",
	CauseSyntax: "look at that place: a parenthesis that is missing or one too many, a field that does not exist or is misspelt, " +
		"a form without what it needs",
	CauseAuthentication: "the commit must be signed by a key that .guix-authorizations of its parents lists, " +
		"and that key be on the keyring branch",
	CauseRepository: "check the URL, branch and commit of the channel",
	CauseNetwork:    "try again when the network is back",
	CauseNoSpace:    "make room: guix gc, and old profiles and logs",
	CauseMemory:     "look for code that runs when modules are loaded, or allow more memory",
	CauseTimeout:    "look for code that never ends and runs when modules are loaded, or allow more time",
	CausePermission: "give the directory to the user that pulls",
}
