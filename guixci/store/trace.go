package store

import (
	"bytes"
	"cmp"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A Kind says what an [Event] tells, in the words of the daemon's build trace.
// Words unknown here are passed on as they come, with their Args.
type Kind string

const (
	BuildStarted        Kind = "build-started"        // Derivation, System, LogFile, PID
	BuildSucceeded      Kind = "build-succeeded"      // Derivation
	BuildFailed         Kind = "build-failed"         // Derivation, Text says why
	BuildLog            Kind = "build-log"            // Text, PID, and Derivation where known
	BuildRemote         Kind = "build-remote"         // Derivation, Text is the machine it is built on
	HookFailed          Kind = "hook-failed"          // Derivation, Text: offloading it failed
	UnsupportedPlatform Kind = "unsupported-platform" // Derivation, System
	HashMismatch        Kind = "hash-mismatch"        // Path, Args: algorithm, expected, actual
	SubstituterStarted  Kind = "substituter-started"  // Path
	SubstituterDone     Kind = "substituter-succeeded"
	SubstituterFailed   Kind = "substituter-failed" // Path, Text says why
	DownloadStarted     Kind = "download-started"   // Path, URL, Size where known
	DownloadProgress    Kind = "download-progress"  // Path, URL, Size, Done
	DownloadDone        Kind = "download-succeeded" // Path, URL, Size
	DownloadFailed      Kind = "download-failed"
	DaemonMessage       Kind = "message" // Text: what the daemon itself says, for people
)

// An Event is something that happened during [Client.Build] or
// [Client.EnsurePath]. Which fields are set depends on its Kind.
type Event struct {
	Kind       Kind
	Derivation StorePath
	Path       StorePath
	PID        int    // of the builder, on the daemon's machine
	System     string // "x86_64-linux"
	LogFile    string // where the daemon keeps the log, compressed; empty if it does not
	URL        string
	Size, Done int64 // bytes, 0 if unknown
	Args       []string

	// Text is free text. That of all events of one PID between its start and
	// its end, put together, is the build's log byte for byte: each has one
	// line with its newline, except the last line of a log that has none, and
	// lines longer than 64 KiB, which come in pieces.
	Text string
}

// maxLine bounds what is kept of a line that does not end.
const maxLine = 64 << 10

// A traceParser turns what the daemon prints during a build, traces mixed with
// the framed output of the builders, into events.
//
//	@ build-started /gnu/store/….drv - x86_64-linux /var/log/guix/… 4711
//	@ build-log 4711 12
//	hello world
//	@ build-succeeded /gnu/store/….drv -
//
// Nothing a builder prints can pass for a trace, since its output is counted.
type traceParser struct {
	emit func(Event)

	line []byte // incomplete line of the daemon's own

	builder *builder // whose output comes next
	left    int      // how many bytes of it

	builders map[int]*builder
}

// A builder is a process whose output is on its way.
type builder struct {
	pid  int
	drv  StorePath
	line []byte // incomplete line
}

func newTraceParser(emit func(Event)) *traceParser {
	return &traceParser{emit: emit, builders: map[int]*builder{}}
}

// write takes the next piece of the daemon's output, cut anywhere.
func (p *traceParser) write(b []byte) {
	for len(b) > 0 {
		if p.left > 0 {
			n := min(p.left, len(b))
			p.output(p.builder, b[:n])
			p.left -= n
			b = b[n:]
			continue
		}
		end := bytes.IndexAny(b, "\n\r") // substituters show progress with \r
		if end < 0 {
			p.line = append(p.line, b...)
			if len(p.line) > maxLine {
				p.message()
			}
			return
		}
		p.line = append(p.line, b[:end+1]...)
		b = b[end+1:]
		p.own()
	}
}

// close passes on what has no end.
func (p *traceParser) close() {
	p.message()
	for _, b := range p.sorted() {
		p.flush(b)
		delete(p.builders, b.pid)
	}
}

// sorted returns the builders by PID.
func (p *traceParser) sorted() []*builder {
	return slices.SortedFunc(maps.Values(p.builders), func(a, b *builder) int { return cmp.Compare(a.pid, b.pid) })
}

// own handles a line of the daemon's own.
func (p *traceParser) own() {
	rest, ok := bytes.CutPrefix(p.line, []byte("@ "))
	if !ok {
		p.message()
		return
	}
	words := strings.Split(strings.TrimRight(string(rest), "\r\n"), " ")
	if Kind(words[0]) == BuildLog {
		if !p.frame(words[1:]) {
			p.message()
		}
		p.line = p.line[:0]
		return
	}
	p.line = p.line[:0]
	e := traceEvent(Kind(words[0]), words[1:])
	if e.Kind == BuildStarted {
		p.start(e)
	}
	if e.Kind == BuildSucceeded || e.Kind == BuildFailed || e.Kind == HookFailed {
		e.PID = p.end(e.Derivation)
	}
	p.emit(e)
}

// frame reads the announcement of a builder's output: its PID and a length.
func (p *traceParser) frame(words []string) bool {
	if len(words) != 2 {
		return false
	}
	pid, err1 := strconv.Atoi(words[0])
	n, err2 := strconv.Atoi(words[1])
	if err1 != nil || err2 != nil || n < 0 || n > math.MaxInt32 {
		return false
	}
	p.left = n
	p.builder = p.get(pid)
	return true
}

func (p *traceParser) get(pid int) *builder {
	b := p.builders[pid]
	if b == nil {
		b = &builder{pid: pid}
		p.builders[pid] = b
	}
	return b
}

// start notes which derivation a process builds. Process numbers come round.
func (p *traceParser) start(e Event) {
	if old := p.builders[e.PID]; old != nil {
		p.flush(old)
	}
	p.builders[e.PID] = &builder{pid: e.PID, drv: e.Derivation}
}

// end forgets the builder of drv and returns its PID.
func (p *traceParser) end(drv StorePath) int {
	for _, b := range p.sorted() {
		if b.drv == drv {
			p.flush(b)
			delete(p.builders, b.pid)
			return b.pid
		}
	}
	return 0
}

// output cuts a builder's output into lines.
func (p *traceParser) output(b *builder, text []byte) {
	for len(text) > 0 {
		end := bytes.IndexByte(text, '\n') + 1
		whole := end > 0
		if !whole {
			end = len(text)
		}
		end = min(end, maxLine-len(b.line))
		b.line = append(b.line, text[:end]...)
		text = text[end:]
		if b.line[len(b.line)-1] == '\n' || len(b.line) == maxLine {
			p.flush(b)
		}
	}
}

// flush emits the line that a builder has begun.
func (p *traceParser) flush(b *builder) {
	if len(b.line) == 0 {
		return
	}
	e := logEvent(string(b.line))
	e.PID = b.pid
	if e.Derivation == "" {
		e.Derivation = b.drv
	}
	b.line = b.line[:0]
	p.emit(e)
}

// message passes on what the daemon says itself. When that is about a build,
// it is that it has ended: an unfinished last line of its log comes first.
func (p *traceParser) message() {
	if len(p.line) == 0 {
		return
	}
	text := string(p.line)
	p.line = p.line[:0]
	if drv := derivationIn(text); drv != "" {
		for _, b := range p.sorted() {
			if b.drv == drv {
				p.flush(b)
			}
		}
	}
	p.emit(Event{Kind: DaemonMessage, Text: text})
}

// logEvent tells the few traces that come as output of a builder, because it is
// the builder that downloads or sends a build to another machine, from plain log.
func logEvent(line string) Event {
	if rest, ok := strings.CutPrefix(line, "@ "); ok {
		words := strings.Fields(rest)
		if len(words) > 1 && (words[0] == string(BuildRemote) || strings.HasPrefix(words[0], "download-")) {
			e := traceEvent(Kind(words[0]), words[1:])
			e.Text = line
			return e
		}
	}
	return Event{Kind: BuildLog, Text: line}
}

// traceEvent gives the words of a trace their meaning.
func traceEvent(kind Kind, args []string) Event {
	e := Event{Kind: kind, Args: args}
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch kind {
	case BuildStarted:
		e.Derivation, e.System = StorePath(arg(0)), arg(2)
		if file := arg(3); file != "" {
			e.LogFile = path.Clean(file) // the daemon doubles a slash
		}
		e.PID, _ = strconv.Atoi(arg(4))
	case BuildSucceeded:
		e.Derivation = StorePath(arg(0))
	case BuildFailed, HookFailed:
		e.Derivation = StorePath(arg(0))
		e.Text = failureText(args)
	case BuildRemote:
		e.Derivation, e.Text = StorePath(arg(0)), arg(1)
	case UnsupportedPlatform:
		e.Derivation, e.System = StorePath(arg(0)), arg(1)
	case SubstituterFailed:
		e.Path = StorePath(arg(0))
		e.Text = strings.Join(args[min(1, len(args)):], " ")
	case HashMismatch:
		e.Path = StorePath(arg(0))
		e.Args = args[min(1, len(args)):]
	case SubstituterStarted, SubstituterDone:
		e.Path = StorePath(arg(0))
	case DownloadStarted, DownloadProgress, DownloadDone, DownloadFailed:
		e.Path, e.URL = StorePath(arg(0)), arg(1)
		e.Size, _ = strconv.ParseInt(arg(2), 10, 64)
		e.Done, _ = strconv.ParseInt(arg(3), 10, 64)
	}
	return e
}

// failureText is what follows the derivation in a trace of failure, which is
// "- timeout", "- cached", or "- STATUS MESSAGE…".
func failureText(args []string) string {
	rest := args[min(2, len(args)):]
	if len(rest) > 1 {
		rest = rest[1:]
	}
	return strings.Join(rest, " ")
}
