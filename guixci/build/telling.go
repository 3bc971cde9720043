package build

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

const (
	lastLines    = 20  // kept from the end of a log
	tellingLines = 15  // kept of those before that look like an error
	lineLength   = 400 // bytes kept of each
)

// A telling gathers, from a log of any length in bounded memory, the lines
// that are likely to say why a build failed: the last ones, and before them
// the last of those that speak of an error.
type telling struct {
	line  []byte // being written, bounded
	last  ring
	signs ring
}

// A ring keeps the last lines of those put in.
type ring []string

func (r *ring) put(line string, limit int) (out string, full bool) {
	*r = append(*r, line)
	if len(*r) <= limit {
		return "", false
	}
	out = (*r)[0]
	copy(*r, (*r)[1:])
	*r = (*r)[:limit]
	return out, true
}

func (t *telling) write(text []byte) {
	for len(text) > 0 {
		line, rest, ended := bytes.Cut(text, []byte{'\n'})
		if room := lineLength - len(t.line); room > 0 {
			t.line = append(t.line, line[:min(room, len(line))]...)
		}
		if ended {
			t.end()
		}
		text = rest
	}
}

// end completes the line being written.
func (t *telling) end() {
	if line := printable(t.line); line != "" {
		if out, full := t.last.put(line, lastLines); full && speaksOfError(out) {
			t.signs.put(out, tellingLines)
		}
	}
	t.line = t.line[:0]
}

// lines returns what was gathered, in the log's order.
func (t *telling) lines() []string {
	return append(append([]string(nil), t.signs...), t.last...)
}

// escapes are what terminals understand: colours, titles.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)`)

// printable makes text fit to be shown anywhere.
func printable(line []byte) string {
	if i := bytes.LastIndexByte(bytes.TrimRight(line, "\r"), '\r'); i >= 0 {
		line = line[i+1:] // a progress display: what was left on the screen
	}
	if bytes.IndexByte(line, 0x1b) >= 0 {
		line = escapes.ReplaceAll(line, nil)
	}
	text := strings.ToValidUTF8(string(line), "\uFFFD")
	text = strings.Map(func(c rune) rune {
		if c == '\t' || unicode.IsPrint(c) {
			return c
		}
		return -1
	}, text)
	return strings.TrimRight(text, " \t")
}

var (
	errorWords = regexp.MustCompile(`(?i)\b(error|errors|failed|failure|failures|fatal|exception|abort(ed)?|cannot|unbound variable|undefined reference|no such file|not found|traceback|panic|segmentation fault)\b|\*\*\*`)
	noErrors   = regexp.MustCompile(`(?i)\b(0|no) (errors?|failed|failures?)\b|\b(errors?|failed|failures?)[:=] *0\b|^checking |-W(no-)?error|\.\.\. (yes|no|ok)$|\berrors?\.(h|l?o|html|pyc)\b`)
)

// hints are parts of the words above, small and quickly looked for.
var hints = []string{"err", "fail", "fatal", "except", "abort", "cannot", "unbound", "undefined",
	"no such", "not found", "trace", "panic", "fault", "***"}

// speaksOfError reports whether a line looks as if something went wrong there.
// Most lines do not, and there may be millions, so the cheap question comes first.
func speaksOfError(line string) bool {
	small := strings.ToLower(line)
	if !slices.ContainsFunc(hints, func(hint string) bool { return strings.Contains(small, hint) }) {
		return false
	}
	return errorWords.MatchString(line) && !noErrors.MatchString(line)
}

var memoryWords = regexp.MustCompile(`(?i)virtual memory exhausted|Killed signal terminated program|^fatal error: out of memory|Heap exhausted, game over|GC Warning: Out of Memory|LLVM ERROR: out of memory|^g?make.*Error 137$`)

// outOfMemory reports whether the log ends with what compilers say
// when they are refused memory or killed for want of it.
func (t *telling) outOfMemory() bool {
	for _, line := range t.last {
		if memoryWords.MatchString(line) {
			return true
		}
	}
	return false
}
