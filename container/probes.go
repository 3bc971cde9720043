package container

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// Alive passes while the container's first process and its launcher run.
type Alive struct{}

// String returns "process".
func (Alive) String() string { return "process" }

// Check implements [Probe].
func (Alive) Check(_ context.Context, in *Instance, _ any) (any, error) {
	switch {
	case !in.Process.Alive():
		return nil, fmt.Errorf("process %d of the container has ended", in.Process.PID)
	case !in.Launcher.Alive():
		return nil, fmt.Errorf("launcher %d has ended and left the container behind", in.Launcher.PID)
	}
	return nil, nil
}

// HTTP passes when a URL answers as expected. It is asked from this machine, so the
// container shares the host's network. Redirections are not followed: their status
// is the answer.
type HTTP struct {
	URL string `json:"url"`
	// Status is the status wanted; 0 means any of 200 to 299.
	Status int `json:"status,omitempty"`
	// Contains must be within the first MiB of the body; empty accepts any.
	Contains string `json:"contains,omitempty"`
}

// String returns "http URL".
func (p HTTP) String() string { return "http " + p.URL }

// probeClient asks once, over a new connection: a probe that tried again by
// itself would hide the very failure it is there to see. Nor may a proxy of the
// environment answer in the place of the container.
var probeClient = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	},
}

// Check implements [Probe].
func (p HTTP) Check(ctx context.Context, _ *Instance, _ any) (any, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return nil, err
	}
	response, err := probeClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	return nil, p.judge(response.StatusCode, body)
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

// TCP passes when an address, "host:port", accepts a connection.
type TCP struct {
	Address string `json:"address"`
}

// String returns "tcp ADDRESS".
func (p TCP) String() string { return "tcp " + p.Address }

// Check implements [Probe].
func (p TCP) Check(ctx context.Context, _ *Instance, _ any) (any, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", p.Address)
	if err != nil {
		return nil, err
	}
	return nil, conn.Close()
}

// AllServices passes when every service that shepherd knows is as it should be: running, or
// in the case of one-shot services, run without failure. It fails when, since
// its first success, a service failed to start or was respawned.
//
// A service whose definition could not be loaded is unknown to shepherd, and one that
// somebody must start by hand is never running: name the services that count
// with [Services] when a system has such.
type AllServices struct {
	// Except names services that do not count, each by any of its names.
	Except []string `json:"except,omitempty"`
}

// String returns "services".
func (AllServices) String() string { return "services" }

// Check implements [Probe].
func (p AllServices) Check(ctx context.Context, in *Instance, memory any) (any, error) {
	services, err := in.Shepherd().Services(ctx)
	if err != nil {
		return memory, err
	}
	if len(services) < 2 {
		return memory, errors.New("shepherd has not read its configuration")
	}
	return judgeServices(services, expected(services, p.Except), memory)
}

// Services passes when the services named are as [AllServices] wants them.
type Services struct {
	Names []string `json:"names"`
}

// String returns "services NAME,…".
func (p Services) String() string { return "services " + strings.Join(p.Names, ",") }

// Check implements [Probe].
func (p Services) Check(ctx context.Context, in *Instance, memory any) (any, error) {
	services, err := in.Shepherd().Services(ctx)
	if err != nil {
		return memory, err
	}
	var named []Service
	for _, name := range p.Names {
		s, ok := find(services, name)
		if !ok {
			return memory, fmt.Errorf("shepherd has no service %s", name)
		}
		named = append(named, s)
	}
	return judgeServices(services, named, memory)
}
