package channel

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/transport/client"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
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

// limitHTTP has go-git fetch over HTTP through a client that ends an endless list
// of references. go-git keeps its transports in one place for the whole process.
var limitHTTP = sync.OnceFunc(func() {
	limited := githttp.NewClient(&http.Client{Transport: referenceLimit{http.DefaultTransport}})
	client.InstallProtocol("http", limited)
	client.InstallProtocol("https", limited)
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
		return 0, &tooLargeError{fmt.Sprintf("more than %d bytes of references", maxReferenceBytes)}
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
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
