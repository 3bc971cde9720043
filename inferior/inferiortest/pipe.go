package inferiortest

import (
	"errors"
	"io"
	"sync"
)

// Pipe returns a connection to an inferior in this process, for
// [github.com/genenetwork/guixci/inferior.Attach]. Closing it ends the inferior and
// waits for that, so Answer must not block for ever.
func (s Script) Pipe() io.ReadWriteCloser {
	p := &pipe{requests: newQueue(), replies: newQueue(), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer p.replies.Close()
		s.Serve(p.requests, p.replies)
	}()
	return p
}

// A pipe is the near end. Like a pipe of the system, and unlike [io.Pipe], it
// takes what is written before anybody reads.
type pipe struct {
	requests, replies *queue
	done              chan struct{} // closed when the inferior has ended
}

func (p *pipe) Write(b []byte) (int, error) { return p.requests.Write(b) }
func (p *pipe) Read(b []byte) (int, error)  { return p.replies.Read(b) }

func (p *pipe) Close() error {
	p.requests.Close()
	p.replies.Close()
	<-p.done
	return nil
}

// A queue is one direction.
type queue struct {
	mu     sync.Mutex // guards buf, closed
	cond   sync.Cond  // signals a change of either
	buf    []byte
	closed bool
}

var errClosedQueue = errors.New("write to a closed pipe")

func newQueue() *queue {
	q := &queue{}
	q.cond.L = &q.mu
	return q
}

func (q *queue) Write(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, errClosedQueue
	}
	q.buf = append(q.buf, b...)
	q.cond.Broadcast()
	return len(b), nil
}

func (q *queue) Read(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.buf) == 0 && !q.closed {
		q.cond.Wait()
	}
	if len(q.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(b, q.buf)
	q.buf = q.buf[n:]
	return n, nil
}

// Close lets what was written be read, then is the end.
func (q *queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.cond.Broadcast()
	return nil
}
