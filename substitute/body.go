package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A body is a compressed archive as it comes from a cache. When the connection breaks or
// stalls, it goes on where it was, if the server can.
type body struct {
	ctx   context.Context
	cache *remote
	url   *url.URL
	limit int64 // no more bytes than these are believable
	tell  func(done, size int64)

	in       io.ReadCloser
	timer    *time.Timer // cancels the request
	cancel   context.CancelCauseFunc
	patience time.Duration // for how long to wait for what is missing to leastBytes
	came     int           // bytes of those
	etag     string
	size     int64 // of the whole, or -1
	off      int64 // bytes read
	resumed  int
}

const (
	maxResumes = 8
	// leastBytes have to come within Client.Stall. A server that sends a byte now and then could keep us
	// for ever otherwise.
	leastBytes = 32 << 10
)

var errStalled = errors.New("nothing or too little came for too long")

// statusError is a response that is not what was asked for. It does not have the server's own words, which may be
// anything.
type statusError struct{ code int }

func (e *statusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("status %d %s", e.code, http.StatusText(e.code)))
}

// openBody requests an archive.
func openBody(ctx context.Context, cache *remote, u *url.URL, limit int64) (*body, error) {
	b := &body{ctx: ctx, cache: cache, url: u, limit: limit, size: -1}
	if u.Scheme == "file" {
		return b, b.openFile()
	}
	return b, b.request()
}

func (b *body) openFile() error {
	f, info, err := openRegular(b.url.Path)
	if err != nil {
		return err
	}
	b.in, b.size = f, info.Size()
	return nil
}

// request asks for what is left.
func (b *body) request() error {
	ctx, cancel := context.WithCancelCause(b.ctx)
	res, err := b.cache.web.get(ctx, b.cache, b.url, b.header())
	if err == nil {
		if err = b.accept(res); err == nil {
			b.in, b.cancel = res.Body, cancel
			b.patience, b.came = b.cache.client.Stall, 0
			b.timer = time.AfterFunc(b.cache.client.Stall, func() { cancel(errStalled) })
			b.timer.Stop()
			return nil
		}
		res.Body.Close()
	}
	cancel(err)
	return err
}

func (b *body) header() http.Header {
	h := http.Header{"Accept-Encoding": {"identity"}}
	if b.off > 0 {
		h.Set("Range", "bytes="+strconv.FormatInt(b.off, 10)+"-")
		if b.etag != "" {
			h.Set("If-Range", b.etag)
		}
	}
	return h
}

// accept checks that a response has what was asked for.
func (b *body) accept(res *http.Response) error {
	if res.Header.Get("Content-Encoding") != "" {
		return fmt.Errorf("archive in a Content-Encoding %q", res.Header.Get("Content-Encoding"))
	}
	switch {
	case res.StatusCode == http.StatusOK && b.off == 0:
		b.size = res.ContentLength
		if tag := res.Header.Get("ETag"); strings.HasPrefix(tag, `"`) {
			b.etag = tag
		}
	case res.StatusCode == http.StatusPartialContent && b.off > 0:
		want := "bytes " + strconv.FormatInt(b.off, 10) + "-"
		if got := res.Header.Get("Content-Range"); !strings.HasPrefix(got, want) {
			return fmt.Errorf("asked for the rest from byte %d, got %q", b.off, got)
		}
	case res.StatusCode == http.StatusOK:
		return errors.New("the server does not resume")
	default:
		return &statusError{res.StatusCode}
	}
	if b.size > b.limit {
		return fmt.Errorf("%d bytes are too many for this archive", b.size)
	}
	return nil
}

func (b *body) Read(p []byte) (int, error) {
	for {
		n, err := b.read(p)
		b.off += int64(n)
		if b.off > b.limit {
			return 0, fmt.Errorf("more than %d bytes are too many for this archive", b.limit)
		}
		if n > 0 {
			if b.tell != nil {
				b.tell(b.off, b.size)
			}
			return n, nil
		}
		if err == nil {
			continue
		}
		if err == io.EOF && (b.size < 0 || b.off == b.size) {
			return 0, io.EOF
		}
		if err := b.resume(err); err != nil {
			return 0, err
		}
	}
}

// read reads with an eye on the clock.
func (b *body) read(p []byte) (int, error) {
	if b.timer == nil {
		if err := b.ctx.Err(); err != nil {
			return 0, context.Cause(b.ctx)
		}
		return b.in.Read(p)
	}
	start := time.Now()
	b.timer.Reset(b.patience)
	n, err := b.in.Read(p)
	if !b.timer.Stop() && err != nil {
		return n, errStalled
	}
	if b.came += n; b.came >= leastBytes {
		b.patience, b.came = b.cache.client.Stall, 0
	} else if b.patience -= time.Since(start); b.patience <= 0 && err == nil {
		err = errStalled
	}
	return n, err
}

// resume continues after a failure, which it returns if that is not possible.
func (b *body) resume(why error) error {
	if why == io.EOF {
		why = io.ErrUnexpectedEOF
	}
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if b.timer == nil || b.off == 0 || b.resumed == maxResumes {
		return why
	}
	b.resumed++
	b.close()
	b.in = nil
	b.cache.client.Logger.Debug("resume download", "url", b.url.Redacted(), "byte", b.off, "error", why)
	if err := b.request(); err != nil {
		return fmt.Errorf("%w; resuming at byte %d: %v", why, b.off, err)
	}
	return nil
}

// close ends the request. Without having been read to its end, the
// connection cannot be used again.
func (b *body) close() {
	if b.in != nil {
		b.in.Close()
	}
	if b.cancel != nil {
		b.timer.Stop()
		b.cancel(context.Canceled)
	}
}

// A rate is the bandwidth seen lately.
type rate struct {
	mu    sync.Mutex // guards value
	value float64    // bytes per second, 0 when not known
}

// firstGuess is the bandwidth that is assumed at the beginning: 100 Mbit/s.
const firstGuess = 12.5e6

func (r *rate) get() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.value == 0 {
		return firstGuess
	}
	return r.value
}

// add takes a download into account, unless it was too small to tell much.
func (r *rate) add(bytes int64, took time.Duration) {
	if bytes < 64<<10 || took <= 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := float64(bytes) / took.Seconds()
	if r.value == 0 {
		r.value = seen
	}
	r.value = 0.7*r.value + 0.3*seen
}
