package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// A Client fetches what other caches offer: those of Guix itself, a
// "guix publish", a [Handler] elsewhere, a directory that [Cache] made.
// It is a [Source], so that Handler{Source: &Client{…}} is a mirror.
//
// It believes what a key of ACL has signed and nothing else. An archive may come
// from any cache, since it must have the signed hash and size; one that is
// cut short, corrupt or not the signed one is looked for at the next address, then in the next cache.
//
// It is stricter than "guix substitute": an answer must be about the item asked for, with
// well-formed names; an archive must have the signed size; and the fields that are not signed lead
// to the cache's own host or to Hosts only, by no other scheme than http and https.
//
// Fields must not change after the first call. A Client may be used concurrently.
type Client struct {
	// URLs are the caches, in order of preference: "http:", "https:", or
	// "file:" for a directory of this machine.
	URLs []string
	// ACL has the keys that are believed; nil believes nobody.
	ACL *ACL
	// Dir is where answers are remembered for other processes, for as long as
	// their cache says; it is made when missing. "" remembers only in memory. See [Client.Prune].
	Dir string
	// Hosts are those, apart from its own, to which a cache may send us for archives.
	Hosts []string
	// Transport does the HTTP requests that are not pipelined; nil means one with
	// timeouts that suit, and the proxies of the environment.
	Transport http.RoundTripper
	// Stall is how long a server may send nothing, or less than 32 KiB, before the download is
	// resumed or taken elsewhere; 0 means 30 seconds.
	Stall time.Duration
	// Logger hears what did not work at first; nil discards.
	Logger *slog.Logger
	// Progress, if not nil, is told of each download when it begins (done is 0),
	// and from time to time. size is -1 when not known. Calls may be concurrent.
	Progress func(item StorePath, url string, done, size int64)

	init    sync.Once
	initErr error
	caches  []*remote
	rate    rate
}

const defaultStall = 30 * time.Second

// An Offer is an item that caches have, as an authorized key describes it.
type Offer struct {
	*NarInfo // the one that was believed

	from []place // in the order in which they will be tried
	next int     // index of the first cache that has not been asked
}

// A place is a cache, and what it says of an item.
type place struct {
	cache *remote
	info  *NarInfo
}

func (c *Client) setup() error {
	c.init.Do(func() {
		if c.Logger == nil {
			c.Logger = slog.New(slog.DiscardHandler)
		}
		if c.Stall == 0 {
			c.Stall = defaultStall
		}
		web := newWeb(c.Transport, c.Logger)
		for _, u := range c.URLs {
			r, err := newRemote(u, c, web)
			if err != nil {
				c.initErr = err
				return
			}
			c.caches = append(c.caches, r)
		}
	})
	return c.initErr
}

// Query asks for many items at once, and returns those that can be had, in the
// order of paths. The caches are asked in turn, each for what none before it
// has with an authorized signature.
//
// The error says which caches could not be asked; what is offered can be used all the same.
func (c *Client) Query(ctx context.Context, paths []StorePath) ([]*Offer, error) {
	if err := c.setup(); err != nil {
		return nil, fmt.Errorf("query substitutes: %w", err)
	}
	q := newQuestion(c, paths)
	var failed []error
	for i := range c.caches {
		open := q.open()
		if len(open) == 0 {
			break
		}
		if err := q.ask(ctx, i, open); err != nil {
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("query substitutes: %w", context.Cause(ctx))
		}
	}
	if err := errors.Join(failed...); err != nil {
		return q.offers(), fmt.Errorf("query substitutes: %w", err)
	}
	return q.offers(), nil
}

// Info describes the item with this hash part.
func (c *Client) Info(ctx context.Context, hashPart string) (*Info, error) {
	if len(hashPart) != hashPartLen || !isBase32(hashPart) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, hashPart)
	}
	offer, err := c.offer(ctx, StorePath(StoreDir+"/"+hashPart))
	if err != nil {
		return nil, err
	}
	return &offer.Info, nil
}

// offer is Query for one path, or for a path without a name.
func (c *Client) offer(ctx context.Context, path StorePath) (*Offer, error) {
	offers, err := c.Query(ctx, []StorePath{path})
	switch {
	case len(offers) == 1:
		return offers[0], nil
	case err != nil:
		return nil, err
	}
	return nil, fmt.Errorf("%w: no cache has %s", ErrNotFound, path.Base())
}

// WriteNAR writes the archive of an item that Info described. Before it
// returns nil the hash and the size of what was written have been checked. If a
// server fails midway, another continues where it stopped.
func (c *Client) WriteNAR(ctx context.Context, w io.Writer, info *Info) error {
	offer, err := c.offer(ctx, info.StorePath)
	if err != nil {
		return err
	}
	if offer.NarHash != info.NarHash || offer.NarSize != info.NarSize {
		return fmt.Errorf("%w: caches have another %s now", ErrNotFound, info.StorePath)
	}
	d := newDownload(c, offer)
	defer d.close()
	return d.write(ctx, w)
}
