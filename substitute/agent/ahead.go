package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
)

// foretell notes, for the Agent that fetches, what the daemon has been told about: it will ask for most of that, in
// this order. It is a convenience, whose failure costs time only.
func (a *Agent) foretell(offers []*substitute.Offer) {
	if a.Ahead == "" || len(offers) == 0 {
		return
	}
	if a.foretold == nil {
		if os.MkdirAll(filepath.Dir(a.Ahead), 0o755) != nil {
			return
		}
		f, err := os.OpenFile(a.Ahead, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
		if err != nil {
			return
		}
		a.foretold = f
	}
	var lines strings.Builder
	for _, o := range offers {
		fmt.Fprintln(&lines, o.StorePath)
	}
	io.WriteString(a.foretold, lines.String())
}

// endForetelling removes the file.
func (a *Agent) endForetelling() {
	if a.foretold != nil {
		a.foretold.Close()
		os.Remove(a.Ahead)
	}
}

const (
	// mostAhead is how many items are fetched ahead at most; firstAhead is with how many that begins.
	mostAhead, firstAhead = 8, 2
	// earlySize is the size up to which an archive is fetched ahead, since it is in memory then.
	earlySize = 4 << 20
)

// An ahead fetches small items before the daemon asks for them, as foretold, while it waits for the network or the
// daemon is busy. How many depends on how many the daemon did ask for then: one that has other substituters in
// parallel gives them what was fetched here, and the guessing ends.
type ahead struct {
	a       *Agent
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	file   *os.File // nil until there is one
	part   string   // of a line
	next   []substitute.StorePath
	early  map[substitute.StorePath]*early // in work or in memory
	window int                             // how many of them there may be
}

// An early is an item that is fetched ahead.
type early struct {
	done    chan struct{} // closed when the rest is set
	offer   *substitute.Offer
	archive []byte // nil if there is none
}

func (a *Agent) newAhead(ctx context.Context) *ahead {
	h := &ahead{a: a, early: make(map[substitute.StorePath]*early), window: firstAhead}
	h.ctx, h.cancel = context.WithCancel(ctx)
	return h
}

// end stops everything.
func (h *ahead) end() {
	h.cancel()
	h.running.Wait()
	if h.file != nil {
		h.file.Close()
	}
}

// take returns the item if it has been, or is being, fetched ahead, and begins with others.
func (h *ahead) take(path substitute.StorePath) *early {
	h.listen()
	e := h.early[path]
	if e != nil {
		delete(h.early, path)
		h.window = min(h.window+1, mostAhead)
	}
	for i, p := range h.next {
		if p == path {
			h.next = append(h.next[:i], h.next[i+1:]...)
			break
		}
	}
	h.dropOthers()
	for len(h.early) < h.window && len(h.next) > 0 {
		p := h.next[0]
		h.next = h.next[1:]
		if p != path && h.early[p] == nil && !exists(p) {
			h.begin(p)
		}
	}
	return e
}

// listen reads what has been foretold since.
func (h *ahead) listen() {
	if h.file == nil && h.a.Ahead != "" {
		h.file, _ = os.Open(h.a.Ahead) // there may be none yet
	}
	if h.file == nil {
		return
	}
	text, err := io.ReadAll(h.file)
	if err != nil {
		return
	}
	lines := strings.Split(h.part+string(text), "\n")
	h.part = lines[len(lines)-1]
	h.next = append(h.next, parsePaths(lines[:len(lines)-1])...)
}

// dropOthers forgets what could not be fetched, and what somebody else has fetched meanwhile.
func (h *ahead) dropOthers() {
	for p, e := range h.early {
		select {
		case <-e.done:
			if e.archive == nil {
				delete(h.early, p)
			} else if exists(p) {
				delete(h.early, p)
				h.window /= 2
			}
		default:
		}
	}
}

func exists(p substitute.StorePath) bool {
	_, err := os.Lstat(string(p))
	return err == nil
}

// begin fetches an item in the background.
func (h *ahead) begin(p substitute.StorePath) {
	e := &early{done: make(chan struct{})}
	h.early[p] = e
	h.running.Go(func() {
		defer close(e.done)
		offers := h.a.query(h.ctx, []substitute.StorePath{p})
		if len(offers) == 0 || offers[0].NarSize > earlySize {
			return
		}
		// If it fails it is fetched in the usual way later, which complains.
		if archive, err := h.a.Client.Archive(h.ctx, offers[0]); err == nil {
			e.offer, e.archive = offers[0], archive
		}
	})
}

// restore makes the tree of an item that was fetched ahead. It returns nil if there is none.
func (e *early) restore(ctx context.Context, destination string, options *nar.RestoreOptions) *substitute.Offer {
	select {
	case <-e.done:
	case <-ctx.Done():
		return nil
	}
	if e.archive == nil {
		return nil
	}
	in := bytes.NewReader(e.archive)
	err := nar.RestoreWith(in, destination, options)
	if err == nil && in.Len() > 0 {
		err = nar.ErrFormat
		nar.Remove(destination)
	}
	if err != nil {
		return nil
	}
	return e.offer
}
