package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// The version of the protocol we speak, and the oldest that is answered in the
// same way (Guix 0.16, December 2018). High byte major, low byte minor.
const (
	protocolVersion = 0x164
	oldestVersion   = 0x163
)

const (
	clientMagic = 0x6e697863 // "nixc"
	daemonMagic = 0x6478696f // "dxio"
)

// ErrClosed is what errors of a [Client] wrap once its connection is gone:
// closed by [Client.Close], given up by a cancelled context, or lost with the
// daemon. The client stays closed; [Dial] another one, or use a [Pool].
var ErrClosed = errors.New("connection to guix-daemon is closed")

// A DaemonError is what guix-daemon answers instead of a result.
// The connection remains usable, unless a later error wraps [ErrClosed].
type DaemonError struct {
	Message string // as the daemon says it, in English
	Status  int    // 1; of a build 100: it failed and will again, 101: it took too long
}

func (e *DaemonError) Error() string { return "guix-daemon: " + e.Message }

// A Client is one connection to guix-daemon. Methods may be called
// concurrently, but the protocol has no request numbers, so they take turns:
// while a build runs everything else waits. Use a [Pool] to work side by side.
//
// The daemon starts a process for each connection. What a connection adds to
// the store or names with [Client.AddTempRoot] is safe from the garbage
// collector as long as it is open.
//
// When a context ends before a request has been sent, the client remains usable.
// When it ends while the answer is awaited, the two sides can no longer agree
// on whose turn it is: the connection is closed, which makes the daemon stop
// what it was doing (builds are killed), and that call and all later ones
// return an error wrapping [ErrClosed]; that call's also wraps the context's cause.
type Client struct {
	// Logger gets what the daemon says outside of builds, for example warnings.
	// Set it before the first call; nil discards.
	Logger *slog.Logger

	address string
	version uint64
	turn    chan struct{} // holds one token during a request and its answer

	// Used by whoever has the turn.
	conn    net.Conn
	r       *reader
	w       *writer
	options sentOptions

	mu  sync.Mutex // guards err
	err error      // first fatal error; sticky
}

// Dial connects to the guix-daemon at address: the name of its socket,
// file:///NAME, guix://HOST[:PORT], or ssh://[USER@]HOST[:PORT], for which the command
// ssh must get there without a password and find "guix" there. An empty address means
// $GUIX_DAEMON_SOCKET, or [DefaultSocket] when that is empty too.
// The error names the socket and what could be wrong with it.
func Dial(ctx context.Context, address string) (*Client, error) {
	address = resolve(address)
	conn, err := connect(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connect to guix-daemon at %q: %w", address, err)
	}
	c := newClient(conn, address)
	if err := c.handshake(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("greet guix-daemon at %q: %w", address, err)
	}
	return c, nil
}

func newClient(conn net.Conn, address string) *Client {
	return &Client{
		address: address,
		turn:    make(chan struct{}, 1),
		conn:    conn,
		r:       newReader(conn),
		w:       newWriter(conn),
	}
}

// Close ends the connection and with it the temporary roots it held.
// A request under way fails. Closing twice is fine.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil
	}
	c.err = ErrClosed
	return c.conn.Close()
}

// Address returns what the client is connected to, in the form given to [Dial].
func (c *Client) Address() string { return c.address }

// Version returns the daemon's version of the protocol,
// for example 0x163: major version 1, minor version 0x63.
func (c *Client) Version() int { return int(c.version) }

// handshake agrees on a version. No other call can be under way.
func (c *Client) handshake(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	defer stop()

	c.w.uint(clientMagic)
	if err := c.w.flush(); err != nil {
		return c.fail(err)
	}
	magic := c.r.uint()
	c.version = c.r.uint()
	if c.r.err != nil {
		return c.fail(noEOF(c.r.err))
	}
	if magic != daemonMagic {
		return c.fail(errors.New("this is not a guix-daemon"))
	}
	if c.version>>8 != protocolVersion>>8 || c.version < oldestVersion {
		return c.fail(fmt.Errorf("protocol version %#x is not spoken here: want %#x or a later %d.x",
			c.version, oldestVersion, protocolVersion>>8))
	}
	c.w.uint(protocolVersion)
	c.w.bool(false) // no CPU affinity
	c.w.bool(true)  // keep some disk space in reserve for the garbage collector
	return c.answer(exchange{})
}

// An exchange is a request and its answer. Every field may be nil.
type exchange struct {
	op      operation
	send    func(*writer)     // writes the arguments
	log     func(text []byte) // called with what the daemon prints; text is only valid during the call
	in      io.Reader         // data the daemon asks for
	out     io.Writer         // data the daemon sends
	receive func(*reader)     // reads the results
}

// do waits for its turn and makes one exchange.
func (c *Client) do(ctx context.Context, x exchange) error {
	release, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer release()
	return c.request(x)
}

// begin takes the turn. Until release is called the end of ctx closes the connection.
func (c *Client) begin(ctx context.Context) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := c.broken(); err != nil {
		<-c.turn
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	return func() { stop(); <-c.turn }, nil
}

// request makes one exchange; the caller has the turn.
func (c *Client) request(x exchange) error {
	c.w.uint(uint64(x.op))
	if x.send != nil {
		x.send(c.w)
	}
	return c.answer(x)
}

// answer flushes what was written and reads the daemon's answer.
func (c *Client) answer(x exchange) error {
	if err := c.w.flush(); err != nil {
		return c.fail(c.lastWords(err))
	}
	said, local := c.listen(x)
	if said == nil && c.r.err == nil && x.receive != nil {
		x.receive(c.r)
	}
	switch {
	case c.r.err != nil:
		return c.fail(noEOF(c.r.err))
	case said != nil && local != nil:
		return errors.Join(local, said)
	case said != nil:
		return said
	}
	return local
}

// lastWords looks why the daemon does not listen any more: it may have
// explained itself before it hung up.
func (c *Client) lastWords(err error) error {
	c.conn.SetReadDeadline(time.Now().Add(time.Second))
	if said, _ := c.listen(exchange{}); said != nil {
		return said
	}
	return err
}

// fail closes the connection for the given reason, unless there was one before.
// It returns what later calls will return.
func (c *Client) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = fmt.Errorf("%w: %w", ErrClosed, err)
		c.conn.Close()
	}
	return c.err
}

// broken returns why the connection cannot be used, nil if it can.
func (c *Client) broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
