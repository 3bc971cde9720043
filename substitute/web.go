package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// userAgent is how caches know us.
const userAgent = "guixci"

// A web makes HTTP requests, and repeats those that fail for reasons that pass.
type web struct {
	retrying *retryablehttp.Client
	proxy    func(*http.Request) (*url.URL, error)
}

const (
	dialTimeout   = 5 * time.Second
	headerTimeout = 60 * time.Second // guix publish may be slow
	maxRedirects  = 5
	// longestWait is for how long a server that is busy is waited for, at a time.
	longestWait = 5 * time.Second
)

func newWeb(transport http.RoundTripper, logger *slog.Logger) *web {
	w := &web{retrying: retryablehttp.NewClient()}
	if transport == nil {
		transport = newTransport()
	}
	if t, ok := transport.(*http.Transport); ok {
		w.proxy = t.Proxy
	}
	c := w.retrying
	c.HTTPClient = &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	c.Logger = quietLogger{logger}
	c.RetryMax, c.RetryWaitMin, c.RetryWaitMax = 2, 100*time.Millisecond, 2*time.Second
	c.ErrorHandler = retryablehttp.PassthroughErrorHandler
	c.CheckRetry = checkRetry
	return w
}

func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	t.ResponseHeaderTimeout = headerTimeout
	t.MaxIdleConnsPerHost = 16
	t.DisableCompression = true // archives are hashed as they come
	return t
}

// proxied reports whether requests for u go through a proxy.
func (w *web) proxied(u *url.URL) bool {
	if w.proxy == nil {
		return false
	}
	proxy, err := w.proxy(&http.Request{URL: u})
	return proxy != nil || err != nil
}

// quietLogger passes on what a retryablehttp.Client says, as details.
type quietLogger struct{ *slog.Logger }

func (l quietLogger) Error(msg string, args ...any) { l.Debug(msg, args...) }
func (l quietLogger) Info(msg string, args ...any)  { l.Debug(msg, args...) }
func (l quietLogger) Warn(msg string, args ...any)  { l.Debug(msg, args...) }

type remoteKey struct{}

var errRedirect = errors.New("redirect refused")

// checkRedirect lets a cache send us only where its narinfos may.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("%w: more than %d", errRedirect, maxRedirects)
	}
	if r, ok := req.Context().Value(remoteKey{}).(*remote); ok {
		if err := r.allowed(req.URL); err != nil {
			return fmt.Errorf("%w: %v", errRedirect, err)
		}
	}
	return nil
}

// checkRetry is the usual policy, except for what another attempt cannot change, and for servers that
// want us to wait for long, or keep us waiting: there may be another one.
func checkRetry(ctx context.Context, res *http.Response, err error) (bool, error) {
	switch {
	case errors.Is(err, errRedirect):
		return false, err
	case askedToWait(res) > longestWait, tookLong(err):
		return false, nil
	}
	return retryablehttp.DefaultRetryPolicy(ctx, res, err)
}

// askedToWait is what a busy server says in Retry-After.
func askedToWait(res *http.Response) time.Duration { return retryablehttp.DefaultBackoff(0, 0, 0, res) }

// tookLong reports whether a server that could be reached did not answer.
func tookLong(err error) bool {
	var slow net.Error
	var op *net.OpError
	return errors.As(err, &slow) && slow.Timeout() && !(errors.As(err, &op) && op.Op == "dial")
}

// get requests u on behalf of the cache r. The caller closes the body.
func (w *web) get(ctx context.Context, r *remote, u *url.URL, header http.Header) (*http.Response, error) {
	req, err := retryablehttp.NewRequestWithContext(context.WithValue(ctx, remoteKey{}, r), http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", userAgent)
	res, err := w.retrying.Do(req)
	if err != nil {
		if res != nil {
			io.Copy(io.Discard, io.LimitReader(res.Body, 4096))
			res.Body.Close()
		}
		return nil, err
	}
	return res, nil
}
