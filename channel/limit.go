package channel

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/client"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/net/proxy"
)

// Limits of a repository. Guix's own has some hundred references; those of the largest forges,
// with one for every pull request, some hundred thousand.
const (
	maxReferences     = 500_000
	maxReferenceBytes = 64 << 20
)

// A tooLargeError says that a repository exceeds a limit.
type tooLargeError struct{ what string }

func (e *tooLargeError) Error() string { return "it is too large: " + e.what }

// limitTransports has go-git fetch over HTTP and SSH through clients that end an endless list
// of references. go-git keeps its transports in one place for the whole process.
var limitTransports = sync.OnceFunc(func() {
	limited := githttp.NewClient(&http.Client{Transport: referenceLimit{http.DefaultTransport}})
	client.InstallProtocol("http", limited)
	client.InstallProtocol("https", limited)
	client.InstallProtocol("ssh", limitedSSH{gitssh.DefaultClient})
	proxy.RegisterDialerType(limitScheme, func(u *url.URL, _ proxy.Dialer) (proxy.Dialer, error) { return sshDialer{u.Host}, nil })
})

type referenceLimit struct{ next http.RoundTripper }

func (l referenceLimit) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := l.next.RoundTrip(r)
	if err == nil && strings.HasSuffix(r.URL.Path, "/info/refs") {
		answer.Body = &limitedBody{answer.Body, maxReferenceBytes}
	}
	return answer, err
}

// A limitedBody fails after some bytes.
type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, tooManyReferences()
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// limitedSSH limits what a server sends for a list of references. Of go-git's SSH only the way
// it dials can be had: through a proxy, which is us.
type limitedSSH struct{ transport.Transport }

const limitScheme = "guixci-limit"

var (
	sshConns   sync.Map // of a number to the *limitedConn that is being dialed
	sshCounter atomic.Int64
)

func (l limitedSSH) NewUploadPackSession(at *transport.Endpoint, auth transport.AuthMethod) (transport.UploadPackSession, error) {
	conn, key := &limitedConn{}, fmt.Sprint(sshCounter.Add(1))
	conn.left.Store(math.MaxInt64)
	sshConns.Store(key, conn)
	defer sshConns.Delete(key)
	limited := *at
	limited.Proxy = transport.ProxyOptions{URL: limitScheme + "://" + key}
	s, err := l.Transport.NewUploadPackSession(&limited, auth)
	if err != nil {
		return nil, err
	}
	return limitedSession{s, conn}, nil
}

// An sshDialer dials as go-git does without a proxy.
type sshDialer struct{ key string }

func (d sshDialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d sshDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := proxy.Dial(ctx, network, address) // through that of the user, if there is one
	if err != nil {
		return nil, err
	}
	known, ok := sshConns.Load(d.key)
	if !ok {
		return conn, nil
	}
	limited := known.(*limitedConn)
	limited.Conn = conn
	return limited, nil
}

// A limitedConn fails after left bytes have been read.
type limitedConn struct {
	net.Conn
	left atomic.Int64
}

func (c *limitedConn) Read(p []byte) (int, error) {
	if c.left.Load() <= 0 {
		return 0, tooManyReferences()
	}
	n, err := c.Conn.Read(p)
	c.left.Add(-int64(n))
	return n, err
}

// A limitedSession limits its connection while references are listed.
type limitedSession struct {
	transport.UploadPackSession
	conn *limitedConn
}

func (s limitedSession) AdvertisedReferences() (*packp.AdvRefs, error) {
	return s.AdvertisedReferencesContext(context.Background())
}

func (s limitedSession) AdvertisedReferencesContext(ctx context.Context) (*packp.AdvRefs, error) {
	s.conn.left.Store(maxReferenceBytes)
	refs, err := s.UploadPackSession.AdvertisedReferencesContext(ctx)
	if s.conn.left.Load() <= 0 {
		return nil, tooManyReferences()
	}
	s.conn.left.Store(math.MaxInt64)
	return refs, err
}

func tooManyReferences() error {
	return &tooLargeError{fmt.Sprintf("more than %d bytes of references", maxReferenceBytes)}
}

// checkLocalSize looks at a repository on this machine before it is listed.
func checkLocalSize(url string) error {
	if !isLocal(url) {
		return nil
	}
	dir := strings.TrimPrefix(url, "file://")
	for _, name := range []string{"packed-refs", ".git/packed-refs"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Size() > maxReferenceBytes/2 {
			return &RepositoryError{URL: url, Final: true, Err: &tooLargeError{fmt.Sprintf("%d bytes of references", info.Size())}}
		}
	}
	return nil
}
