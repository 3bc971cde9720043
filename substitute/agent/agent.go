// Package agent is a substituter: the program that guix-daemon runs to find out
// what substitutes there are, and to fetch them.
//
// The daemon runs "$GUIX substitute", where GUIX is a variable of its environment. A
// program that takes the place of "guix" there answers the two commands
// about substitutes by [Agent], and hands everything else to the real one:
//
//	a := &agent.Agent{Client: client, Options: agent.ParseOptions(os.Getenv("_NIX_OPTIONS"))}
//	err := a.Query(ctx, os.Stdin, os.NewFile(4, "replies"))
//
// An unmodified daemon then downloads through [substitute.Client]: it resumes, and
// goes to the next cache when an archive is cut short or corrupt. The daemon runs one
// substituter for each of its build slots (--max-jobs), which work in parallel.
//
// The protocol is that of nix/libstore/build.cc and (guix scripts substitute) in Guix.
package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
)

// An Agent answers guix-daemon. Fields must not change after the first call.
type Agent struct {
	// Client does the work; the Agent sets its Progress. Required.
	Client *substitute.Client
	// Options are what the daemon passes on from its client.
	Options Options
	// Trace receives what people see of downloads; nil discards.
	Trace io.Writer
	// Links is the directory of the store's hard links, usually
	// "/gnu/store/.links", used when the daemon wants files to be deduplicated.
	// "" leaves them alone.
	Links string
	// Ahead is a file by which the Agent that answers queries tells the one of the same daemon's process
	// that fetches what will be wanted: small items are then fetched while the daemon is busy with those
	// before. Nobody else must be able to write to it. The directory is made when missing. "" is for none.
	Ahead string
	// Logger hears what did not work; nil discards.
	Logger *slog.Logger

	init   sync.Once
	trace  trace
	mu     sync.Mutex // guards offers
	offers map[substitute.StorePath]*substitute.Offer

	foretold *os.File // what Query has written of Ahead
}

func (a *Agent) setup() {
	a.init.Do(func() {
		if a.Logger == nil {
			a.Logger = slog.New(slog.DiscardHandler)
		}
		if a.Trace == nil {
			a.Trace = io.Discard
		}
		a.trace = trace{w: a.Trace, forMachines: a.Options.BuildTrace}
		a.offers = make(map[substitute.StorePath]*substitute.Offer)
		a.Client.Progress = a.trace.progress
	})
}

// maxRequest bounds a line from the daemon: it asks for tens of thousands of
// items at once.
const maxRequest = 64 << 20

// each calls f with the words of each line of in, until it ends.
func each(ctx context.Context, in io.Reader, f func(words []string) error) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxRequest)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			return fmt.Errorf("request %q has no arguments", lines.Text())
		}
		if err := f(words); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return lines.Err()
}

// Query answers "have PATH…" and "info PATH…" until in ends.
func (a *Agent) Query(ctx context.Context, in io.Reader, out io.Writer) error {
	a.setup()
	defer a.endForetelling()
	pruned := make(chan error, 1)
	go func() { pruned <- a.Client.Prune(ctx) }() // now, since guix-daemon kills who has answered it
	defer func() {
		if err := <-pruned; err != nil && ctx.Err() == nil {
			a.Logger.WarnContext(ctx, "files may accumulate", "error", err)
		}
	}()
	err := each(ctx, in, func(words []string) error {
		offers := a.query(ctx, parsePaths(words[1:]))
		var reply strings.Builder
		switch words[0] {
		case "have":
			for _, o := range offers {
				fmt.Fprintln(&reply, o.StorePath)
			}
		case "info":
			for _, o := range offers {
				describe(&reply, o)
			}
			a.foretell(offers)
		default:
			return fmt.Errorf("unknown request %q", words[0])
		}
		reply.WriteByte('\n')
		_, err := io.WriteString(out, reply.String())
		return err
	})
	if err != nil {
		return fmt.Errorf("answer query: %w", err)
	}
	return nil
}

// parsePaths leaves out what cannot be a store item: no cache has it.
func parsePaths(words []string) (paths []substitute.StorePath) {
	for _, w := range words {
		if p, err := substitute.ParseStorePath(w); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// query asks for those of paths for which that was not done before.
func (a *Agent) query(ctx context.Context, paths []substitute.StorePath) (offers []*substitute.Offer) {
	var unknown []substitute.StorePath
	a.mu.Lock()
	for _, p := range paths {
		if o := a.offers[p]; o != nil {
			offers = append(offers, o)
		} else {
			unknown = append(unknown, p)
		}
	}
	a.mu.Unlock()
	if len(unknown) == 0 {
		return offers
	}
	found, err := a.Client.Query(ctx, unknown)
	if err != nil {
		// What the others have can be had; the daemon has no way to know more.
		a.Logger.WarnContext(ctx, "some substitutes may be missed", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range found {
		a.offers[o.StorePath] = o
	}
	return append(offers, found...)
}

// forget makes the next question about an item a new one.
func (a *Agent) forget(path substitute.StorePath) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.offers, path)
}

// describe writes the reply to "info" about one item.
func describe(w io.Writer, o *substitute.Offer) {
	fmt.Fprintf(w, "%s\n%s\n%d\n", o.StorePath, o.Deriver, len(o.References))
	for _, r := range o.References {
		fmt.Fprintln(w, r)
	}
	fmt.Fprintf(w, "%d\n%d\n", max(o.DownloadSize(), 0), o.NarSize)
}

// Substitute answers "substitute PATH DESTINATION" until in ends.
func (a *Agent) Substitute(ctx context.Context, in io.Reader, out io.Writer) error {
	a.setup()
	h := a.newAhead(ctx)
	defer h.end()
	err := each(ctx, in, func(words []string) error {
		if words[0] != "substitute" || len(words) != 3 {
			return fmt.Errorf("unknown request %q", strings.Join(words, " "))
		}
		_, err := fmt.Fprintln(out, a.substitute(ctx, h, words[1], words[2]))
		return err
	})
	if err != nil {
		return fmt.Errorf("answer substitute: %w", err)
	}
	return nil
}

// substitute fetches one item, and returns the reply.
func (a *Agent) substitute(ctx context.Context, h *ahead, item, destination string) string {
	path, err := substitute.ParseStorePath(item)
	if err == nil {
		err = nar.Remove(destination) // of a failed attempt
	}
	if err == nil {
		var offer *substitute.Offer
		if offer, err = a.fetch(ctx, h.take(path), path, destination); err == nil {
			return fmt.Sprintf("success %s %d", offer.NarHash, offer.NarSize)
		}
	}
	fmt.Fprintf(a.Trace, "guixci-substitute: %v\n", err)
	return "not-found"
}

// fetch fetches an item, unless that was done ahead. After a failure it asks once more: what was
// remembered may be out of date.
func (a *Agent) fetch(ctx context.Context, e *early, path substitute.StorePath, destination string) (*substitute.Offer, error) {
	if e != nil {
		if offer := e.restore(ctx, destination, a.restoreOptions()); offer != nil {
			a.trace.start(path, destination)
			a.trace.done(path, true)
			return offer, nil
		}
	}
	for attempt := 0; ; attempt++ {
		offers := a.query(ctx, []substitute.StorePath{path})
		if len(offers) == 0 {
			return nil, fmt.Errorf("no valid substitute for %q", path)
		}
		offer := offers[0]
		a.trace.start(path, destination)
		err := a.Client.Restore(ctx, offer, destination, a.restoreOptions())
		a.trace.done(path, err == nil)
		if err == nil || attempt == 1 || ctx.Err() != nil {
			return offer, err
		}
		a.forget(path)
	}
}

// Options are what the client of the daemon wants, as far as it matters here.
type Options struct {
	URLs        []string // of caches; nil when the daemon does not say
	Deduplicate bool
	BuildTrace  bool // progress in the form that "guix build" understands
	Discover    bool // also use servers found in the local network
}

// ParseOptions reads the variable _NIX_OPTIONS.
func ParseOptions(variable string) (o Options) {
	values := map[string]string{}
	for line := range strings.SplitSeq(variable, "\n") {
		if name, value, ok := strings.Cut(line, "="); ok {
			values[name] = value
		}
	}
	urls, ok := values["untrusted-substitute-urls"]
	if !ok {
		urls, ok = values["substitute-urls"]
	}
	if ok {
		o.URLs = append([]string{}, strings.Fields(urls)...)
	}
	_, o.Deduplicate = values["deduplicate"]
	o.BuildTrace = values["print-extended-build-trace"] == "1"
	o.Discover = values["discover"] == "yes" || values["discover"] == "true" || values["discover"] == "1"
	return o
}

// A trace tells of downloads.
type trace struct {
	w           io.Writer
	forMachines bool

	mu    sync.Mutex // guards what follows, and w
	shown map[substitute.StorePath]*shown
	early map[substitute.StorePath]begun // that nobody has asked for yet
}

// A begun is a download ahead of time.
type begun struct {
	url  string
	size int64
}

type shown struct {
	name string // what the daemon calls it
	url  string
	size string
	last time.Time
}

// start makes the progress of an item be shown.
func (t *trace) start(item substitute.StorePath, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shown == nil {
		t.shown = make(map[substitute.StorePath]*shown)
	}
	s := &shown{name: name}
	t.shown[item] = s
	if b, ok := t.early[item]; ok {
		delete(t.early, item)
		s.begin(t, b.url, b.size)
	}
}

// progress is for Client.Progress.
func (t *trace) progress(item substitute.StorePath, url string, done, size int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.shown[item]
	if s == nil {
		if t.early == nil {
			t.early = make(map[substitute.StorePath]begun)
		}
		t.early[item] = begun{url, size}
		return
	}
	if s.url != url {
		s.begin(t, url, size)
		return
	}
	if now := time.Now(); t.forMachines && now.Sub(s.last) > time.Second {
		s.last = now
		fmt.Fprintf(t.w, "@ download-progress %s %s %s %d\n", s.name, s.url, s.size, done)
	}
}

// begin says that a download begins. The caller has t.mu.
func (s *shown) begin(t *trace, url string, size int64) {
	s.url, s.size, s.last = url, "-", time.Now()
	if size >= 0 {
		s.size = fmt.Sprint(size)
	}
	if t.forMachines {
		fmt.Fprintf(t.w, "@ download-started %s %s %s\n", s.name, s.url, s.size)
	} else {
		fmt.Fprintf(t.w, "Downloading %s...\n", s.url)
	}
}

// done ends the tale of an item.
func (t *trace) done(item substitute.StorePath, success bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.shown[item]
	delete(t.shown, item)
	if success && t.forMachines && s != nil && s.url != "" {
		fmt.Fprintf(t.w, "@ download-succeeded %s %s %s\n", s.name, s.url, s.size)
	}
}
