package store

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
)

// A Pool is any number of connections to one guix-daemon. Its methods may be
// called concurrently: each takes a connection that nobody uses, or makes one.
// Builds, and whatever else may last, do not wait for each other; questions take
// turns on a few connections, each of which is a process of the daemon. Connections that died meanwhile, because the
// daemon was restarted, are replaced unnoticed; only what was under way at that
// moment fails, with an error wrapping [ErrClosed].
//
// The zero value is a pool for the machine's usual daemon. Fields must not
// change after the first call.
type Pool struct {
	Address string       // as for [Dial]
	Logger  *slog.Logger // as for [Client]
	// MaxIdle is how many unused connections are kept, and how many questions
	// are asked at the same time. 0 means 4.
	MaxIdle int

	init      sync.Once
	questions chan struct{} // holds a token for each question under way

	mu     sync.Mutex // guards the following
	idle   []*Client  // the one used last comes last
	closed bool
}

// Do calls f with a connection that is its alone until f returns. Temporary
// roots set in f do not outlive it for certain: dial a [Client] to hold them.
func (p *Pool) Do(ctx context.Context, f func(*Client) error) error {
	return p.with(ctx, nil, f)
}

// with is Do, with a connection that can be given the options.
func (p *Pool) with(ctx context.Context, o *BuildOptions, f func(*Client) error) error {
	c, err := p.get(ctx, o)
	if err != nil {
		return err
	}
	defer p.put(c)
	return f(c)
}

// get takes an unused connection that is alive, or makes a new one.
func (p *Pool) get(ctx context.Context, o *BuildOptions) (*Client, error) {
	for {
		c, err := p.take(o)
		if err != nil {
			return nil, err
		}
		if c == nil {
			break
		}
		if c.Alive() {
			return c, nil
		}
		c.Close()
	}
	c, err := Dial(ctx, p.Address)
	if err != nil {
		return nil, err
	}
	c.Logger = p.Logger
	return c, nil
}

// take removes an unused connection from the pool; nil if there is none.
// Without options any will do.
func (p *Pool) take(o *BuildOptions) (*Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	for i, c := range slices.Backward(p.idle) {
		if o == nil || c.options.suits(o) {
			p.idle = slices.Delete(p.idle, i, i+1)
			return c, nil
		}
	}
	return nil, nil
}

// put gives a connection back.
func (p *Pool) put(c *Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.broken() != nil {
		return
	}
	p.idle = append(p.idle, c)
	for len(p.idle) > p.limit() || p.closed && len(p.idle) > 0 {
		p.idle[0].Close()
		p.idle = slices.Delete(p.idle, 0, 1)
	}
}

func (p *Pool) limit() int { return cmp.Or(max(p.MaxIdle, 0), 4) }

// Release closes the connections that nobody uses. To guix-daemon whatever was built or
// fetched through a connection is alive as long as the connection is:
// release after a lot of builds, lest the garbage collector go around them.
func (p *Pool) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.Close()
	}
	p.idle = nil
}

// Close closes the connections that nobody uses, and each of the others when
// its call returns. Later calls fail with [ErrClosed].
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Release()
	return nil
}

// Alive reports whether a connection on which nothing is under way is still open at the
// other end, as far as this can be seen without asking.
func (c *Client) Alive() bool {
	if c.broken() != nil || c.r.r.Buffered() > 0 {
		return false
	}
	conn, ok := c.conn.(interface {
		net.Conn
		syscall.Conn
	})
	if !ok {
		return true
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	open := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = err == syscall.EAGAIN || err == syscall.EINTR // anything to read is the end, or out of turn
		return true
	})
	return err == nil && open
}

// ask is with for questions, which have a result and do not last.
func ask[T any](ctx context.Context, p *Pool, f func(*Client) (T, error)) (result T, err error) {
	p.init.Do(func() { p.questions = make(chan struct{}, p.limit()) })
	select {
	case p.questions <- struct{}{}:
		defer func() { <-p.questions }()
	case <-ctx.Done():
		return result, context.Cause(ctx)
	}
	err = p.with(ctx, nil, func(c *Client) error {
		result, err = f(c)
		return err
	})
	return result, err
}

// Build is [Client.Build] on a connection of its own.
func (p *Pool) Build(ctx context.Context, drvs []StorePath, options BuildOptions, event func(Event)) error {
	return p.with(ctx, &options, func(c *Client) error { return c.Build(ctx, drvs, options, event) })
}

// EnsurePath is [Client.EnsurePath] on a connection of its own.
func (p *Pool) EnsurePath(ctx context.Context, path StorePath, options BuildOptions, event func(Event)) error {
	return p.with(ctx, &options, func(c *Client) error { return c.EnsurePath(ctx, path, options, event) })
}

// PathInfo is [Client.PathInfo].
func (p *Pool) PathInfo(ctx context.Context, path StorePath) (*PathInfo, error) {
	return ask(ctx, p, func(c *Client) (*PathInfo, error) { return c.PathInfo(ctx, path) })
}

// Valid is [Client.Valid].
func (p *Pool) Valid(ctx context.Context, path StorePath) (bool, error) {
	return ask(ctx, p, func(c *Client) (bool, error) { return c.Valid(ctx, path) })
}

// ValidPaths is [Client.ValidPaths].
func (p *Pool) ValidPaths(ctx context.Context, paths []StorePath) ([]StorePath, error) {
	return ask(ctx, p, func(c *Client) ([]StorePath, error) { return c.ValidPaths(ctx, paths) })
}

// SubstitutablePaths is [Client.SubstitutablePaths] on a connection of its own.
func (p *Pool) SubstitutablePaths(ctx context.Context, paths []StorePath, options BuildOptions) (some []StorePath, err error) {
	err = p.with(ctx, &options, func(c *Client) error {
		some, err = c.SubstitutablePaths(ctx, paths, options)
		return err
	})
	return some, err
}
