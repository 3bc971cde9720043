package inferior

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// evidence is what there is to find out from why a Guix command failed.
type evidence struct {
	command  string        // such as "guix pull"
	messages string        // what it printed to standard error
	status   string        // how it ended
	channels []string      // names of the channels that were asked for
	late     time.Duration // it was ended after so long; 0 if it ended by itself

	// How to read a build log and a file of the store; nil means the real ones.
	log  func(path string) string
	file func(path string) []byte
	walk func(directory string) []string // *.scm files beneath, as paths relative to it
}

// What Guix prints, in the order of events. Progress bars are cut out before.
var (
	progressBar   = regexp.MustCompile("▕[^▏\n]*▏|\r\x1b\\[K|\r|\x1b\\[[0-9;]*[A-Za-z]")
	updating      = regexp.MustCompile(`^Updating channel '([^']*)' from Git repository at '([^']*)'`)
	authenticting = regexp.MustCompile(`^Authenticating channel '([^']*)'`)
	building      = regexp.MustCompile(`^Building from th`)
	builtFrom     = regexp.MustCompile(`^  (\S.*)\t([0-9a-f]{7})$`)
	buildBegins   = regexp.MustCompile(`^building (/\S+\.drv)\.\.\.$`)
	buildFailed   = regexp.MustCompile(`^build of (/\S+\.drv) failed$`)
	profileFailed = regexp.MustCompile(`^cannot build derivation .(/\S+-profile\.drv)'`)
	viewLog       = regexp.MustCompile(`^View build log at '([^']*)'`)
	errorLine     = regexp.MustCompile(`^(?:guix \S+|(\S+?):(\d+):(\d+)): error: (.*)$`)
	placedLine    = regexp.MustCompile(`^(?:\S+:\d+:\d+: )?(/\S+?):(\d+):(\d+): (.*)$`)
	guixLine      = regexp.MustCompile(`^guix/\S+:\d+:\d+: (.*)$`) // thrown in Guix's own code
	guilePlace    = regexp.MustCompile(`^(?:ice-9|srfi|guix)/\S+:\d+:\d+: `)
	warningLine   = regexp.MustCompile(`: warning: `)
	storePrefix   = regexp.MustCompile(`^/gnu/store/[0-9a-z]{32}-[^/]+/`)
	checkout      = regexp.MustCompile(`^.*/checkouts/[^/]+/`)
)

// A story is what the messages of guix pull tell.
type story struct {
	stage      Stage
	channel    string            // updated or authenticated last
	urls       map[string]string // by channel
	commits    map[string]string // first seven digits, by channel
	underWay   string            // derivation whose build began last
	derivation string            // first one that failed
	profile    string            // derivation that could not be built on its account, and has all channels
	log        string
	message    string
	location   Location
	hint       string
}

// read follows the messages line by line.
func (s *story) read(messages string) {
	s.stage, s.urls, s.commits = StageStart, make(map[string]string), make(map[string]string)
	hinting := false
	for line := range strings.Lines(progressBar.ReplaceAllString(messages, "\n")) {
		line = strings.TrimRight(line, "\n")
		if text, ok := strings.CutPrefix(line, "hint: "); ok {
			s.hint, hinting = text, true
			continue
		}
		if hinting = hinting && line != ""; hinting {
			s.hint += " " + strings.TrimSpace(line)
			continue
		}
		s.event(line)
	}
}

func (s *story) event(line string) {
	switch {
	case strings.HasSuffix(s.message, ":") && line != "": // it goes on
		m := placedLine.FindStringSubmatch(line)
		if m != nil {
			s.location, line = place(m[1], m[2], m[3]), m[4]
		}
		s.message += " " + guilePlace.ReplaceAllString(line, "")
	case updating.MatchString(line):
		m := updating.FindStringSubmatch(line)
		s.stage, s.channel = StageFetch, m[1]
		s.urls[m[1]] = m[2]
	case authenticting.MatchString(line):
		s.stage, s.channel = StageAuthenticate, authenticting.FindStringSubmatch(line)[1]
	case building.MatchString(line):
		s.stage, s.channel = StageBuild, ""
	case builtFrom.MatchString(line):
		m := builtFrom.FindStringSubmatch(line)
		s.builtFrom(m[1], m[2])
	case buildBegins.MatchString(line):
		s.underWay = buildBegins.FindStringSubmatch(line)[1]
	case buildFailed.MatchString(line):
		s.derivation = cmp.Or(s.derivation, buildFailed.FindStringSubmatch(line)[1])
	case profileFailed.MatchString(line):
		s.profile = profileFailed.FindStringSubmatch(line)[1]
	case viewLog.MatchString(line):
		s.log = cmp.Or(s.log, viewLog.FindStringSubmatch(line)[1])
	case warningLine.MatchString(line):
	case errorLine.MatchString(line):
		m := errorLine.FindStringSubmatch(line)
		s.message, s.location = m[4], place(m[1], m[2], m[3])
		if strings.HasPrefix(m[1], "guix/") { // where Guix reports from
			s.location = Location{}
		}
	case placedLine.MatchString(line):
		m := placedLine.FindStringSubmatch(line)
		s.message, s.location = m[4], place(m[1], m[2], m[3])
	case guixLine.MatchString(line):
		s.message, s.location = guixLine.FindStringSubmatch(line)[1], Location{}
	}
}

// builtFrom notes the commit of a channel, given as its name, padded to ten
// characters, and its URL: with a long name nothing is between them.
func (s *story) builtFrom(channel, commit string) {
	for name, url := range s.urls {
		if strings.HasPrefix(channel, name) && strings.TrimLeft(channel[len(name):], " ") == url {
			s.commits[name] = commit
		}
	}
}

// place makes a location of what was matched, the file relative to its channel.
func place(file, line, column string) Location {
	l := Location{File: relative(file)}
	l.Line, _ = strconv.Atoi(line)
	l.Column, _ = strconv.Atoi(column)
	return l
}

// relative drops the store item or checkout that a channel's file is in.
func relative(file string) string {
	return checkout.ReplaceAllString(storePrefix.ReplaceAllString(file, ""), "")
}

// diagnosePull turns evidence into a verdict.
func diagnosePull(ev evidence) *PullError {
	ev.setDefaults()
	var s story
	s.read(ev.messages)
	if ev.late > 0 {
		s.derivation = cmp.Or(s.derivation, s.underWay)
	}
	e := &PullError{Stage: s.stage, Channel: s.channel, Failure: ev.failure(s)}
	if s.derivation != "" {
		e.blame(s)
		ev.readBuild(&e.Failure, s)
		e.place(ev, s)
	}
	e.noteKilled(ev.messages)
	e.noteTimedOut(ev.messages)
	e.classify()
	e.correctStage(s)
	if e.Stage == StageBuild && e.Derivation == "" {
		e.blameBuildScript(ev)
	}
	if e.Stage == StageFetch && len(ev.channels) > 0 && !slices.Contains(ev.channels, e.Channel) {
		e.Stage = StageDependencies
	}
	if e.Location.File != "" && e.Stage != StageStart {
		e.Module = moduleOf(e.Location.File)
	}
	e.Hint = cmp.Or(e.specificHint(ev, s), s.hintUnless(e.Stage), hints[e.Cause])
	if ev.late > 0 {
		e.noteLate(ev.late)
	}
	return e
}

// diagnoseSystem turns evidence into the error about a configuration file.
func diagnoseSystem(ev evidence, file string) *SystemError {
	ev.setDefaults()
	var s story
	s.read(ev.messages)
	e := &SystemError{File: file, Failure: ev.failure(s)}
	if s.derivation != "" {
		ev.readBuild(&e.Failure, s)
	}
	e.noteKilled(ev.messages)
	e.noteTimedOut(ev.messages)
	e.classify()
	e.Hint = cmp.Or(s.hint, hints[e.Cause])
	return e
}

// failure is what the messages alone tell.
func (ev *evidence) failure(s story) Failure {
	f := Failure{Message: s.message, Location: s.location, Derivation: s.derivation, BuildLog: s.log,
		Log: strings.Join(lastLines(ev.messages, 40), "\n")}
	if f.Message == "" {
		f.Message = ev.lastMessage()
	}
	return f
}

// lastMessage is what to say for want of an error: the last words, or how it ended.
func (ev *evidence) lastMessage() string {
	ended := ev.command + ": " + ev.status
	if lines := lastLines(progressBar.ReplaceAllString(ev.messages, "\n"), 1); len(lines) == 1 {
		return strings.TrimSpace(lines[0]) + " (" + ended + ")"
	}
	return ended
}

// blame says which channel the failed derivation belongs to.
func (e *PullError) blame(s story) {
	_, name, _ := strings.Cut(strings.TrimSuffix(path.Base(s.derivation), ".drv"), "-")
	_, isChannel := s.commits[name]
	switch {
	case name == "guix-package-cache":
		e.Stage = StagePackageCache
	case name == "profile":
		e.Stage = StageProfile
	case isChannel:
		e.Stage, e.Channel = StageBuild, name
	default: // a part of Guix itself
		e.Stage, e.Channel = StageBuild, "guix"
	}
}

// buildScript is what builds the channel called guix. Guix runs it itself, not in a build.
const buildScript = "build-aux/build-self.scm"

func (e *PullError) blameBuildScript(ev evidence) {
	e.Channel = "guix"
	if strings.Contains(ev.messages, buildScript) {
		e.Location = Location{File: buildScript}
	}
}

// hintUnless is Guix's hint; the one about the package cache only says that
// channels may be incompatible.
func (s *story) hintUnless(stage Stage) string {
	if stage == StagePackageCache {
		return ""
	}
	return s.hint
}

// What messages tell of the cause, the first that matches.
var causes = []struct {
	text  *regexp.Regexp
	cause Cause
}{
	{regexp.MustCompile(`No space left on device|Disk quota exceeded|database or disk is full`), CauseNoSpace},
	{regexp.MustCompile(`not signed by an authorized key|could not authenticate|lacks a signature|^initial commit .* is signed by|` +
		`lacks an introduction|invalid signature|signature verification failed|not a descendant of introductory commit|` +
		`unauthorized`), CauseAuthentication},
	{regexp.MustCompile(`'guix' channel is lacking`), CauseMissingGuix},
	{regexp.MustCompile(`failed to connect to .?/|while setting up the build environment|failed to connect to .?(guix|ssh):|` +
		`Resource temporarily unavailable|Cannot allocate memory|unexpected EOF reading|signal: killed`), CauseMachinery},
	{regexp.MustCompile(`failed to resolve address|[Nn]ame or service not known|failed to download|[Ff]ailed to connect|Connection (refused|reset|timed out)|timed out|` +
		`Network is unreachable|No route to host|SSL error|TLS|unexpected http status|early EOF`), CauseNetwork},
	{regexp.MustCompile(`^Git error|cannot find reference|no match for id|remote-tracking branch`), CauseRepository},
	{regexp.MustCompile(`is not owned by|[Pp]ermission denied|Read-only file system|while creating directory`), CausePermission},
	{regexp.MustCompile(`did not return a list of channels`), CauseChannelsFile},
	{regexp.MustCompile(`no code for module`), CauseMissingModule},
	{regexp.MustCompile(`Unbound variable|: unbound variable|no binding .* in module`), CauseUnboundVariable},
	{regexp.MustCompile(`missing closing parenthesis|unexpected end of input|unexpected "|Unknown # object|` +
		`extraneous field initializers|missing field initializers|failed to match any pattern`), CauseSyntax},
}

// killed is what guix-daemon says of a builder that somebody else ended: the kernel for
// want of memory, a person, a machine going down. No channel is to blame for that.
var killed = regexp.MustCompile(`(?m)^builder for .?(/gnu/store/[^ ']+)' failed due to signal (?:9|15)\b.*$`)

// noteKilled makes a killed builder the cause, whatever its log ends with.
func (f *Failure) noteKilled(messages string) {
	if m := killed.FindStringSubmatch(messages); m != nil {
		f.Cause, f.Message, f.Location = CauseMachinery, strings.TrimSpace(m[0]), Location{}
	}
}

// timedOut is what guix-daemon says of a builder that it ended because of --timeout or
// --max-silent-time. (Guix 1.5.0 prints "after %2% seconds" for the first.)
var timedOut = regexp.MustCompile(`(?m)^building of .?(/gnu/store/[^ ']+)' timed out after (\S+ seconds)(.*)$`)

// noteTimedOut makes a builder that was ended because of its time the cause.
func (f *Failure) noteTimedOut(messages string) {
	m := timedOut.FindStringSubmatch(messages)
	if m == nil {
		return
	}
	f.Cause, f.Location, f.Exception = CauseTimeout, Location{}, nil
	_, name, _ := strings.Cut(strings.TrimSuffix(path.Base(m[1]), ".drv"), "-")
	f.Message = "the build of " + name + " timed out"
	if !strings.Contains(m[2], "%") {
		f.Message += " after " + m[2] + m[3]
	}
}

// noteLate makes the failure one of a command that was ended because it took too long. Until
// all channels are fetched that is not their fault.
func (e *PullError) noteLate(after time.Duration) {
	e.Failure = Failure{Cause: CauseTimeout, Message: fmt.Sprintf("not done within %v", after), Log: e.Log}
	if e.Stage == StageStart || e.Stage == StageFetch || e.Stage == StageDependencies {
		e.Cause = CauseNetwork
	}
	e.Module, e.Hint = "", hints[e.Cause]
}

// classify finds the cause.
func (f *Failure) classify() {
	if f.Exception != nil {
		switch f.Exception.Key {
		case "syntax-error", "read-error":
			f.Cause = CauseSyntax
		case "unbound-variable":
			f.Cause = CauseUnboundVariable
		}
	}
	for _, c := range causes {
		if f.Cause == "" && c.text.MatchString(f.Message) {
			f.Cause = c.cause
		}
	}
}

// correctStage puts the failure where it belongs, if that is not where guix pull stood.
func (e *PullError) correctStage(s story) {
	switch {
	case e.Cause == CauseAuthentication:
		e.Stage = StageAuthenticate
	case e.Cause == CauseMissingGuix:
		e.Stage = StageDependencies
	case e.Stage == StageBuild && e.Derivation == "" && (e.Cause == CauseNoSpace || e.Cause == CausePermission):
		e.Stage = StageProfile // all is built, but cannot be linked to
	case e.Stage == StageStart && e.Cause != CausePermission && s.location.File != "":
		e.Cause = CauseChannelsFile
	case s.location.File == ".guix-channel":
		e.Stage = StageDependencies
	}
}

// specificHint is advice that needs to know more than the cause.
func (e *PullError) specificHint(ev evidence, s story) string {
	if e.Cause != CauseMissingModule {
		return ""
	}
	if e.Module != "" && strings.HasSuffix(e.Message, e.Module) {
		return "the file does not define the module that its name calls for"
	}
	if module, owner := ev.ownerOfMissing(e, s); owner != "" {
		return fmt.Sprintf("%s is in channel %s, which is not among those that channel %s is built with: "+
			"Guix hands on only the dependencies that a channel names itself, not theirs (bug 68797); add %[2]s to .guix-channel of %[3]s",
			module, owner, e.Channel)
	}
	return ""
}

// moduleOf is the name of the module that a file, relative to the load path, should define.
func moduleOf(file string) string {
	name, ok := strings.CutSuffix(file, ".scm")
	if !ok || strings.HasPrefix(name, "/") {
		return ""
	}
	words := sexp.L()
	for _, w := range strings.Split(name, "/") {
		words.Items = append(words.Items, sexp.Symbol(w))
	}
	return words.String()
}
