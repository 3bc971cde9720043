package substitute

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// A Server serves a [Handler] to many clients, slow ones among them, on one listener:
//
//	s := &substitute.Server{Handler: handler}
//	err := s.Run(ctx, listener)
//
// It answers requests for narinfos itself, without net/http: clients send a thousand of them
// in one go, and get the answers in few writes. Whatever else comes on a
// connection is handed to net/http, together with the connection. Connections acknowledge
// at once what they read, see [QuickACK].
type Server struct {
	Handler *Handler // required
	// Root, if not nil, is asked instead of Handler for all but narinfos.
	Root http.Handler
	// MaxConns is how many connections there may be; others wait to be
	// accepted. 0 means 4096.
	MaxConns int
	// Idle is how long a connection may be silent, and Stall how long a client
	// may take nothing of an answer; 0 means two minutes each.
	Idle, Stall time.Duration
	// Drain is how long answers may go on after the end of Run's context; 0
	// means ten seconds.
	Drain time.Duration

	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
}

const (
	defaultConns = 4096
	defaultIdle  = 2 * time.Minute
	defaultDrain = 10 * time.Second
	headerBytes  = 16 << 10
)

// Run serves until ctx ends, lets answers that have begun go on for a while,
// and returns nil; or it returns why the listener failed. It closes l.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	s.Handler.init.Do(s.Handler.setup)
	s.conns = make(map[net.Conn]bool)
	passed := &passedOn{addr: l.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}
	web := &http.Server{
		Handler: s.Root, ReadHeaderTimeout: s.idle(), IdleTimeout: s.idle(), MaxHeaderBytes: headerBytes,
	}
	if web.Handler == nil {
		web.Handler = s.Handler
	}
	var running sync.WaitGroup
	running.Go(func() { web.Serve(passed) })
	stop := context.AfterFunc(ctx, func() { l.Close() })
	err := s.accept(ctx, l, passed, &running)
	stop()
	l.Close()
	s.closeQuiet()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), or(s.Drain, defaultDrain))
	defer cancel()
	if web.Shutdown(drain) != nil {
		web.Close()
	}
	passed.Close()
	running.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func or(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

func (s *Server) idle() time.Duration { return or(s.Idle, defaultIdle) }

// accept starts a goroutine for each connection.
func (s *Server) accept(ctx context.Context, l net.Listener, passed *passedOn, running *sync.WaitGroup) error {
	most := s.MaxConns
	if most <= 0 {
		most = defaultConns
	}
	slots := make(chan struct{}, most)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.Accept()
		if err != nil {
			<-slots
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() || tooMany(err) {
				pause(ctx)
				continue
			}
			return err
		}
		conn := &clientConn{Conn: quickACK(c), stall: or(s.Stall, defaultIdle), release: sync.OnceFunc(func() { <-slots })}
		if !s.track(ctx, conn) {
			conn.Close()
			continue
		}
		running.Go(func() { s.serve(ctx, conn, passed) })
	}
}

// pause waits for others to give back what we lack, file descriptors mostly.
func pause(ctx context.Context) {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// serve answers narinfos until something else comes.
func (s *Server) serve(ctx context.Context, c *clientConn, passed *passedOn) {
	q := &quick{h: s.Handler, conn: c, idle: s.idle()}
	rest, err := q.serve(ctx)
	s.forget(c)
	if err != nil {
		c.Close()
		return
	}
	c.SetReadDeadline(time.Time{})
	c.rest = rest
	passed.pass(c)
}

// track remembers a connection that waits for narinfo requests, unless it is too late for that.
func (s *Server) track(ctx context.Context, c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	s.conns[c] = true
	return true
}

func (s *Server) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// closeQuiet ends the waiting for narinfo requests; what is being answered will be.
func (s *Server) closeQuiet() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.SetReadDeadline(time.Unix(1, 0))
	}
}

// passedOn is the listener that net/http gets connections from.
type passedOn struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *passedOn) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *passedOn) pass(c net.Conn) {
	select {
	case p.conns <- c:
	case <-p.closed:
		c.Close()
	}
}

func (p *passedOn) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *passedOn) Addr() net.Addr { return p.addr }

// A clientConn is a connection that gives up clients who take nothing, and
// that begins with what has been read of it already.
type clientConn struct {
	net.Conn
	stall   time.Duration
	rest    []byte
	release func()
}

func (c *clientConn) Read(p []byte) (int, error) {
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *clientConn) Write(p []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(c.stall))
	return c.Conn.Write(p)
}

// ReadFrom lets the kernel copy a file, in pieces that each have their time.
func (c *clientConn) ReadFrom(r io.Reader) (total int64, err error) {
	limited, ok := r.(*io.LimitedReader)
	to, ok2 := c.Conn.(io.ReaderFrom)
	if !ok || !ok2 {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	const piece = 4 << 20
	for left := limited.N; left > 0; {
		c.SetWriteDeadline(time.Now().Add(c.stall))
		part := &io.LimitedReader{R: limited.R, N: min(left, piece)}
		n, err := to.ReadFrom(part)
		total += n
		left -= n
		limited.N -= n
		if err != nil || n == 0 {
			return total, err
		}
	}
	return total, nil
}

func (c *clientConn) Close() error {
	c.release()
	return c.Conn.Close()
}
