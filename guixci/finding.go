package guixci

import (
	"context"
	"errors"
	"slices"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/record"
)

// A Change says how a job, or the pull, compares with before.
type Change string

// The changes.
const (
	NewlyBroken Change = "newly broken" // it was good the last time, or is not known from before
	StillBroken Change = "still broken"
	Fixed       Change = "fixed"
	Undecided   Change = "undecided" // the machinery failed, so nothing is known
)

// A Finding is a job that is broken or fixed, and what there is to know about that.
type Finding struct {
	Change Change `json:"change"`
	// Job is its name; empty for the pull itself, which has no jobs while it is broken.
	Job     string   `json:"job,omitempty"`
	System  string   `json:"system,omitempty"`
	Cause   string   `json:"cause,omitempty"`   // why it is broken
	Culprit string   `json:"culprit,omitempty"` // derivation of the dependency that failed
	Telling []string `json:"telling,omitempty"` // lines of the log, or the exception
	Log     string   `json:"log,omitempty"`     // file name, for [build.OpenLog]
	Span
}

// A Span is between two evaluations of a specification, and what happened in its channels.
type Span struct {
	Since  int64  `json:"since"`            // evaluation, since when it is as it is
	Before int64  `json:"before,omitempty"` // the last one before, when it was the other way; 0 if never
	Moves  []Move `json:"moves,omitempty"`  // none without Before
}

// A Move is what happened to a channel in a Span.
type Move struct {
	Channel string         `json:"channel"`
	From    channel.Commit `json:"from,omitempty"` // empty for a channel that is new
	To      channel.Commit `json:"to,omitempty"`   // empty for one that is gone
	// Commits are those that To has and From has not, newest first, not more than 20 of
	// the Total; none if the repository does not have them any more.
	Commits []channel.Note `json:"commits,omitempty"`
	Total   int            `json:"total,omitempty"`
}

const mostNotes = 20

// Findings returns what is broken or fixed in a report that is the newest of its specification:
// newly broken first, undecided last.
func (h *History) Findings(ctx context.Context, r *Report) ([]Finding, error) {
	f := finder{History: h, spec: r.Specification, spans: map[record.Turn]Span{}}
	pull, err := f.pull(ctx, r)
	if err != nil {
		return nil, err
	}
	found := map[Change][]Finding{}
	if pull != nil {
		found[pull.Change] = append(found[pull.Change], *pull)
	}
	for _, j := range r.Jobs {
		finding, err := f.job(ctx, r, j)
		if err != nil {
			return nil, err
		}
		if finding != nil {
			found[finding.Change] = append(found[finding.Change], *finding)
		}
	}
	return slices.Concat(found[NewlyBroken], found[StillBroken], found[Fixed], found[Undecided]), nil
}

// A finder makes the findings of one report. Many jobs break in the same span.
type finder struct {
	*History
	spec  string
	spans map[record.Turn]Span
}

// job is the finding about a job; nil if it is as good as before.
func (f *finder) job(ctx context.Context, r *Report, j record.Job) (*Finding, error) {
	if j.Status == record.Succeeded && j.Weather != record.NewSuccess || j.Status == record.Cancelled || !j.Status.Final() {
		return nil, nil
	}
	finding := &Finding{Change: Undecided, Job: j.Name, System: j.System, Span: Span{Since: r.Evaluation}}
	if j.Status.Decided() {
		turn, err := f.record.JobTurn(f.spec, j.Name, j.System)
		if err != nil {
			return nil, err
		}
		if finding.Change = turned(turn, r.Evaluation); finding.Change == "" {
			return nil, nil
		}
		if finding.Span, err = f.span(ctx, turn); err != nil || finding.Change == Fixed {
			return finding, err
		}
	}
	finding.Cause, finding.Culprit = j.Cause, j.Culprit
	if j.Derivation == "" {
		finding.Cause, finding.Telling = "no derivation", []string{j.Error}
		return finding, nil
	}
	b, err := f.buildOf(j)
	if errors.Is(err, record.ErrNotFound) {
		return finding, nil
	}
	if err == nil {
		finding.Telling, finding.Log = b.Telling, b.Log
	}
	return finding, err
}

// turned is the change that a turn is to an evaluation; empty if it has been good before, as far as is known.
func turned(turn record.Turn, evaluation int64) Change {
	switch now := turn.Since >= evaluation; {
	case turn.Bad && now:
		return NewlyBroken
	case turn.Bad:
		return StillBroken
	case now && turn.Before != 0:
		return Fixed
	}
	return ""
}

// pull is the finding about "guix pull"; nil if that is as good as before.
func (f *finder) pull(ctx context.Context, r *Report) (*Finding, error) {
	turn, err := f.record.PullTurn(f.spec)
	if err != nil || turn.Since == 0 {
		return nil, err
	}
	finding := &Finding{Change: turned(turn, r.Evaluation)}
	if finding.Change == "" {
		return nil, nil
	}
	if turn.Bad {
		finding.Cause, finding.Telling = "red", []string{r.Verdict.String()}
	}
	finding.Span, err = f.span(ctx, turn)
	return finding, err
}

// span finds out what happened between two evaluations.
func (f *finder) span(ctx context.Context, turn record.Turn) (Span, error) {
	if s, ok := f.spans[turn]; ok {
		return s, nil
	}
	s := Span{Since: turn.Since, Before: turn.Before}
	if s.Before != 0 {
		moves, err := f.Moves(ctx, s.Before, s.Since)
		if err != nil {
			return s, err
		}
		s.Moves = moves
	}
	f.spans[turn] = s
	return s, nil
}

// Moves returns what happened in the channels between the locks of two evaluations.
func (h *History) Moves(ctx context.Context, before, since int64) (moves []Move, err error) {
	var locks [2]*channel.Lock
	for i, id := range []int64{before, since} {
		e, err := h.record.Evaluation(id)
		if err != nil {
			return nil, err
		}
		if locks[i], err = recordedLock(e); err != nil {
			return nil, err
		}
	}
	old := locks[0].List()
	for _, c := range locks[1].Channels {
		was, ok := old.Named(c.Name)
		if ok && was.Commit == c.Commit {
			continue
		}
		m := Move{Channel: c.Name, From: was.Commit, To: c.Commit}
		if ok {
			m.Commits, m.Total = h.between(ctx, c.URL, m)
		}
		moves = append(moves, m)
	}
	for _, was := range old {
		if _, still := locks[1].List().Named(was.Name); !still {
			moves = append(moves, Move{Channel: was.Name, From: was.Commit})
		}
	}
	return moves, ctx.Err()
}

// between returns the commits of a move, none if they cannot be had: then the two ends must do.
func (h *History) between(ctx context.Context, url string, m Move) ([]channel.Note, int) {
	repo, err := h.repos.Open(ctx, url)
	if err != nil {
		return nil, 0
	}
	notes, total, err := repo.Between(ctx, m.From, m.To, mostNotes)
	if err != nil {
		return nil, 0
	}
	return notes, total
}
