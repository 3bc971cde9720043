package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// A loader reads derivations side by side. All nodes of the graph from next on
// are still to be read; each that is read may add some.
type loader struct {
	mu    sync.Mutex // guards the graph and the following
	graph *Graph
	next  int
	busy  int // readers at work
	err   error
	wake  sync.Cond
}

func (l *loader) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { l.fail(context.Cause(ctx)) })
	defer stop()
	var group errgroup.Group
	for range max(2, runtime.GOMAXPROCS(0)) {
		group.Go(func() error {
			l.work()
			return nil
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx) // whether or not anybody was told in time
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *loader) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
	l.wake.Broadcast()
}

// work reads one derivation after the other until all are there.
func (l *loader) work() {
	var r headReader
	for {
		id, path, ok := l.take()
		if !ok {
			return
		}
		if err := r.read(l.graph.Store, path); err != nil {
			l.fail(err)
			return
		}
		l.put(id, &r)
	}
}

// take waits for a derivation to read. There is none when all have been read,
// or one could not.
func (l *loader) take() (ID, StorePath, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.err == nil && l.next == len(l.graph.nodes) && l.busy > 0 {
		l.wake.Wait()
	}
	if l.err != nil || l.next == len(l.graph.nodes) {
		return 0, "", false
	}
	id := ID(l.next)
	l.next++
	l.busy++
	return id, l.graph.nodes[id].derivation, true
}

// put fills a node with what was read.
func (l *loader) put(id ID, r *headReader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	edges := make([]edge, len(r.inputs))
	for i, in := range r.inputs {
		edges[i] = edge{l.graph.intern(in.derivation), l.graph.internNames(in.names)}
	}
	n := &l.graph.nodes[id]
	n.outputs, n.inputs = r.outputs, edges
	l.busy--
	l.wake.Broadcast()
}

// A headReader reads the beginning of a derivation, which says what it makes
// and what it needs, and leaves the rest on the disk.
type headReader struct {
	buf     []byte
	outputs []Output
	inputs  []headInput
}

// A headInput is an Input whose names are joined with commas.
type headInput struct {
	derivation, names string
}

func (h *headReader) read(store fs.FS, path StorePath) (err error) {
	f, err := open(store, path)
	if err != nil {
		return err
	}
	defer f.Close()
	if h.buf == nil {
		h.buf = make([]byte, 16<<10) // enough for nearly all
	}
	for have := 0; ; {
		n, rerr := f.Read(h.buf[have:])
		have += n
		err := h.parse(h.buf[:have])
		if err == nil {
			return nil
		}
		if !errors.Is(err, errShort) || rerr == io.EOF || n == 0 {
			return fmt.Errorf("%s: parse derivation: %w", path, err)
		}
		if rerr != nil {
			return fmt.Errorf("%s: %w", path, rerr)
		}
		if have == len(h.buf) {
			h.buf = append(h.buf, make([]byte, len(h.buf))...)
		}
	}
}

// open opens a store item for reading.
func open(store fs.FS, path StorePath) (io.ReadCloser, error) {
	if store != nil {
		return store.Open(path.Base())
	}
	fd, err := syscall.Open(string(path), syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: string(path), Err: err}
	}
	return plainFile(fd), nil
}

// A plainFile is an open file without what an os.File does to be ready for
// more than regular files, which takes longer than reading a derivation.
type plainFile int

func (f plainFile) Read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(f), b)
		if err == syscall.EINTR {
			continue
		}
		return max(n, 0), err
	}
}

func (f plainFile) Close() error { return syscall.Close(int(f)) }

func (h *headReader) parse(text []byte) error {
	h.outputs, h.inputs = nil, h.inputs[:0]
	r := &atermReader{text: text}
	r.literal("Derive(")
	r.list(func() {
		o := readOutput(r)
		o.Hash = ""
		h.outputs = append(h.outputs, o)
	})
	r.literal(",")
	r.list(func() {
		in := readInput(r)
		h.inputs = append(h.inputs, headInput{string(in.Derivation), strings.Join(in.Outputs, ",")})
	})
	for _, in := range h.inputs {
		if r.err == nil && check(StorePath(in.derivation)) != nil {
			r.fail("input %q is not a store path", in.derivation)
		}
	}
	return r.err
}
