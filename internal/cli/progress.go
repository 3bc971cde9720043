package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A Progress shows people what goes on. On a terminal the step under way turns, with
// its newest detail; elsewhere there are only lines.
type Progress struct {
	out      io.Writer
	terminal bool

	mu   sync.Mutex // guards the rest
	bar  *progressbar.ProgressBar
	step string
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
		progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond))
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
	p.bar.Add(1)
}

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
	if p.bar != nil {
		p.bar.Finish()
		p.bar = nil
	}
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
