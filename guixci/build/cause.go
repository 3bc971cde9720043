package build

// A Cause says how a build ended, in words for people and for the record.
type Cause string

// The causes.
const (
	Succeeded        Cause = "succeeded"
	Failed           Cause = "failed" // the builder ended with an error, or made the wrong thing
	DependencyFailed Cause = "dependency failed"
	TimedOut         Cause = "timed out"
	Silent           Cause = "silent too long"
	LogTooLong       Cause = "log too long"
	OutOfMemory      Cause = "out of memory"
	DiskFull         Cause = "disk full"
	DaemonLost       Cause = "daemon lost"  // no connection to guix-daemon, or it broke
	NotStarted       Cause = "not started"  // the daemon, or we, could not begin or conclude it
	NotFetched       Cause = "not fetched"  // a substitute that was offered; it is built then
	WrongSystem      Cause = "wrong system" // no machine here can run the builder
	Gone             Cause = "gone"         // the derivation was collected as garbage
	Cancelled        Cause = "cancelled"    // somebody said so, or what needs it was cancelled
)

// Number returns the one of Cuirass's build statuses that is nearest,
// from 0 (succeeded) to 4 (cancelled); Cuirass has no finer ones.
func (c Cause) Number() int {
	switch c {
	case Succeeded:
		return 0
	case Failed, TimedOut, Silent, LogTooLong:
		return 1
	case DependencyFailed:
		return 2
	case Cancelled:
		return 4
	}
	return 3
}

// Real reports whether the derivation itself is to blame, so that
// building it again would be in vain.
func (c Cause) Real() bool { return c.Number() == 1 }

// Machinery reports whether the surroundings are to blame and may be better
// later: only such builds are tried again.
func (c Cause) Machinery() bool {
	switch c {
	case OutOfMemory, DiskFull, DaemonLost, NotStarted:
		return true
	}
	return false
}
