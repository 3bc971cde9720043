package channel

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A Remote is where a [Watcher] looks. *[Repositories] is one.
type Remote interface {
	// References lists the branches and tags at a URL, without a clone.
	References(ctx context.Context, url string) (map[string]Commit, error)
	// IsAncestor reports whether commit a of a channel's repository is b or comes before it.
	IsAncestor(ctx context.Context, c Channel, a, b Commit) (bool, error)
}

// A Watcher sees the branches of channels move. Only references are asked for, until
// one has moved. Fields must not change once Updates is called.
type Watcher struct {
	Remote   Remote // required
	Channels List   // those with a complete commit do not move and are not watched
	// Heads is where channels stood before, by name. A channel that is not in it is
	// reported at the first look.
	Heads      map[string]Commit
	Interval   time.Duration // between two looks, on average; 0 means one minute
	MaxBackoff time.Duration // between two looks at a host that fails; 0 means half an hour
	Timeout    time.Duration // of one look; 0 means one minute
	Logger     *slog.Logger  // nil discards

	start    sync.Once
	wake     chan struct{} // a token says that something was poked
	mu       sync.Mutex    // guards the rest
	branches map[string][]*branch
	places   []*watched
	hosts    map[string]*host
}

// An Update says that a branch moved.
type Update struct {
	Channel Channel `json:"channel"`
	Old     Commit  `json:"old,omitempty"` // empty at the first look
	New     Commit  `json:"new"`
	// Rewritten: New does not come after Old. The Watcher goes on to compare with Old,
	// and reports nothing until the branch comes after it again or somebody
	// calls [Watcher.Follow].
	Rewritten bool `json:"rewritten,omitempty"`
}

// A PollError says that a repository could not be looked at, and when it will be again.
type PollError struct {
	URL  string
	Next time.Time
	Err  error
}

func (e *PollError) Error() string {
	return fmt.Sprintf("watch %q: %v (again at %s)", e.URL, e.Err, e.Next.Format(time.TimeOnly))
}

// Unwrap returns the cause.
func (e *PollError) Unwrap() error { return e.Err }

// A branch is a channel that is watched.
type branch struct {
	channel  Channel
	head     Commit // that is believed in
	rejected Commit // a rewritten head that was reported
}

// watched is a URL.
type watched struct {
	url   string
	next  time.Time
	poked bool
}

// A host is what answers or fails for several URLs at once.
type host struct {
	failures int
	until    time.Time // not to be asked before
}

func (w *Watcher) init() {
	w.start.Do(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.wake = make(chan struct{}, 1)
		w.branches, w.hosts = map[string][]*branch{}, map[string]*host{}
		for _, c := range w.Channels {
			if c = c.withDefaults(); c.Commit.Complete() {
				continue
			}
			if w.branches[c.URL] == nil {
				w.places = append(w.places, &watched{url: c.URL})
			}
			w.branches[c.URL] = append(w.branches[c.URL], &branch{channel: c, head: w.Heads[c.Name]})
		}
	})
}

// Updates yields the moves of branches as they are seen, each look's in the order of
// Channels. An error, a *[PollError], concerns one look at one repository and does not end
// the sequence; ctx does, and so does leaving the loop. Call it once.
func (w *Watcher) Updates(ctx context.Context) iter.Seq2[Update, error] {
	w.init()
	return func(yield func(Update, error) bool) {
		for ctx.Err() == nil {
			for _, l := range w.look(ctx, w.due(time.Now())) {
				if !w.report(ctx, l, yield) {
					return
				}
			}
			w.wait(ctx)
		}
	}
}

// Poke has a repository looked at now: one that a webhook says was pushed to. It takes
// the name of a channel or a URL, and reports whether that is watched.
func (w *Watcher) Poke(name string) bool {
	w.init()
	w.mu.Lock()
	defer w.mu.Unlock()
	found := false
	for _, p := range w.places {
		if p.url == name || slices.ContainsFunc(w.branches[p.url], func(b *branch) bool { return b.channel.Name == name }) {
			p.poked, found = true, true
		}
	}
	if found {
		select {
		case w.wake <- struct{}{}:
		default: // it is awake already
		}
	}
	return found
}

// Follow makes commit the head that the next one of a channel must come after: the
// answer to a rewritten branch, by somebody who knows why.
func (w *Watcher) Follow(name string, commit Commit) {
	w.init()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, all := range w.branches {
		for _, b := range all {
			if b.channel.Name == name {
				b.head, b.rejected = commit, ""
			}
		}
	}
}

// due returns the URLs to look at now.
func (w *Watcher) due(now time.Time) (urls []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.places {
		if p.poked || !p.next.After(now) && !w.host(p.url).until.After(now) {
			p.poked = false
			urls = append(urls, p.url)
		}
	}
	return urls
}

// wait returns when something is due, something was poked, or ctx ends.
func (w *Watcher) wait(ctx context.Context) {
	w.mu.Lock()
	var next time.Time
	for _, p := range w.places {
		at := later(p.next, w.host(p.url).until)
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	w.mu.Unlock()
	var timer <-chan time.Time
	if !next.IsZero() { // else nothing is watched
		t := time.NewTimer(time.Until(next))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
	case <-timer:
	case <-w.wake:
	}
}

// host returns what is known of the host of a URL. A repository on this machine has
// one of its own.
func (w *Watcher) host(at string) *host {
	name := at
	if u, err := url.Parse(at); err == nil && u.Host != "" {
		name = u.Host
	}
	if w.hosts[name] == nil {
		w.hosts[name] = &host{}
	}
	return w.hosts[name]
}

// A sight is what one look at a URL found.
type sight struct {
	url  string
	refs map[string]Commit
	err  error
}

func (w *Watcher) look(ctx context.Context, urls []string) []sight {
	const atOnce = 16
	sights := make([]sight, len(urls))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, url := range urls {
		group.Go(func() error {
			limited, cancel := context.WithTimeout(ctx, orDefault(w.Timeout, time.Minute))
			defer cancel()
			refs, err := w.Remote.References(limited, url)
			sights[i] = sight{url, refs, err}
			return nil
		})
	}
	group.Wait() // they report their errors themselves
	return sights
}

// report yields what a look has found, and says when the next one is.
func (w *Watcher) report(ctx context.Context, s sight, yield func(Update, error) bool) bool {
	if ctx.Err() != nil {
		return false
	}
	next := w.schedule(s)
	if s.err != nil {
		return yield(Update{}, &PollError{s.url, next, s.err})
	}
	for _, b := range w.branches[s.url] {
		u, moved, err := w.compare(ctx, b, s.refs)
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil && !yield(Update{}, &PollError{s.url, next, err}):
			return false
		case moved && !yield(u, nil):
			return false
		}
	}
	return true
}

// schedule sets the time of the next look. A host that fails is asked less and less.
func (w *Watcher) schedule(s sight) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, interval := time.Now(), orDefault(w.Interval, time.Minute)
	h := w.host(s.url)
	if s.err == nil {
		*h = host{}
	} else if !h.until.After(now) { // several failures of one look count once
		h.failures++
		back := min(interval<<min(h.failures, 20), orDefault(w.MaxBackoff, 30*time.Minute))
		h.until = now.Add(jitter(max(back, interval)))
	}
	i := slices.IndexFunc(w.places, func(p *watched) bool { return p.url == s.url })
	p := w.places[i]
	p.next = now.Add(jitter(interval))
	return later(p.next, h.until)
}

// jitter keeps those who started together from asking together: a tenth either way.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// compare tells a branch's new head from its old one.
func (w *Watcher) compare(ctx context.Context, b *branch, refs map[string]Commit) (u Update, moved bool, err error) {
	head, err := headAmong(refs, b.channel)
	w.mu.Lock()
	old, rejected := b.head, b.rejected
	w.mu.Unlock()
	if err != nil || head == old || head == rejected {
		return u, false, err
	}
	u = Update{Channel: b.channel, Old: old, New: head}
	if old != "" {
		forward, err := w.Remote.IsAncestor(ctx, b.channel, old, head)
		if err != nil {
			return u, false, err
		}
		u.Rewritten = !forward
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if u.Rewritten {
		b.rejected = head
	} else {
		b.head, b.rejected = head, ""
	}
	return u, true, nil
}

// Known returns the heads that are believed in, by channel: Heads for the next time.
func (w *Watcher) Known() map[string]Commit {
	w.init()
	w.mu.Lock()
	defer w.mu.Unlock()
	heads := maps.Clone(w.Heads)
	if heads == nil {
		heads = map[string]Commit{}
	}
	for _, all := range w.branches {
		for _, b := range all {
			if b.head != "" {
				heads[b.channel.Name] = b.head
			}
		}
	}
	return heads
}

// IsAncestor fetches the repository of c and reports whether a is b or comes before it.
// A commit that is gone comes before none.
func (s *Repositories) IsAncestor(ctx context.Context, c Channel, a, b Commit) (bool, error) {
	r, err := s.Fetch(ctx, c.URL)
	if err != nil {
		return false, err
	}
	if !r.has(b) {
		return false, &RepositoryError{URL: c.URL, Err: errors.New("it has changed meanwhile: it has no commit " + string(b))}
	}
	return r.IsAncestor(ctx, a, b)
}
