package check

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/record"
)

// Limits of what people read.
const (
	mostJobs  = 30 // of one span
	mostLines = 10 // of one log
)

// table tells people what is broken and fixed: the jobs that became so in the same span under one
// heading, with what was committed in it.
func table(line func(format string, args ...any), r *guixci.Report, findings []guixci.Finding) {
	type heading struct {
		change        guixci.Change
		since, before int64
	}
	var order []heading
	groups := map[heading][]guixci.Finding{}
	for _, f := range findings {
		h := heading{f.Change, f.Since, f.Before}
		if groups[h] == nil {
			order = append(order, h)
		}
		groups[h] = append(groups[h], f)
	}
	for _, h := range order {
		group := groups[h]
		line("%s", title(h.change, group[0].Span))
		for _, m := range group[0].Moves {
			move(line, m)
		}
		for i, f := range group {
			if i == mostJobs {
				line("  and %d more", len(group)-mostJobs)
				break
			}
			finding(line, f)
		}
	}
	if r.Verdict.Hint != "" {
		line("hint: %s", r.Verdict.Hint)
	}
	what := "evaluation"
	if r.Unchanged {
		what = "unchanged since evaluation"
	}
	line("%s: %s %d: %s", r.Specification, what, r.Evaluation, tally(r))
}

// tally counts the jobs of a report by what became of them.
func tally(r *guixci.Report) string {
	if !r.Verdict.Green {
		return "guix pull fails"
	}
	counts := map[record.Status]int{}
	for _, j := range r.Jobs {
		counts[j.Status]++
	}
	text := fmt.Sprintf("%d of %d jobs succeeded", counts[record.Succeeded], len(r.Jobs))
	if n := counts[record.Cancelled]; n > 0 {
		text += fmt.Sprintf(", %d were not built", n)
	}
	return text
}

// title is "newly broken since evaluation 7 (6 was good):".
func title(change guixci.Change, s guixci.Span) string {
	if change == guixci.Undecided {
		return "undecided, to be tried again by the next check:"
	}
	before := "good"
	if change == guixci.Fixed {
		before = "bad"
	}
	text := fmt.Sprintf("%s since evaluation %d", change, s.Since)
	if s.Before != 0 {
		text += fmt.Sprintf(" (%d was %s)", s.Before, before)
	}
	return text + ":"
}

func move(line func(string, ...any), m guixci.Move) {
	switch {
	case m.From == "":
		line("  channel %s is new, at %s", m.Channel, m.To.Short())
	case m.To == "":
		line("  channel %s is gone, was at %s", m.Channel, m.From.Short())
	default:
		line("  channel %s %s..%s", m.Channel, m.From.Short(), m.To.Short())
	}
	for _, c := range m.Commits {
		line("    %s %s (%s)", c.Commit.Short(), c.Subject, c.Author)
	}
	if more := m.Total - len(m.Commits); more > 0 {
		line("    and %d more", more)
	}
}

func finding(line func(string, ...any), f guixci.Finding) {
	text := "  " + cmp.Or(f.Job, "guix pull")
	if f.Cause != "" {
		text += " " + f.Cause
	}
	if f.Culprit != "" {
		text += ": " + strings.TrimSuffix(withoutHash(f.Culprit), ".drv")
	}
	line("%s", text)
	for _, l := range f.Telling[max(0, len(f.Telling)-mostLines):] {
		line("    | %s", l)
	}
}

// withoutHash is the name of a store item for people.
func withoutHash(item string) string {
	base := filepath.Base(item)
	if _, name, ok := strings.Cut(base, "-"); ok {
		return name
	}
	return base
}
