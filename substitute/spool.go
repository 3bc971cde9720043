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

	"github.com/genenetwork/guixci/internal/buffer"
)

// spools are archives compressed on demand, in files without names. Compressing
// goes as fast as the machine can, whatever the speed of the client, so that a
// slow client holds a file and not an encoder with its megabytes of memory. Those
// who want the same archive at the same time share its file.
//
// When there is no room for more, archives that have begun go on without: as fast as the slowest of their clients,
// each with an encoder of its own. Not more of them do so than may be compressed otherwise; while these
// are as many, nothing new is begun.
type spools struct {
	dir    string
	limit  int64
	slots  chan struct{} // holds a token for each archive being compressed into a file
	narrow chan struct{} // holds a token for each archive being compressed past one

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
	s.dir, s.limit = dir, limit
	s.slots, s.narrow = make(chan struct{}, encoders), make(chan struct{}, encoders)
	s.all = make(map[spoolKey]*spool)
	s.idle = time.AfterFunc(restAfter, func() {
		// Twice, since pools keep what they have through the first collection.
		if len(s.slots)+len(s.narrow) == 0 {
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

// narrowWait is how long the clients of an archive that has begun are kept waiting until it can go on.
const narrowWait = 20 * time.Second

// past waits for its turn to compress an archive of which no more fits into its file.
func (s *spools) past(ctx context.Context) (release func(), err error) {
	late := time.NewTimer(narrowWait)
	defer late.Stop()
	select {
	case s.narrow <- struct{}{}:
		return func() {
			<-s.narrow
			s.idle.Reset(restAfter)
		}, nil
	case <-late.C:
		return nil, errSpoolFull
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *spools) state() (inUse int, waiting, bytes int64) {
	return len(s.slots) + len(s.narrow), s.waiting.Load(), s.bytes.Load()
}

// A spool is one archive, while somebody wants it.
type spool struct {
	key    spoolKey
	users  int
	cancel context.CancelFunc
	file   *os.File
	all    *spools

	// Only what compresses uses these.
	ctx     context.Context // ends when nobody wants the archive any more
	release func()          // gives back its turn

	mu      sync.Mutex    // guards what follows
	grown   chan struct{} // closed and replaced at each change
	size    int64
	done    bool
	err     error
	filed   int64           // bytes in the file
	past    bool            // what follows is passed on without the file
	tail    []byte          // then: the last bytes, up to size
	readers map[*int64]bool // how far each user is
	moved   chan struct{}   // closed and replaced whenever one gets further, or leaves
}

var errSpoolFull = errors.New("too much is being compressed for slow clients")

// get returns the spool of an archive, which write compresses if nobody has begun to, and where the caller is in it.
// The caller has to call put.
func (s *spools) get(key spoolKey, write func(context.Context, io.Writer) error) (*spool, *int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sp := s.all[key]; sp != nil {
		sp.users++
		return sp, sp.join(), nil
	}
	if s.bytes.Load() >= s.limit || len(s.narrow) == cap(s.narrow) {
		return nil, nil, errSpoolFull
	}
	f, err := unnamed(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("spool archive: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	sp := &spool{key: key, users: 1, cancel: cancel, file: f, all: s, ctx: ctx,
		grown: make(chan struct{}), moved: make(chan struct{}), readers: make(map[*int64]bool)}
	s.all[key] = sp
	at := sp.join()
	go sp.fill(write) // put waits for it
	return sp, at, nil
}

// join adds a user, who is at the beginning.
func (sp *spool) join() (at *int64) {
	at = new(int64)
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.readers[at] = true
	return at
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
func (sp *spool) fill(write func(context.Context, io.Writer) error) {
	release, err := sp.all.encoder(sp.ctx)
	if err == nil {
		sp.release = release
		err = write(sp.ctx, sp)
		sp.release()
	}
	if err != nil {
		sp.all.drop(sp)
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.done, sp.err = true, err
	close(sp.grown)
	sp.grown = nil
}

// Write adds to the archive.
func (sp *spool) Write(p []byte) (n int, err error) {
	if !sp.past { // nobody else changes it
		n = sp.writeFile(p)
		if n == len(p) {
			return n, nil
		}
		if err := sp.leaveFile(); err != nil {
			return n, err
		}
	}
	if err := sp.passOn(p[n:]); err != nil {
		return n, err
	}
	return len(p), nil
}

// writeFile adds to the file as much as there is room for. All files together have to keep to their limit.
func (sp *spool) writeFile(p []byte) int {
	if over := sp.all.bytes.Add(int64(len(p))) - sp.all.limit; over > 0 {
		over = min(over, int64(len(p)))
		sp.all.bytes.Add(-over)
		p = p[:int64(len(p))-over]
	}
	n, _ := sp.file.Write(p) // the disk may be full
	sp.all.bytes.Add(int64(n - len(p)))
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.filed += int64(n)
	sp.size += int64(n)
	sp.changed(&sp.grown)
	return n
}

// changed wakes who waits for one of the channels. The caller has sp.mu.
func (sp *spool) changed(c *chan struct{}) {
	close(*c)
	*c = make(chan struct{})
}

// leaveFile waits until the archive may be compressed past the file. From then on nobody can begin with it.
func (sp *spool) leaveFile() error {
	sp.all.drop(sp)
	sp.release()
	sp.release = func() {}
	release, err := sp.all.past(sp.ctx)
	if err != nil {
		return err
	}
	sp.release = release
	tail := make([]byte, min(sp.filed, lastBytes))
	if _, err := sp.file.ReadAt(tail, sp.filed-int64(len(tail))); err != nil {
		return err
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.past, sp.tail = true, tail
	sp.changed(&sp.grown)
	return nil
}

// passOn adds to the archive past the file, when all users have got what they may have of it.
func (sp *spool) passOn(p []byte) error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	for sp.behind() {
		moved := sp.moved
		sp.mu.Unlock()
		select {
		case <-moved:
		case <-sp.ctx.Done():
		}
		sp.mu.Lock()
		if sp.ctx.Err() != nil {
			return context.Cause(sp.ctx)
		}
	}
	keep := min(len(sp.tail), lastBytes)
	sp.tail = append(sp.tail[:copy(sp.tail, sp.tail[len(sp.tail)-keep:])], p...)
	sp.size += int64(len(p))
	sp.changed(&sp.grown)
	return nil
}

// behind reports whether somebody needs more than the last bytes. The caller has sp.mu.
func (sp *spool) behind() bool {
	for at := range sp.readers {
		if *at < sp.size-lastBytes {
			return true
		}
	}
	return false
}

// reached notes how far a user is.
func (sp *spool) reached(at *int64, off int64) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	*at = off
	if sp.past {
		sp.changed(&sp.moved)
	}
}

// readAt reads up to len(b) bytes of what there is from off on.
func (sp *spool) readAt(b []byte, off int64) (int, error) {
	sp.mu.Lock()
	if begin := sp.size - int64(len(sp.tail)); sp.past && off >= begin {
		defer sp.mu.Unlock()
		return copy(b, sp.tail[off-begin:]), nil
	}
	b = b[:min(int64(len(b)), sp.filed-off)]
	sp.mu.Unlock()
	return sp.file.ReadAt(b, off)
}

// put ends the use of a spool; the last one stops what is still going on.
func (s *spools) put(sp *spool, at *int64) {
	sp.mu.Lock()
	delete(sp.readers, at)
	sp.changed(&sp.moved)
	sp.mu.Unlock()
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
		now := sp.now()
		if now.done {
			break
		}
		<-now.grown
	}
	s.bytes.Add(-sp.filed)
	sp.file.Close()
}

// drop keeps later requests from sharing a spool that failed, or of which the beginning will be gone.
func (s *spools) drop(sp *spool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[sp.key] == sp {
		delete(s.all, sp.key)
	}
}

// A spoolState is how far a spool is; grown is closed at the next change.
type spoolState struct {
	size  int64
	past  bool
	done  bool
	err   error
	grown <-chan struct{}
}

func (sp *spool) now() spoolState {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return spoolState{sp.size, sp.past, sp.done, sp.err, sp.grown}
}

// pass writes the archive to w, as it grows, except for the last bytes, which it
// returns when the whole is known to be right.
func (sp *spool) pass(ctx context.Context, w io.Writer, at *int64) (held []byte, err error) {
	buf, release := buffer.Get()
	defer release()
	var off int64
	for {
		now := sp.now()
		if now.err != nil {
			return nil, now.err
		}
		if now.done && now.size-off <= lastBytes {
			held = make([]byte, now.size-off)
			_, err := sp.readAt(held, off)
			return held, err
		}
		// What comes past the file waits for us.
		ready, wait := now.size-off-lastBytes, !now.done && !now.past
		if ready <= 0 || ready < int64(len(buf))/2 && wait {
			select {
			case <-now.grown:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		n, err := sp.readAt(buf[:min(ready, int64(len(buf)))], off)
		if err != nil {
			return nil, err
		}
		if n, err = w.Write(buf[:n]); err != nil {
			return nil, fmt.Errorf("%w: %v", errClientLeft, err)
		}
		off += int64(n)
		sp.reached(at, off)
	}
}

// whole waits for the archive to be finished, or to be a large one. If it is
// finished it returns its size, else -1.
func (sp *spool) whole(ctx context.Context) (int64, error) {
	for {
		now := sp.now()
		switch {
		case now.err != nil:
			return -1, now.err
		case now.done:
			return now.size, nil
		case now.size > largeSpool, now.past:
			return -1, nil
		}
		select {
		case <-now.grown:
		case <-ctx.Done():
			return -1, context.Cause(ctx)
		}
	}
}

// sendTo is pass to the very end.
func (sp *spool) sendTo(ctx context.Context, w io.Writer, at *int64) error {
	held, err := sp.pass(ctx, w, at)
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
)

// serveSpooled sends a large archive compressed.
func (h *Handler) serveSpooled(w http.ResponseWriter, r *http.Request, c Compression, info *Info) {
	h.metrics.compressed.Add(1)
	w.Header().Set("ETag", madeTag(c, info))
	c = c.quickly()
	sp, at, err := h.spools.get(spoolKey{info.StorePath, info.NarHash, c}, func(ctx context.Context, w io.Writer) error {
		return c.through(w, info.NarSize, func(w io.Writer) error { return h.writeNAR(ctx, w, info) })
	})
	if err != nil {
		h.failed(w, r, err)
		return
	}
	defer h.spools.put(sp, at)
	w.Header().Set("Content-Type", narType)
	size, err := sp.whole(r.Context())
	if size >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	sent := &countingWriter{w: &countedResponse{w, &h.metrics.bytes}}
	if err == nil {
		err = sp.sendTo(r.Context(), sent, at)
	}
	switch {
	case err == nil:
	case sent.n == 0:
		h.failed(w, r, err)
	default:
		if !errors.Is(err, errClientLeft) {
			h.report(r, err)
		}
		panic(http.ErrAbortHandler)
	}
}
