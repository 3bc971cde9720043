package cli

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A Progress shows people what goes on. On a terminal the step under way turns, with
// its newest detail; elsewhere there are only lines.
type Progress struct {
	out      io.Writer
	terminal bool

	mu    sync.Mutex // guards the rest, and the bar itself, which does not guard all it does
	bar   *progressbar.ProgressBar
	step  string
	stop  chan struct{} // closed to end what turns the bar
	ended chan struct{} // closed when that has ended
}

// NewProgress returns a display on w, usually standard error.
func NewProgress(w io.Writer) *Progress {
	f, ok := w.(*os.File)
	return &Progress{out: w, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// Step begins a step. The one before it must have ended.
func (p *Progress) Step(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step = name
	if !p.terminal {
		return
	}
	p.bar = progressbar.NewOptions(-1,
		progressbar.OptionSetWriter(p.out), progressbar.OptionSetDescription(name),
		progressbar.OptionSpinnerType(14), progressbar.OptionSetElapsedTime(true),
		progressbar.OptionSetSpinnerChangeInterval(0), // no goroutine of its own
		progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(turnEvery))
	p.stop, p.ended = make(chan struct{}), make(chan struct{})
	go p.turn(p.stop, p.ended)
}

const turnEvery = 100 * time.Millisecond

// turn turns the bar, also while there is nothing to tell.
func (p *Progress) turn(stop <-chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	tick := time.NewTicker(turnEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			p.mu.Lock()
			if p.bar != nil {
				p.bar.Add(1)
			}
			p.mu.Unlock()
		}
	}
}

// Detail says what the step is doing just now. Without a terminal it is
// not shown: the lines of a step are those of Line.
func (p *Progress) Detail(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil {
		return
	}
	p.bar.Describe(p.step + ": " + clip(fmt.Sprintf(format, args...)))
}

// Write shows the last line of what a program prints as the detail, so that a Progress can be where its
// output goes.
func (p *Progress) Write(text []byte) (int, error) {
	for line := range strings.FieldsFuncSeq(string(text), func(c rune) bool { return c == '\n' || c == '\r' }) {
		line = strings.Map(func(c rune) rune {
			switch {
			case c == '\t':
				return ' '
			case unicode.IsPrint(c):
				return c
			}
			return -1
		}, controls.ReplaceAllString(line, ""))
		if line = strings.TrimSpace(line); line != "" {
			p.Detail("%s", line)
		}
	}
	return len(text), nil
}

// controls are what programs send to terminals beside text, bars made of blocks, and what
// leaves no room for the names of store items.
var controls = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]|▕[^▏]*▏|/gnu/store/[0-9a-z]{32}-")

// Line writes a line that stays.
func (p *Progress) Line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.bar.Clear()
	}
	fmt.Fprintf(p.out, format+"\n", args...)
}

// Done ends the step.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil {
		return
	}
	p.bar.Finish()
	p.bar = nil
	close(p.stop)
	ended := p.ended
	p.mu.Unlock() // it is needed for a last turn
	<-ended
	p.mu.Lock()
}

// clip keeps a detail on one line of a usual terminal.
func clip(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
