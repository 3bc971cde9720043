package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/genenetwork/guixci/substitute"
)

// Build makes the daemon build derivations, and whatever they need, and returns
// when all their outputs are valid or one has failed (all that can be built are
// built first with KeepGoing).
//
// If given, event is called from this goroutine with what happens, in order;
// the builders wait while it does not return. Several derivations may be built
// at once, each event says which one it is about.
//
// If a build fails the error is a [*BuildError]; if the daemon could not even
// begin, for example because a derivation is not valid, a [*DaemonError]. The
// end of ctx closes the connection and thereby stops the builds: see [Client].
func (c *Client) Build(ctx context.Context, drvs []StorePath, options BuildOptions, event func(Event)) error {
	if err := check(drvs...); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	err := c.realise(ctx, options, event, exchange{
		op: opBuildPaths,
		send: func(w *writer) {
			w.paths(drvs)
			w.uint(uint64(options.Mode))
		},
		receive: success,
	})
	if err != nil {
		return fmt.Errorf("build %s: %w", brief(drvs), err)
	}
	return nil
}

// EnsurePath makes path valid by fetching a substitute, unless it is already.
// Options and events are those of [Client.Build].
func (c *Client) EnsurePath(ctx context.Context, path StorePath, options BuildOptions, event func(Event)) error {
	if err := check(path); err != nil {
		return fmt.Errorf("ensure path: %w", err)
	}
	options.UseSubstitutes = true
	err := c.realise(ctx, options, event, exchange{
		op:      opEnsurePath,
		send:    func(w *writer) { w.string(string(path)) },
		receive: success,
	})
	if err != nil {
		return fmt.Errorf("ensure path %s: %w", path, err)
	}
	return nil
}

// realise makes an exchange during which the daemon traces builds.
func (c *Client) realise(ctx context.Context, options BuildOptions, event func(Event), x exchange) error {
	release, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := c.setOptions(&options); err != nil {
		return err
	}
	var failures collector
	trace := newTraceParser(func(e Event) {
		failures.observe(&e)
		if event != nil {
			event(e)
		}
	})
	x.log = trace.write
	err = c.request(x)
	trace.close()
	return failures.join(err)
}

// brief names the first of paths.
func brief(paths []StorePath) string {
	switch len(paths) {
	case 0:
		return "nothing"
	case 1:
		return string(paths[0])
	}
	return fmt.Sprintf("%s and %d more", paths[0], len(paths)-1)
}

// A Cause tells why a build failed.
type Cause string

const (
	Failed      Cause = "failed"       // the builder ended with an error
	Rejected    Cause = "rejected"     // the builder ended well, but its outputs are not what they should be
	Refused     Cause = "refused"      // the daemon could not start the builder
	TimedOut    Cause = "timed-out"    // it took longer than Timeout
	Silent      Cause = "silent"       // it printed nothing for MaxSilentTime
	LogTooLong  Cause = "log-too-long" // it printed more than the daemon's limit
	DiskFull    Cause = "disk-full"    // it ended with an error, and there is no space left
	Cached      Cause = "cached"       // the daemon remembers that it failed before (--cache-failures)
	Dependency  Cause = "dependency"   // something it needs could not be built
	Offloading  Cause = "offloading"   // the machine it was sent to, or the way there, failed
	WrongSystem Cause = "wrong-system" // no machine here can run its builder
)

// A Failure is one derivation that could not be built.
type Failure struct {
	Derivation StorePath
	Cause      Cause
	Message    string // as the daemon says it
	LogFile    string // as in [Event]; empty if the builder was not started
}

// A BuildError tells which builds have failed, in the order in which they did.
type BuildError struct {
	Failures []Failure
	Err      *DaemonError // what the daemon says in the end
}

func (e *BuildError) Error() string {
	first := e.Failures[0]
	text := fmt.Sprintf("%s: %s", first.Derivation, first.Message)
	if n := len(e.Failures) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text
}

func (e *BuildError) Unwrap() error { return e.Err }

// A collector gathers failures from a build's events.
type collector struct {
	failures []Failure
	logFiles map[StorePath]string
	hints    map[StorePath]Cause // from messages that precede the trace of failure
	mismatch string              // the hashes of a mismatch, before the failure that it causes
	full     bool                // the daemon suspects that the disk is full
}

func (c *collector) observe(e *Event) {
	switch e.Kind {
	case BuildStarted:
		if c.logFiles == nil {
			c.logFiles = map[StorePath]string{}
		}
		c.logFiles[e.Derivation] = e.LogFile
	case BuildSucceeded:
		delete(c.logFiles, e.Derivation)
	case DaemonMessage:
		c.read(e.Text)
	case HashMismatch:
		c.mismatch = strings.Join(e.Args, " ")
	case BuildFailed:
		c.add(e.Derivation, c.cause(e), e.Text)
	case HookFailed:
		c.add(e.Derivation, Offloading, e.Text)
	case UnsupportedPlatform:
		c.add(e.Derivation, WrongSystem, "no machine for "+e.System)
	}
}

// add notes a failure. The first cause given for a derivation is the finest.
func (c *collector) add(drv StorePath, cause Cause, message string) {
	for _, f := range c.failures {
		if f.Derivation == drv {
			return
		}
	}
	c.failures = append(c.failures, Failure{drv, cause, message, c.logFiles[drv]})
}

// cause interprets the trace of a failed build together with what came before.
func (c *collector) cause(e *Event) Cause {
	switch e.Text {
	case "timeout":
		if hint, ok := c.hints[e.Derivation]; ok {
			return hint
		}
		return TimedOut
	case "cached":
		return Cached
	}
	if c.full {
		c.full = false
		return DiskFull
	}
	if len(e.Args) > 2 && e.Args[2] == "0" {
		return Refused
	}
	if strings.Contains(e.Text, "failed with exit code") || strings.Contains(e.Text, "failed due to signal") {
		return Failed
	}
	if c.mismatch != "" {
		e.Text += ": " + c.mismatch
		c.mismatch = ""
	}
	return Rejected
}

// read takes from the daemon's messages what its traces do not say.
func (c *collector) read(text string) {
	text = strings.TrimSpace(text)
	drv := derivationIn(text)
	switch {
	case strings.HasPrefix(text, "note: build failure may have been caused by lack of free disk space"):
		c.full = true
	case drv == "":
	case strings.HasSuffix(text, "of silence"):
		c.hint(drv, Silent)
	case strings.Contains(text, "killed after writing more than"):
		c.hint(drv, LogTooLong)
	case strings.HasSuffix(text, "dependencies couldn't be built"):
		c.add(drv, Dependency, text)
	}
}

func (c *collector) hint(drv StorePath, cause Cause) {
	if c.hints == nil {
		c.hints = map[StorePath]Cause{}
	}
	c.hints[drv] = cause
}

// derivationIn finds the file name of a derivation in a message.
func derivationIn(text string) StorePath {
	begin := strings.Index(text, substitute.StoreDir+"/")
	if begin < 0 {
		return ""
	}
	name, _, ok := strings.Cut(text[begin:], ".drv")
	path, err := substitute.ParseStorePath(name + ".drv")
	if !ok || err != nil {
		return ""
	}
	return path
}

// join makes of the exchange's error and what was gathered the error to return.
func (c *collector) join(err error) error {
	var said *DaemonError
	if len(c.failures) == 0 || !errors.As(err, &said) {
		return err
	}
	return &BuildError{Failures: c.failures, Err: said}
}
