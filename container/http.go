package container

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// HTTP passes when a URL answers as expected. Redirections are not followed: their status
// is the answer.
type HTTP struct {
	URL string `json:"url"` // ${NAME} in it is the setting of that name
	// Status is the status wanted; 0 means any of 200 to 299.
	Status int `json:"status,omitempty"`
	// Contains must be within the first MiB of the body; empty accepts any.
	Contains string `json:"contains,omitempty"`
	// Within is the latency budget of the whole answer; 0 means the schedule's Timeout.
	Within time.Duration `json:"within,omitempty"`
	// Version must be served: stand in the body, or be the value of Header, and not as
	// a part of another version. Empty accepts any.
	Version string `json:"version,omitempty"`
	// VersionOf names a channel of the generation whose commit must be served likewise,
	// abbreviated to seven digits or more: what answers is what was deployed, and
	// not what somebody left running on that port. Empty accepts any.
	VersionOf string `json:"version_of,omitempty"`
	// Header is where the version is served; empty means in the body.
	Header string `json:"header,omitempty"`
	// Inside asks from within the container: in its network, and with the certificates it
	// trusts. Otherwise it is asked from this machine.
	Inside bool `json:"inside,omitempty"`
}

// String returns "http URL".
func (p HTTP) String() string { return "http " + p.URL }

// Check implements [Probe].
func (p HTTP) Check(ctx context.Context, in *Instance, _ any) (any, error) {
	client, err := p.client(ctx, in)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	return nil, cmp.Or(p.judge(response.StatusCode, body), within(p.Within, time.Since(begin)),
		p.judgeVersion(in, response.Header, body))
}

// client asks once, over a new connection: a probe that tried again by
// itself would hide the very failure it is there to see. Nor may a proxy of the
// environment answer in the place of the container.
func (p HTTP) client(ctx context.Context, in *Instance) (*http.Client, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	if p.Inside {
		transport.DialContext = dialerIn(in.Process)
		if strings.HasPrefix(p.URL, "https:") {
			roots, err := certificatesIn(in.Process, "")
			if err != nil {
				return nil, err
			}
			transport.TLSClientConfig = &tls.Config{RootCAs: roots}
		}
	}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}, nil
}

func (p HTTP) judge(status int, body []byte) error {
	if p.Status != 0 && status != p.Status || p.Status == 0 && status/100 != 2 {
		return fmt.Errorf("status %d, want %s: %.200s", status, cmp.Or(statusText(p.Status), "200 to 299"),
			strings.TrimSpace(string(body)))
	}
	if !bytes.Contains(body, []byte(p.Contains)) {
		return fmt.Errorf("body of %d bytes does not contain %q: %.200s", len(body), p.Contains, body)
	}
	return nil
}

func statusText(status int) string {
	if status == 0 {
		return ""
	}
	return fmt.Sprint(status)
}

// within compares how long something took with its budget; 0 is none.
func within(budget, took time.Duration) error {
	if budget == 0 || took <= budget {
		return nil
	}
	return fmt.Errorf("took %v, which is over the budget of %v", took.Round(time.Millisecond), budget)
}

// judgeVersion looks for the versions asked for.
func (p HTTP) judgeVersion(in *Instance, header http.Header, body []byte) error {
	served, where := string(body), "the body"
	if p.Header != "" {
		served, where = header.Get(p.Header), "header "+p.Header
	}
	if p.Version != "" && !servesVersion(served, p.Version) {
		return fmt.Errorf("version %q is not served: %s says %.200q", p.Version, where, served)
	}
	if p.VersionOf == "" {
		return nil
	}
	commit, err := p.commit(in.Generation)
	if err == nil && !servesCommit(served, commit) {
		err = fmt.Errorf("commit %s of channel %s is not served: %s says %.200q", commit, p.VersionOf, where, served)
	}
	return err
}

// commit returns the one that is to be served.
func (p HTTP) commit(g *Generation) (string, error) {
	i := slices.IndexFunc(g.Channels, func(c Channel) bool { return c.Name == p.VersionOf })
	if i < 0 {
		return "", fmt.Errorf("the generation has no channel %q whose commit could be served", p.VersionOf)
	}
	return g.Channels[i].Commit, nil
}

// servesVersion reports whether the version stands by itself in text: 1.2 is not in 1.2.3 nor in 11.2.
func servesVersion(text, version string) bool {
	whole := regexp.MustCompile(`(^|[^0-9A-Za-z.])` + regexp.QuoteMeta(version) + `($|[^0-9A-Za-z.]|\.($|[^0-9A-Za-z]))`)
	return whole.MatchString(text)
}

var hexWord = regexp.MustCompile(`\b[0-9a-f]{7,40}\b`)

// servesCommit reports whether the commit, or its first digits, is in text.
func servesCommit(text, commit string) bool {
	return slices.ContainsFunc(hexWord.FindAllString(text, -1), func(word string) bool {
		return strings.HasPrefix(commit, word)
	})
}
