package substitute

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
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
	// MaxConns is how many connections there may be; others wait to be accepted. 0 means 4096. While some
	// wait, clients are closed that have not come up with a whole request for a second, longest first, then those
	// that take hardly anything of their answers.
	MaxConns int
	// Idle is how long a connection may be silent, and Stall how long a client
	// may take nothing of an answer; 0 means two minutes each.
	Idle, Stall time.Duration
	// Drain is how long answers may go on after the end of Run's context; 0
	// means ten seconds.
	Drain time.Duration

	mu    sync.Mutex           // guards conns
	conns map[*clientConn]bool // all of them; false when net/http has it
	began time.Time
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
	s.conns, s.began = make(map[*clientConn]bool), time.Now()
	passed := &passedOn{addr: l.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}
	web := s.web()
	answering, stopAnswering := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAnswering()
	var running sync.WaitGroup
	running.Go(func() { web.Serve(passed) })
	stop := context.AfterFunc(ctx, func() { l.Close() })
	err := s.accept(ctx, l, func(c *clientConn) {
		running.Go(func() { s.serve(ctx, answering, c, passed) })
	})
	stop()
	l.Close()
	s.closeQuiet()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), or(s.Drain, defaultDrain))
	defer cancel()
	stop = context.AfterFunc(drain, func() { stopAnswering(); s.closeAll() })
	if web.Shutdown(drain) != nil {
		web.Close()
	}
	passed.Close()
	running.Wait()
	stop()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// web is what answers all but narinfos.
func (s *Server) web() *http.Server {
	root := s.Root
	if root == nil {
		root = s.Handler
	}
	return &http.Server{
		ReadHeaderTimeout: s.idle(), IdleTimeout: s.idle(), MaxHeaderBytes: headerBytes,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateIdle {
				c.(*clientConn).wait()
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := r.Context().Value(connKey{}).(*clientConn)
			if r.Body == http.NoBody {
				c.answer()
			} else { // net/http reads it before it answers, however long that takes: the request is not whole
				c.wait()
				http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.idle()))
			}
			ctx, done := c.answering(r.Context())
			defer done()
			root.ServeHTTP(w, r.WithContext(ctx))
		}),
	}
}

// connKey is for the connection of a request.
type connKey struct{}

func or(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

func (s *Server) idle() time.Duration { return or(s.Idle, defaultIdle) }

// accept calls start for each connection.
func (s *Server) accept(ctx context.Context, l net.Listener, start func(*clientConn)) error {
	most := s.MaxConns
	if most <= 0 {
		most = defaultConns
	}
	slots := make(chan struct{}, most)
	for {
		c, err := l.Accept()
		if err != nil {
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() || tooMany(err) {
				s.makeRoom()
				pause(ctx)
				continue
			}
			return err
		}
		if !s.takeSlot(ctx, slots) {
			c.Close()
			return nil
		}
		conn := &clientConn{Conn: quickACK(c), began: s.began, stall: or(s.Stall, defaultIdle)}
		conn.lost, conn.lose = context.WithCancel(context.Background())
		conn.closed = sync.OnceFunc(func() {
			conn.lose()
			s.forget(conn)
			<-slots
		})
		conn.wait()
		if !s.track(ctx, conn) {
			conn.Close()
			continue
		}
		start(conn)
	}
}

// takeSlot finds room for one more connection, unless ctx ends.
func (s *Server) takeSlot(ctx context.Context, slots chan<- struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
	}
	for {
		again := time.NewTimer(s.makeRoom())
		select {
		case slots <- struct{}{}:
			again.Stop()
			return true
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return false
		}
	}
}

const (
	// grace is how long a connection is left alone that waits for a request, or for the client to take something.
	// When many come at once, a new one would else be closed before its client could ask.
	grace = time.Second
	// leastRate is how many bytes in a second a client takes that may stay, on the average of what it was given.
	leastRate = 16 << 10
	// stuck is how long a client takes nothing that may not, however fast it was before.
	stuck = 10 * time.Second
)

// makeRoom closes the connection that has been waiting longest for a whole request, unless that is
// not long; else the one whose client is slowest, if it is slow. It returns after which time to try again.
func (s *Server) makeRoom() time.Duration {
	again := grace
	if longest, since := s.longestWaiting(); longest != nil {
		again = grace - (time.Since(s.began) - time.Duration(since))
		if again <= 0 {
			if !longest.waiting.CompareAndSwap(since, unwanted) {
				return 0 // its request has come
			}
			longest.Close()
			return grace // if that is not enough
		}
	}
	if slowest := s.slowest(); slowest != nil {
		slowest.Close()
	}
	return again
}

// slowest finds the client that takes least, of those that take too little.
func (s *Server) slowest() (slowest *clientConn) {
	now := time.Since(s.began)
	s.mu.Lock()
	defer s.mu.Unlock()
	least := float64(leastRate)
	for c := range s.conns {
		if rate, ok := c.rate(now); ok && rate < least {
			slowest, least = c, rate
		}
	}
	return slowest
}

func (s *Server) longestWaiting() (longest *clientConn, since int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if at := c.waiting.Load(); at > 0 && (longest == nil || at < since) {
			longest, since = c, at
		}
	}
	return longest, since
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

// serve answers narinfos until something else comes, or ctx ends; answering is for what is under way then.
func (s *Server) serve(ctx, answering context.Context, c *clientConn, passed *passedOn) {
	q := &quick{h: s.Handler, conn: c, idle: s.idle()}
	rest, err := q.serve(ctx, answering)
	if err != nil || !s.handOver(c) {
		c.Close()
		return
	}
	c.rest = rest
	passed.pass(c)
}

// track remembers a connection that waits for narinfo requests, unless it is too late for that.
func (s *Server) track(ctx context.Context, c *clientConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	s.conns[c] = true
	return true
}

// handOver makes a connection one of net/http's, unless it has been closed.
func (s *Server) handOver(c *clientConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.conns[c] {
		return false
	}
	s.conns[c] = false
	c.SetReadDeadline(time.Time{})
	return true
}

func (s *Server) forget(c *clientConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// closeQuiet ends the waiting for narinfo requests; what is being answered will be.
func (s *Server) closeQuiet() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, ours := range s.conns {
		if ours {
			c.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

// closeAll ends everything.
func (s *Server) closeAll() {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range all {
		c.Close()
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
	began  time.Time // of the server
	stall  time.Duration
	rest   []byte
	closed func()
	lost   context.Context // ends when the connection breaks, or is closed
	lose   context.CancelFunc

	// waiting is since when there has been no whole request to be answered, in nanoseconds after began; 0
	// while there is one, and unwanted when there will not be any more.
	waiting atomic.Int64

	// What the client has taken, in bytes, and how long that took, as far as it is done; and since when it has been
	// given what it has not taken yet, in nanoseconds after began, or 0. Whatever else an answer waits for is not the
	// client's fault.
	taken, took, giving atomic.Int64
}

const unwanted = -1

// wait notes that the next request has not come.
func (c *clientConn) wait() { c.waiting.CompareAndSwap(0, 1+int64(time.Since(c.began))) }

// answer notes that it has.
func (c *clientConn) answer() {
	if at := c.waiting.Load(); at > 0 {
		c.waiting.CompareAndSwap(at, 0)
	}
}

func (c *clientConn) Read(p []byte) (int, error) {
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.lose()
	}
	return n, err
}

// answering returns the context of an answer. The one of net/http ends as soon as there will be no more requests; but a
// client that has said so may well read on. One that does not turns up when something is written.
func (c *clientConn) answering(r context.Context) (ctx context.Context, done context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r))
	stop := context.AfterFunc(c.lost, cancel)
	return ctx, func() { stop(); cancel() }
}

func (c *clientConn) Write(p []byte) (int, error) {
	start := c.give()
	n, err := c.Conn.Write(p)
	c.gave(start, int64(n))
	return n, err
}

// give notes that the client is about to be given something, for which it has its time.
func (c *clientConn) give() (start time.Time) {
	start = time.Now()
	c.SetWriteDeadline(start.Add(c.stall))
	c.giving.Store(1 + int64(start.Sub(c.began)))
	return start
}

func (c *clientConn) gave(start time.Time, n int64) {
	c.taken.Add(n)
	c.took.Add(int64(time.Since(start)))
	c.giving.Store(0)
}

// rate is how many bytes the client takes in a second, if we are waiting for it for longer than the grace.
func (c *clientConn) rate(now time.Duration) (float64, bool) {
	since := c.giving.Load()
	waited := now - time.Duration(since)
	switch {
	case since == 0 || waited <= grace:
		return 0, false
	case waited > stuck:
		return 0, true
	}
	return float64(c.taken.Load()) / (time.Duration(c.took.Load()) + waited).Seconds(), true
}

// ReadFrom lets the kernel copy a file, in pieces that each have their time.
func (c *clientConn) ReadFrom(r io.Reader) (total int64, err error) {
	limited, ok := r.(*io.LimitedReader)
	to, ok2 := c.Conn.(io.ReaderFrom)
	if !ok || !ok2 {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	const piece = 128 << 10 // which takes a client of leastRate less than stuck
	for left := limited.N; left > 0; {
		start := c.give()
		part := &io.LimitedReader{R: limited.R, N: min(left, piece)}
		n, err := to.ReadFrom(part)
		c.gave(start, n)
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
	c.closed()
	return c.Conn.Close()
}
