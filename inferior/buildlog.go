package inferior

import (
	"cmp"
	"compress/bzip2"
	"compress/gzip"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/genenetwork/guixci/inferior/sexp"
)

func (ev *evidence) setDefaults() {
	if ev.log == nil {
		ev.log = readBuildLog
	}
	if ev.file == nil {
		ev.file = func(path string) []byte {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil // the store may be somewhere else
			}
			return b
		}
	}
	if ev.walk == nil {
		ev.walk = schemeFiles
	}
}

// readBuildLog returns the end of a log that guix-daemon wrote; what is there,
// if it cannot be read to the end.
func readBuildLog(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".gz":
		if r, err = gzip.NewReader(f); err != nil {
			return ""
		}
	case ".bz2":
		r = bzip2.NewReader(f)
	}
	var end tail
	io.Copy(&end, r)
	return end.String()
}

// schemeFiles lists the modules beneath a directory, in alphabetical order.
func schemeFiles(directory string) []string {
	var files []string
	filepath.WalkDir(directory, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, ".scm") {
			if name, err := filepath.Rel(directory, path); err == nil {
				files = append(files, name)
			}
		}
		return nil
	})
	return files
}

// readBuild adds what the log of the failed build tells.
func (ev *evidence) readBuild(f *Failure, s story) {
	log := ev.log(s.log)
	if log == "" {
		return
	}
	f.Log += "\n" + strings.Join(lastLines(log, 40), "\n")
	if f.Exception = lastException(log); f.Exception != nil {
		f.Message = oneLine(f.Exception.Message())
		f.Location = thrownAt(f.Exception, &f.Message)
		return
	}
	if line := tellingLine(log); line != "" {
		f.Message = line
	}
}

var anError = regexp.MustCompile(`(?i)\berror\b|\bfailed\b`)

// tellingLine returns the line of a log that says what went wrong: Guile's, which may
// take two, else the last that speaks of an error, else the last.
func tellingLine(log string) string {
	lines := lastLines(log, 200)
	for i, line := range slices.Backward(lines) {
		rest := guilePlace.ReplaceAllString(line, "")
		if rest == line {
			continue
		}
		if strings.HasSuffix(rest, ":") && i+1 < len(lines) {
			rest += " " + lines[i+1]
		}
		return oneLine(rest)
	}
	for _, line := range slices.Backward(lines) {
		if anError.MatchString(line) {
			return oneLine(line)
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return oneLine(lines[len(lines)-1])
}

// place finds out where a channel's exception comes from that does not say so.
func (e *PullError) place(ev evidence, s story) {
	if e.Exception == nil {
		return
	}
	sources, channel := ev.sources(s), ""
	if e.Location.File == "" {
		channel, e.Location = ev.inBacktrace(ev.log(s.log), sources)
	}
	if e.Location.File == "" {
		e.Location = ev.mentioned(e.Exception, sources[e.Channel])
	}
	if e.Channel == "" {
		e.Channel = cmp.Or(channel, onlyOther(s.commits))
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// onlyOther returns the one channel beside guix, if it is one.
func onlyOther(commits map[string]string) string {
	var others []string
	for name := range commits {
		if name != "guix" {
			others = append(others, name)
		}
	}
	if len(others) == 1 {
		return others[0]
	}
	return ""
}

// lastException reads the last reply of the inferior that did the build.
func lastException(log string) *Exception {
	lines := strings.Split(log, "\n")
	for _, line := range slices.Backward(lines) {
		if !strings.HasPrefix(line, "(exception ") {
			continue
		}
		v, err := sexp.Parse(line)
		if err != nil {
			continue
		}
		rest, _ := sexp.Tagged(v, "exception")
		if e, err := decodeException(rest); err == nil {
			return e
		}
	}
	return nil
}

// placed is a message that starts with a place, as those of the reader do.
var placed = regexp.MustCompile(`^(/[^:\s]+):(\d+):(\d+): (.*)$`)

// thrownAt finds the place that the exception itself names, which it cuts from the message.
func thrownAt(e *Exception, message *string) (l Location) {
	if m := placed.FindStringSubmatch(*message); m != nil {
		*message = m[4]
		return place(m[1], m[2], m[3])
	}
	if e.Key != "syntax-error" || len(e.Args) < 3 {
		return l
	}
	// (syntax-error FORM MESSAGE PROPERTIES TEXT SUBFORM)
	form, properties := displayed(e.Args[0]), e.Args[2]
	if what, ok := e.Args[1].(sexp.String); ok {
		*message = form + ": " + string(what)
	}
	file, _ := sexp.Field(properties, "filename")
	line, _ := sexp.Field(properties, "line")
	column, _ := sexp.Field(properties, "column")
	if name, ok := sexp.Text(file); ok {
		l = Location{File: relative(name), Line: integer(line) + 1, Column: integer(column)}
	}
	return l
}

var (
	backtraceFile  = regexp.MustCompile(`^In (\S+):$`)
	backtraceFrame = regexp.MustCompile(`^ +(\d+):(\d+) +\d+ \(`)
)

// inBacktrace returns the innermost frame of a backtrace that is in a
// channel's own code. Guile prints the outermost first.
func (ev *evidence) inBacktrace(log string, sources map[string]string) (channel string, l Location) {
	file := ""
	for line := range strings.Lines(log) {
		line = strings.TrimRight(line, "\n")
		if m := backtraceFile.FindStringSubmatch(line); m != nil {
			file = m[1]
			continue
		}
		m := backtraceFrame.FindStringSubmatch(line)
		if m == nil || partOfGuile(file) || strings.HasPrefix(file, "guix/") {
			continue
		}
		for name, source := range sources {
			if name != "guix" && ev.file(path.Join(source, ev.directory(source), relative(file))) != nil {
				channel, l = name, place(file, m[1], m[2])
			}
		}
	}
	return channel, l
}

// mentioned looks in the channel's source for the name that the exception is about: it
// came without a place, as a build's exceptions do.
func (ev *evidence) mentioned(e *Exception, source string) Location {
	if source == "" || len(e.Args) < 3 {
		return Location{}
	}
	names, _ := sexp.Items(e.Args[2])
	format, _ := sexp.Text(e.Args[1])
	about := e.Key == "unbound-variable" || strings.Contains(format, "no code for module")
	if !about || len(names) == 0 {
		return Location{}
	}
	root := path.Join(source, ev.directory(source))
	for _, file := range ev.walk(root) {
		if at, ok := find(ev.file(path.Join(root, file)), names[0].String()); ok {
			return Location{File: file, Line: at.line, Column: at.column}
		}
		if moduleOf(file) == names[0].String() { // it is there, but is called something else
			return Location{File: file, Line: 1}
		}
	}
	return Location{}
}

// ownerOfMissing finds the module that an exception says there is no code for, in another channel.
func (ev *evidence) ownerOfMissing(e *PullError, s story) (module, owner string) {
	if e.Exception == nil || len(e.Exception.Args) < 3 {
		return "", ""
	}
	names, _ := sexp.Items(e.Exception.Args[2])
	if len(names) == 0 {
		return "", ""
	}
	sources := ev.sources(s)
	for _, channel := range slices.Sorted(maps.Keys(sources)) {
		source := sources[channel]
		if channel != e.Channel && channel != "guix" && slices.ContainsFunc(ev.walk(path.Join(source, ev.directory(source))), func(file string) bool {
			return moduleOf(file) == names[0].String()
		}) {
			return names[0].String(), channel
		}
	}
	return "", ""
}

var storeItem = regexp.MustCompile(`/gnu/store/[0-9a-z]{32}-[^"\\\s)]+`)

// sources finds the checkouts of the channels in the store, by way of the
// derivations between them and the one that failed. They end in the commit's first seven digits.
func (ev *evidence) sources(s story) map[string]string {
	sources := make(map[string]string)
	seen := make(map[string]bool)
	queue := []string{s.derivation, s.profile}
	for len(queue) > 0 && len(seen) < 100 {
		drv := queue[0]
		queue = queue[1:]
		if seen[drv] {
			continue
		}
		seen[drv] = true
		for _, item := range storeItem.FindAllString(string(ev.file(drv)), -1) {
			for channel, commit := range s.commits {
				if strings.HasSuffix(item, "-"+commit) {
					sources[channel] = item
				}
			}
			if s.leadsToSources(item) {
				queue = append(queue, item)
			}
		}
	}
	return sources
}

// leadsToSources reports whether a derivation is one of those that stand between
// a pulled profile and the channels.
func (s *story) leadsToSources(item string) bool {
	_, name, _ := strings.Cut(path.Base(item), "-")
	name, isDerivation := strings.CutSuffix(name, ".drv")
	_, isChannel := s.commits[name]
	return isDerivation && (isChannel || name == "inferior-script.scm" || name == "profile" || name == "guix-package-cache")
}

// directory is where a channel's modules are, from its .guix-channel.
func (ev *evidence) directory(source string) string {
	v, err := sexp.Parse(string(ev.file(path.Join(source, ".guix-channel"))))
	if err != nil {
		return ""
	}
	return text(v, "directory")
}
