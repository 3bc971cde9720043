package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// spools are archives compressed on demand, in files without names. Compressing
// goes as fast as the machine can, whatever the speed of the client, so that a
// slow client holds a file and not an encoder with its megabytes of memory. Those
// who want the same archive at the same time share its file.
type spools struct {
	dir   string
	limit int64
	slots chan struct{} // holds a token for each archive being compressed

	waiting atomic.Int64
	bytes   atomic.Int64 // of all files

	mu   sync.Mutex // guards all and the users of each
	all  map[spoolKey]*spool
	idle *time.Timer // gives memory back when nothing has been compressed for a while
}

type spoolKey struct {
	path StorePath
	hash Hash
	c    Compression
}

const defaultSpoolBytes = 4 << 30

func (s *spools) start(dir string, limit int64, encoders int) {
	if encoders <= 0 {
		encoders = 2 * runtime.GOMAXPROCS(0)
	}
	if limit <= 0 {
		limit = defaultSpoolBytes
	}
	s.dir, s.limit, s.slots = dir, limit, make(chan struct{}, encoders)
	s.all = make(map[spoolKey]*spool)
	s.idle = time.AfterFunc(restAfter, func() {
		// Twice, since pools keep what they have through the first collection.
		if len(s.slots) == 0 {
			runtime.GC()
			debug.FreeOSMemory()
		}
	})
	s.idle.Stop()
}

// restAfter is how long encoders are kept for whoever comes next. They take tens of megabytes.
const restAfter = time.Second

// encoder waits for its turn to compress; the caller then has to call release.
func (s *spools) encoder(ctx context.Context) (release func(), err error) {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	select {
	case s.slots <- struct{}{}:
		return func() {
			<-s.slots
			s.idle.Reset(restAfter)
		}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *spools) state() (inUse int, waiting, bytes int64) {
	return len(s.slots), s.waiting.Load(), s.bytes.Load()
}

// A spool is one archive, while somebody wants it.
type spool struct {
	key    spoolKey
	users  int
	cancel context.CancelFunc
	file   *os.File
	all    *spools

	mu    sync.Mutex    // guards what follows
	grown chan struct{} // closed and replaced at each change
	size  int64
	done  bool
	err   error
}

var errSpoolFull = errors.New("too much is being compressed for slow clients")

// get returns the spool of an archive, which write compresses if nobody has begun to.
// The caller has to call put.
func (s *spools) get(key spoolKey, write func(context.Context, io.Writer) error) (*spool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sp := s.all[key]; sp != nil {
		sp.users++
		return sp, nil
	}
	if s.bytes.Load() >= s.limit {
		return nil, errSpoolFull
	}
	f, err := unnamed(s.dir)
	if err != nil {
		return nil, fmt.Errorf("spool archive: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	sp := &spool{key: key, users: 1, cancel: cancel, file: f, all: s, grown: make(chan struct{})}
	s.all[key] = sp
	go sp.fill(ctx, write) // put waits for it
	return sp, nil
}

// unnamed makes a file that nobody else sees.
func unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".spool-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// fill compresses, when it is our turn.
func (sp *spool) fill(ctx context.Context, write func(context.Context, io.Writer) error) {
	release, err := sp.all.encoder(ctx)
	if err == nil {
		err = write(ctx, sp)
		release()
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.done, sp.err = true, err
	close(sp.grown)
	sp.grown = nil
}

// Write adds to the file, unless all of them would become too large.
func (sp *spool) Write(p []byte) (int, error) {
	if wanted := int64(len(p)); sp.all.bytes.Add(wanted) > sp.all.limit {
		sp.all.bytes.Add(-wanted)
		return 0, errSpoolFull
	}
	n, err := sp.file.Write(p)
	sp.all.bytes.Add(int64(n - len(p)))
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.size += int64(n)
	close(sp.grown)
	sp.grown = make(chan struct{})
	return n, err
}

// put ends the use of a spool; the last one stops what is still going on.
func (s *spools) put(sp *spool) {
	s.mu.Lock()
	sp.users--
	last := sp.users == 0
	if last && s.all[sp.key] == sp {
		delete(s.all, sp.key)
	}
	s.mu.Unlock()
	if !last {
		return
	}
	sp.cancel()
	for {
		_, done, grown, _ := sp.now()
		if done {
			break
		}
		<-grown
	}
	s.bytes.Add(-sp.size)
	sp.file.Close()
}

// drop keeps later requests from sharing a spool that failed.
func (s *spools) drop(sp *spool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[sp.key] == sp {
		delete(s.all, sp.key)
	}
}

// now says how far the spool is; grown is closed at the next change.
func (sp *spool) now() (size int64, done bool, grown <-chan struct{}, err error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.size, sp.done, sp.grown, sp.err
}

// pass writes the file to w, as it grows, except for the last bytes, which it
// returns when the whole is known to be right, together with its size.
func (sp *spool) pass(ctx context.Context, w io.Writer) (held []byte, err error) {
	buf, release := spoolBuffer()
	defer release()
	var off int64
	for {
		size, done, grown, err := sp.now()
		if err != nil {
			return nil, err
		}
		if done && size-off <= lastBytes {
			held = make([]byte, size-off)
			_, err := sp.file.ReadAt(held, off)
			return held, err
		}
		ready := size - off - lastBytes
		if ready <= 0 || ready < int64(len(buf))/2 && !done {
			select {
			case <-grown:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		n, err := sp.file.ReadAt(buf[:min(ready, int64(len(buf)))], off)
		if err != nil {
			return nil, err
		}
		if n, err = w.Write(buf[:n]); err != nil {
			return nil, fmt.Errorf("%w: %v", errClientLeft, err)
		}
		off += int64(n)
	}
}

// whole waits for the archive to be finished, or to be a large one. If it is
// finished it returns its size, else -1.
func (sp *spool) whole(ctx context.Context) (int64, error) {
	for {
		size, done, grown, err := sp.now()
		switch {
		case err != nil:
			return -1, err
		case done:
			return size, nil
		case size > largeSpool:
			return -1, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return -1, context.Cause(ctx)
		}
	}
}

// sendTo is pass to the very end.
func (sp *spool) sendTo(ctx context.Context, w io.Writer) error {
	held, err := sp.pass(ctx, w)
	if err != nil {
		return err
	}
	if _, err := w.Write(held); err != nil {
		return fmt.Errorf("%w: %v", errClientLeft, err)
	}
	return nil
}

const (
	// largeSpool is the size from which clients get the beginning of an archive before the
	// end, and therefore without being told its length.
	largeSpool = 256 << 10
	// lastBytes are held back until the archive is known to be right: without
	// them no client takes it for whole.
	lastBytes = 16
	// smallBuffer is what a slow client costs, besides its connection.
	smallBuffer = 8 << 10
	// largeBuffer is what makes few system calls. A few clients can have one, fast or not.
	largeBuffer = 128 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
	largeInUse   = make(chan struct{}, 16)
)

// spoolBuffer returns a large buffer if few are in use, else a small one.
func spoolBuffer() (buf []byte, release func()) {
	select {
	case largeInUse <- struct{}{}:
		b := largeBuffers.Get().(*[largeBuffer]byte)
		return b[:], func() { largeBuffers.Put(b); <-largeInUse }
	default:
		b := smallBuffers.Get().(*[smallBuffer]byte)
		return b[:], func() { smallBuffers.Put(b) }
	}
}

// serveSpooled sends a large archive compressed.
func (h *Handler) serveSpooled(w http.ResponseWriter, r *http.Request, c Compression, info *Info) {
	h.metrics.compressed.Add(1)
	c = c.quickly()
	sp, err := h.spools.get(spoolKey{info.StorePath, info.NarHash, c}, func(ctx context.Context, w io.Writer) error {
		return c.through(w, info.NarSize, func(w io.Writer) error { return h.writeNAR(ctx, w, info) })
	})
	if err != nil {
		h.failed(w, r, err)
		return
	}
	defer h.spools.put(sp)
	w.Header().Set("Content-Type", narType)
	size, err := sp.whole(r.Context())
	if size >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	sent := &countingWriter{w: &countedResponse{w, &h.metrics.bytes}}
	if err == nil {
		err = sp.sendTo(r.Context(), sent)
	}
	switch {
	case err == nil:
	case sent.n == 0:
		h.spools.drop(sp)
		h.failed(w, r, err)
	default:
		if !errors.Is(err, errClientLeft) {
			h.spools.drop(sp)
			h.report(r, err)
		}
		panic(http.ErrAbortHandler)
	}
}
