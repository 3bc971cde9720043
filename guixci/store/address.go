package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// DefaultSocket is where guix-daemon listens unless told otherwise.
const DefaultSocket = "/var/guix/daemon-socket/socket"

// defaultPort is that of guix-daemon --listen=HOST.
const defaultPort = "44146"

// connect opens a connection to the daemon at address, which is never empty.
func connect(ctx context.Context, address string) (net.Conn, error) {
	network, target, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	if network == "ssh" {
		u, err := url.Parse(target)
		if err != nil {
			return nil, fmt.Errorf("parse address: %v", err)
		}
		return connectSSH(ctx, u)
	}
	for wait := time.Millisecond; ; wait *= 2 {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, target)
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, syscall.EAGAIN) || wait > longestQueue {
			return nil, explain(ctx, err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// longestQueue is the last pause before giving up on a daemon that is too busy
// to take connections. It lets five wait, and forks for each: a crowd needs a moment.
const longestQueue = 5 * time.Second

// resolve gives an empty address its meaning.
func resolve(address string) string {
	return cmp.Or(address, os.Getenv("GUIX_DAEMON_SOCKET"), DefaultSocket)
}

// parseAddress translates the forms that GUIX_DAEMON_SOCKET may have
// (node "The Store" of the Guix manual) to what package net wants; "ssh" is for connectSSH.
func parseAddress(address string) (network, target string, err error) {
	scheme, _, ok := strings.Cut(address, "://")
	if !ok {
		return "unix", address, nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", "", fmt.Errorf("parse address: %v", err)
	}
	switch scheme {
	case "file", "unix":
		if u.Host != "" || u.Path == "" {
			return "", "", errors.New("parse address: want file:///NAME/OF/SOCKET")
		}
		return "unix", u.Path, nil
	case "guix":
		if u.Hostname() == "" {
			return "", "", errors.New("parse address: want guix://HOST or guix://HOST:PORT")
		}
		return "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), defaultPort)), nil
	case "ssh":
		return "ssh", address, nil
	}
	return "", "", fmt.Errorf("parse address: unknown scheme %q: want a file name, file://, guix:// or ssh://", scheme)
}

// explain adds to a failed connection what to try.
func explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w; is guix-daemon running?", err)
	case errors.Is(err, syscall.EAGAIN):
		return errors.New("too many wait to be connected; is guix-daemon stuck?")
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; may this user use guix-daemon?", err)
	}
	return err
}
