package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// A logTail reads the log of an instance, and what is added to it, also when the log is put
// aside in the meantime. That is seen by log.1: each is another file.
type logTail struct {
	in    *Instance
	log   *os.File
	read  int64    // how much of the log has been copied
	aside asideLog // log.1 when the log that is being read had begun; zero for none
	doubt bool     // it did not look, last time, as if putting aside were done
}

func (in *Instance) openTail() (*logTail, error) {
	log, err := os.Open(in.logFile())
	if err != nil {
		return nil, err
	}
	t := &logTail{in: in, log: log}
	t.aside, err = t.lastAside()
	if err != nil {
		log.Close()
		return nil, err
	}
	return t, nil
}

func (t *logTail) close() { t.log.Close() }

// An asideLog tells a log that was put aside, under whatever name, from others. Numbers of inodes are used again.
type asideLog struct {
	inode
	size, seconds, nanoseconds int64
}

func (l *asideLog) from(st *unix.Stat_t) {
	seconds, nanoseconds := st.Mtim.Unix()
	*l = asideLog{inode{st.Dev, st.Ino}, st.Size, seconds, nanoseconds}
}

// lastAside returns log.1, or zero.
func (t *logTail) lastAside() (l asideLog, err error) {
	var st unix.Stat_t
	name := t.in.asideName(1)
	err = unix.Stat(name, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	l.from(&st)
	return l, nil
}

// copy writes what is new. It has not finished when the log is just being put aside: then there is more to write,
// some time later.
func (t *logTail) copy(w io.Writer) (finished bool, err error) {
	now, err := t.lastAside()
	if err != nil {
		return false, err
	}
	if now != t.aside {
		info, err := t.log.Stat()
		if err != nil {
			return false, err
		}
		// What is there as log.1 is the log, too, for a moment.
		if done := info.Size() < t.read || t.doubt; !done {
			t.doubt = true
			return false, nil
		}
		if caughtUp, err := t.catchUp(w, now); err != nil || !caughtUp {
			return false, err
		}
	}
	t.doubt = false
	return t.copyLog(w)
}

// copyLog writes what is new in the log itself. It has not finished if that is put aside meanwhile.
func (t *logTail) copyLog(w io.Writer) (finished bool, err error) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := t.log.ReadAt(buffer, t.read)
		if n == 0 && !errors.Is(err, io.EOF) {
			return false, err
		}
		info, err := t.log.Stat()
		if err != nil {
			return false, err
		}
		// It is emptied only after log.1 has become another one. If that is so, what was read may be of the next log,
		// and the end that of an empty one.
		if now, err := t.lastAside(); err != nil || now != t.aside {
			return false, err
		}
		if n == 0 && info.Size() >= t.read {
			return true, nil
		}
		if n == 0 { // it was opened when log.1 was there already, and it was not yet emptied
			t.read = 0
			continue
		}
		if _, err := w.Write(buffer[:n]); err != nil {
			return false, err
		}
		t.read += int64(n)
	}
}

// catchUp writes what is missing of the logs that have been put aside since, oldest first, unless
// another one just is.
func (t *logTail) catchUp(w io.Writer, first asideLog) (bool, error) {
	missing, whole, err := t.openAside()
	for _, f := range missing {
		defer f.Close()
	}
	if err != nil {
		return false, err
	}
	if now, err := t.lastAside(); err != nil || now != first || !whole && !t.doubt {
		t.doubt = true
		return false, err
	}
	if !whole {
		fmt.Fprintln(w, "guixci: lines are missing here: the log was put aside more often than it was read")
		t.read = 0
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if _, err := missing[i].Seek(t.read, io.SeekStart); err != nil {
			return false, err
		}
		if _, err := io.Copy(w, missing[i]); err != nil {
			return false, err
		}
		t.read = 0
	}
	t.aside, t.read = first, 0
	return true, nil
}

// openAside opens the logs that have been put aside since the one known last, newest first. They are not the
// whole if that one is not there any more, or if the oldest is shorter than what was read of it.
func (t *logTail) openAside() (since []*os.File, whole bool, err error) {
	var oldest int64
	for i := 1; ; i++ {
		f, err := os.Open(t.in.asideName(i))
		if errors.Is(err, fs.ErrNotExist) {
			return since, t.aside == asideLog{} && oldest >= t.read, nil
		}
		if err != nil {
			return since, false, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			f.Close()
			return since, false, err
		}
		var l asideLog
		if l.from(&st); l == t.aside {
			f.Close()
			return since, oldest >= t.read, nil
		}
		oldest = l.size
		since = append(since, f)
	}
}
