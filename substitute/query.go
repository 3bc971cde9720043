package substitute

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// A question is about many items, some of which have been answered.
type question struct {
	client *Client
	paths  []StorePath // without a name if that is not known
	found  [][]place   // for each path, what caches say, in their order
	good   []*NarInfo  // for each path, the first one that is authorized
	asked  []int       // for each path, how many caches have been asked
}

func newQuestion(c *Client, paths []StorePath) *question {
	return &question{
		client: c, paths: paths,
		found: make([][]place, len(paths)), good: make([]*NarInfo, len(paths)), asked: make([]int, len(paths)),
	}
}

// open lists the indices of paths without an answer.
func (q *question) open() (open []int) {
	for i, n := range q.good {
		if n == nil {
			open = append(open, i)
		}
	}
	return open
}

// ask puts the open questions to a cache.
func (q *question) ask(ctx context.Context, cache int, open []int) error {
	r := q.client.caches[cache]
	hashParts := make([]string, len(open))
	for k, i := range open {
		hashParts[k] = q.paths[i].Base()[:hashPartLen]
		q.asked[i] = cache + 1
	}
	answers, err := r.narinfos(ctx, hashParts)
	var believed, strange atomic.Bool
	var checks errgroup.Group // signatures take most of the time
	checks.SetLimit(runtime.GOMAXPROCS(0))
	for k, i := range open {
		n := answers[k]
		if n == nil || !q.about(i, n) {
			continue
		}
		q.found[i] = append(q.found[i], place{r, n})
		checks.Go(func() error {
			switch err := n.Verify(q.client.ACL).(type) {
			case nil:
				q.good[i] = n
				believed.Store(true)
			case *UntrustedError:
				q.client.Logger.DebugContext(ctx, "not believed", "cache", r.name, "error", err)
				if err.Reason == UnauthorizedKey {
					strange.Store(true)
				}
			}
			return nil
		})
	}
	checks.Wait()
	if strange.Load() && !believed.Load() {
		r.stranger.Do(func() {
			q.client.Logger.WarnContext(ctx, "cache signs with a key that is not authorized; see \"guix archive --authorize\"", "cache", r.name)
		})
	}
	return err
}

// about reports whether n is about the path that was asked for: nothing in
// a narinfo's signature ties it to the question.
func (q *question) about(i int, n *NarInfo) bool {
	asked := q.paths[i]
	if n.StorePath == asked || len(asked.Base()) == hashPartLen && n.StorePath.Hash() == asked.Base() {
		return true
	}
	q.client.Logger.Warn("cache answers about another item", "asked", string(asked), "answer", string(n.StorePath))
	return false
}

// offers are the answers: for each authorized one, the caches that say the same.
func (q *question) offers() (offers []*Offer) {
	for i, good := range q.good {
		if good == nil {
			continue
		}
		o := &Offer{NarInfo: good, next: q.asked[i]}
		for _, p := range q.found[i] {
			if p.info.Equivalent(good) {
				o.from = append(o.from, p)
			}
		}
		offers = append(offers, o)
	}
	return offers
}

// more asks the next cache for places of the item, until one has the same. It
// returns false when all have been asked.
func (o *Offer) more(ctx context.Context, c *Client) bool {
	for o.next < len(c.caches) && ctx.Err() == nil {
		r := c.caches[o.next]
		o.next++
		answers, err := r.narinfos(ctx, []string{o.StorePath.Hash()})
		if err != nil {
			c.Logger.WarnContext(ctx, "ask cache", "cache", r.name, "error", err)
		} else if n := answers[0]; n != nil && n.Equivalent(o.NarInfo) {
			o.from = append(o.from, place{r, n})
			return true
		}
	}
	return false
}

// DownloadSize is the number of bytes that will be downloaded, or -1 if no
// cache says it.
func (o *Offer) DownloadSize() int64 {
	for _, p := range o.from {
		for _, u := range p.info.URLs {
			if u.FileSize >= 0 && readable(u.Compression) {
				return u.FileSize
			}
		}
	}
	return -1
}

// String names the item and its first cache.
func (o *Offer) String() string {
	return fmt.Sprintf("%s at %s", o.StorePath, o.from[0].cache.name)
}
