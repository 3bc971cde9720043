package build

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// logSuffix is what a log's name has while the build runs, and what it can
// always be opened by; when the build has ended the file is NAME.gz.
const logSuffix = ".log"

// logName is where the log of a derivation is kept; empty without a directory.
func logName(dir string, drv StorePath) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, filepath.Base(string(drv))+logSuffix)
}

// OpenLog opens a log by the name in its [Result], while the build runs or later,
// and yields it as text. While it runs, reading ends where the log ends so far.
func OpenLog(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	zipped, err := os.Open(name + ".gz")
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(name) // a retry may have begun in between
		return f, err
	} else if err != nil {
		return nil, err
	}
	text, err := gzip.NewReader(zipped)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open log %q: %w", name, err), zipped.Close())
	}
	return &zippedLog{text, zipped}, nil
}

type zippedLog struct {
	*gzip.Reader
	file *os.File
}

func (l *zippedLog) Close() error { return errors.Join(l.Reader.Close(), l.file.Close()) }

// flushEvery is how old what readers see of a log may be.
const flushEvery = 200 * time.Millisecond

// A logFile is the log of a build that is running. The zero name discards.
type logFile struct {
	name string
	file *os.File
	live *liveLog // told of what readers can see

	mu    sync.Mutex // guards the following
	w     *bufio.Writer
	flush *time.Timer // set while there is something in w
	err   error
}

// createLog makes the log file, or goes on with it after an earlier attempt.
func createLog(name string, attempt int, live *liveLog) (*logFile, error) {
	if name == "" {
		return &logFile{}, nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	l := &logFile{name: name, file: f, live: live, w: bufio.NewWriterSize(f, 32<<10)}
	if attempt > 1 {
		if err := l.goOn(attempt); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return l, nil
}

// goOn begins with the log of the attempts before.
func (l *logFile) goOn(attempt int) error {
	zipped, err := os.Open(l.name + ".gz")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	defer zipped.Close()
	before, err := gzip.NewReader(zipped)
	if err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	if _, err := io.Copy(l.w, before); err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	_, err = fmt.Fprintf(l.w, "\n--- attempt %d ---\n", attempt)
	return err
}

// Write appends to the log. Readers see it soon.
func (l *logFile) Write(text []byte) (int, error) {
	if l.file == nil {
		return len(text), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flush == nil {
		l.flush = time.AfterFunc(flushEvery, l.sync)
	}
	if l.err != nil {
		return 0, l.err
	}
	return l.w.Write(text)
}

// sync shows readers what was written.
func (l *logFile) sync() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush = nil
	if err := l.w.Flush(); err != nil && l.err == nil {
		l.err = err
	}
	l.live.grown()
}

// Close completes the log and compresses it.
func (l *logFile) Close() error {
	if l.file == nil {
		return nil
	}
	l.mu.Lock()
	if l.flush != nil {
		l.flush.Stop()
	}
	err := errors.Join(l.err, l.w.Flush(), l.file.Close())
	l.err = fs.ErrClosed
	l.mu.Unlock()
	if err == nil {
		err = compress(l.name)
	}
	l.live.grown()
	return err
}

// compressors are reused: each has a table of a megabyte.
var compressors = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	return z
}}

// compress replaces a file by NAME.gz. It is not made to reach the disk
// at once: losing the log of a build with the power is not worth waiting for it every time.
func compress(name string) (err error) {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(name), ".log-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) // fails once it has been renamed
	z := compressors.Get().(*gzip.Writer)
	defer compressors.Put(z)
	z.Reset(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Chmod(0o644), out.Close()); err != nil {
		return err
	}
	if err := os.Rename(out.Name(), name+".gz"); err != nil {
		return err
	}
	return os.Remove(name)
}
