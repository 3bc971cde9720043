package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// A remote is a cache that a Client uses.
type remote struct {
	name   string // as the user gave it, without a password
	base   *url.URL
	client *Client
	web    *web
	memory memory

	stranger sync.Once // to say that its key is not authorized

	mu   sync.Mutex // guards what follows
	down time.Time  // when the cache was found not to answer
	why  error
}

// After a cache could not be reached, it is not tried again for this long: each
// of a thousand items would otherwise wait for it.
const downFor = 20 * time.Second

const (
	maxNarInfo = 1 << 20 // bytes; the longest have thousands of references
	// longestTTL is what any server's word is good for.
	longestTTL = 30 * 24 * time.Hour
	// These are what Guix assumes when a server does not say.
	defaultTTL         = 36 * time.Hour
	defaultNegativeTTL = 2 * time.Minute
)

func newRemote(name string, c *Client, web *web) (*remote, error) {
	u, err := url.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("cache %q: %w", name, err)
	}
	switch {
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
	case u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path):
	default:
		return nil, fmt.Errorf("cache %q: not of the form http://HOST, https://HOST or file:///DIRECTORY", name)
	}
	if u.User != nil {
		name = u.Redacted()
	}
	u.RawQuery, u.Fragment = "", ""
	if !strings.HasSuffix(u.Path, "/") {
		u = u.JoinPath("/")
	}
	r := &remote{name: name, base: u, client: c, web: web}
	r.memory.dir = memoryDir(c.Dir, u.String())
	return r, nil
}

// narinfos returns, for each hash part, what the cache says, or nil for what it
// has not. When it cannot be asked for some, these are nil, and there is an error.
func (r *remote) narinfos(ctx context.Context, hashParts []string) ([]*NarInfo, error) {
	answers := make([]*NarInfo, len(hashParts))
	var unknown []int
	now := time.Now()
	for i, h := range hashParts {
		n, known := r.memory.get(h, now)
		answers[i] = n
		if !known {
			unknown = append(unknown, i)
		}
	}
	if len(unknown) == 0 {
		return answers, nil
	}
	if err := r.isDown(now); err != nil {
		return answers, err
	}
	var failed []error
	err := r.ask(ctx, hashParts, unknown, func(i int, a answer) {
		if a.err != nil {
			failed = append(failed, fmt.Errorf("ask %s for %s: %w", r.name, hashParts[i], a.err))
			return
		}
		answers[i] = a.narinfo
		r.memory.put(hashParts[i], a.narinfo, now, a.ttl)
	})
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("ask %s: %w", r.name, err)
		r.setDown(now, err)
	}
	return answers, errors.Join(err, errors.Join(failed[:min(len(failed), 3)]...))
}

func (r *remote) isDown(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A clock that went back must not make this last.
	if since := now.Sub(r.down); r.why != nil && since >= 0 && since < downFor {
		return r.why
	}
	return nil
}

func (r *remote) setDown(now time.Time, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down, r.why = now, why
}

// An answer is what a cache says of an item.
type answer struct {
	narinfo *NarInfo // nil if it has none
	ttl     time.Duration
	err     error // why there is no answer
}

// ask requests the narinfos with the given indices, in the way that suits the
// cache: pipelined over one connection, where the protocol and the absence
// of a proxy allow that. Calls of each do not overlap.
func (r *remote) ask(ctx context.Context, hashParts []string, indices []int, each func(int, answer)) error {
	switch {
	case r.base.Scheme == "file":
		for _, i := range indices {
			each(i, r.readNarInfo(hashParts[i]))
		}
		return ctx.Err()
	case len(indices) > 1 && r.base.Scheme == "http" && !r.web.proxied(r.base):
		return r.pipeline(ctx, hashParts, indices, each)
	}
	return r.askEach(ctx, hashParts, indices, each)
}

// askEach makes ordinary requests, which share a connection where the server
// speaks HTTP/2. It gives up when several in a row fail, or all take too long: a server that
// does not answer would otherwise cost its time for each of a thousand items.
func (r *remote) askEach(ctx context.Context, hashParts []string, indices []int, each func(int, answer)) error {
	const concurrent = 32
	patience := headerTimeout + r.client.Stall + time.Duration(len(indices))*longAnswer
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errStalled)
	defer cancel()
	var mu sync.Mutex // guards failures, and held while each is called
	failures := 0     // since the last answer
	var group errgroup.Group
	group.SetLimit(concurrent)
	for _, i := range indices {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			a, err := r.askOne(ctx, hashParts[i])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if failures++; failures == attempts {
					cancel()
				}
				return err
			}
			failures = 0
			each(i, a)
			return nil
		})
	}
	return group.Wait()
}

// askOne makes one ordinary request.
func (r *remote) askOne(ctx context.Context, hashPart string) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, headerTimeout+r.client.Stall, errStalled)
	defer cancel()
	res, err := r.web.get(ctx, r, r.narinfoURL(hashPart), nil)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	return readAnswer(res)
}

func (r *remote) narinfoURL(hashPart string) *url.URL {
	return r.base.ResolveReference(&url.URL{Path: hashPart + ".narinfo"})
}

// readNarInfo reads from a directory laid out like a cache.
func (r *remote) readNarInfo(hashPart string) answer {
	f, _, err := openRegular(filepath.Join(r.base.Path, hashPart+".narinfo"))
	if errors.Is(err, fs.ErrNotExist) {
		return answer{} // files are not remembered
	}
	if err != nil {
		return answer{err: err}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxNarInfo+1))
	if err == nil && len(text) > maxNarInfo {
		err = errTooLong
	}
	if err != nil {
		return answer{err: err}
	}
	n, err := ParseNarInfo(text)
	return answer{narinfo: n, err: err}
}

// openRegular opens a regular file of a cache. It does not wait, as opening a pipe would.
func openRegular(path string) (*os.File, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%q is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// readAnswer understands a response to a request for a narinfo. It returns an
// error if the connection broke.
func readAnswer(res *http.Response) (answer, error) {
	text, err := io.ReadAll(io.LimitReader(res.Body, maxNarInfo+1))
	switch {
	case err != nil:
		return answer{}, err
	case len(text) > maxNarInfo:
		return answer{err: errTooLong}, nil
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusAccepted:
		return answer{ttl: maxAge(res, defaultNegativeTTL)}, nil
	case res.StatusCode != http.StatusOK:
		return answer{err: &statusError{res.StatusCode}}, nil
	}
	n, err := ParseNarInfo(text)
	return answer{narinfo: n, ttl: maxAge(res, defaultTTL), err: err}, nil
}

var errTooLong = fmt.Errorf("narinfo of more than %d bytes", maxNarInfo)

// maxAge is for how long an answer may be remembered.
func maxAge(res *http.Response, otherwise time.Duration) time.Duration {
	for part := range strings.SplitSeq(res.Header.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if seconds, err := strconv.ParseUint(value, 10, 31); strings.EqualFold(name, "max-age") && err == nil {
			return min(time.Duration(seconds)*time.Second, longestTTL)
		}
	}
	return otherwise
}

// resolve is the address that a narinfo gives for an archive, if it may be
// used: nobody has signed it.
func (r *remote) resolve(ref string) (*url.URL, error) {
	u, err := r.base.Parse(ref)
	if err != nil {
		return nil, err
	}
	return u, r.allowed(u)
}

// allowed refuses addresses that a cache must not send us to.
func (r *remote) allowed(u *url.URL) error {
	if r.base.Scheme == "file" {
		// An escaped ".." is still there; others are not.
		if u.Scheme != "file" || u.Host != "" || !strings.HasPrefix(u.Path, r.base.Path) || path.Clean(u.Path) != u.Path {
			return fmt.Errorf("%q leads out of %s", u.Redacted(), r.name)
		}
		return nil
	}
	switch {
	case u.Scheme != "https" && u.Scheme != r.base.Scheme:
		return fmt.Errorf("%s leads to a scheme %q", r.name, u.Scheme)
	case u.Host == r.base.Host, u.Hostname() == r.base.Hostname() && u.Scheme == "https" && u.Port() == "":
		return nil
	case slices.Contains(r.client.Hosts, u.Host), slices.Contains(r.client.Hosts, u.Hostname()):
		return nil
	}
	return fmt.Errorf("%s leads to another host, %q, which is not allowed", r.name, u.Host)
}
