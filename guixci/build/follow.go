package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"sync"
)

// Follow yields the log of a derivation piece by piece, from its beginning: while it is built
// as it grows, through all attempts, until the build has ended. A build that is not under way has the log it
// left; if there is none the error wraps fs.ErrNotExist. Pieces are valid until the next one.
//
// There may be any number of followers of a build, also before Run has come to it, once its
// [Started] event was told. They read the file in Logs, each at its own pace: a slow one holds up nobody,
// and none needs more memory than a piece. When ctx ends its cause is the last error.
func (s *Scheduler) Follow(ctx context.Context, drv StorePath) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		f := &follower{name: logName(s.Logs, drv), yield: yield, live: s.live.get(drv)}
		err := fs.ErrNotExist
		if f.name != "" {
			err = f.follow(ctx)
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, fmt.Errorf("follow log of %s: %w", drv, err))
		}
	}
}

// errEnough is when the one who follows does not want more.
var errEnough = errors.New("enough")

type follower struct {
	name   string
	live   *liveLog // nil if the build is not under way
	yield  func([]byte, error) bool
	offset int64 // how much has been read
	buf    [32 << 10]byte
}

func (f *follower) follow(ctx context.Context) error {
	for {
		more, ended := f.live.state() // before reading, lest something be missed
		err := f.read(ctx)
		if errors.Is(err, fs.ErrNotExist) && f.live != nil {
			err = nil // there is nothing in it yet, or came nothing of it
		}
		if err != nil || ended {
			return err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// read yields what there is beyond offset. The file is another one after each attempt,
// and compressed in between, but begins with the same text.
func (f *follower) read(ctx context.Context) error {
	log, err := OpenLog(f.name)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := skip(log, f.offset); err != nil {
		return err
	}
	for ctx.Err() == nil {
		n, err := log.Read(f.buf[:])
		f.offset += int64(n)
		if n > 0 && !f.yield(f.buf[:n], nil) {
			return errEnough
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// skip reads over the first n bytes, if there are so many.
func skip(log io.Reader, n int64) error {
	if file, ok := log.(*os.File); ok {
		_, err := file.Seek(n, io.SeekStart)
		return err
	}
	if _, err := io.CopyN(io.Discard, log, n); err != io.EOF {
		return err
	}
	return nil
}

// A liveLog is what followers of a build under way wait for. A nil one has ended.
type liveLog struct {
	mu    sync.Mutex    // guards the following
	more  chan struct{} // closed when there is more to read, or the end
	ended bool
}

func (l *liveLog) state() (more <-chan struct{}, ended bool) {
	if l == nil {
		return nil, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.more, l.ended
}

// grown wakes all followers up.
func (l *liveLog) grown() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		close(l.more)
		l.more = make(chan struct{})
	}
}

func (l *liveLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended = true
		close(l.more)
	}
}

// liveLogs are those of the builds under way.
type liveLogs struct {
	mu   sync.Mutex // guards logs
	logs map[StorePath]*liveLog
}

func (s *liveLogs) get(drv StorePath) *liveLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs[drv]
}

func (s *liveLogs) begin(drv StorePath) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logs == nil {
		s.logs = map[StorePath]*liveLog{}
	}
	s.logs[drv] = &liveLog{more: make(chan struct{})}
}

func (s *liveLogs) end(drv StorePath) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.logs[drv]; l != nil {
		l.end()
		delete(s.logs, drv)
	}
}

// endAll is for those that nobody wanted any more.
func (s *liveLogs) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for drv, l := range s.logs {
		l.end()
		delete(s.logs, drv)
	}
}
