package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What a container says comes out at its console. Its shepherd writes there what it and its services say, unless
// the system has a log of its own, and that, Shepherd's and that of inetutils, writes to tty12 besides. In a Guix System container neither is there;
// here both are a fifo in the directory of the run, and a listener, a process of the unit,
// appends what comes out of it to the log.
//
// The ways to do this differ in what happens when the reader dies. With a terminal, which
// run-container would make the console by itself, what is opened is dead for ever, shepherd's
// loggers with it; a service may come to have it as its controlling terminal, and get SIGHUP. A socket at /dev/log is in
// the way of the system's own log. A plain file is opened without O_APPEND. The fifo has a name, so another
// reader can take over, and since process 1 itself has it open to read and write, as its standard
// output, opening it never waits or fails, and nothing is lost before one does.
//
// The listener is a shell and cat, not this program: whoever embeds this package has a program whose arguments
// we do not know, and that would be held in memory for each container. It ends when the last of the container does.

// consoleTargets are what the fifo is in the container.
var consoleTargets = []string{"/dev/console", "/dev/tty12"}

// listener copies from its standard input to its standard output. If cat cannot write, as when the disk is full, it
// drops what comes for a while instead, until that can be said: who writes to the console must not wait for a
// disk. It is told of the container's end by the end of the file only, and is not
// what the kernel kills for want of memory.
const listener = `trap '' HUP INT QUIT TERM PIPE
echo -1000 >/proc/self/oom_score_adj
while cat; status=$?; [ $status -ne 0 ]; do
  [ $status -gt 128 ] && continue # it was killed
  while timeout -s KILL 2 cat >/dev/null; status=$?; ! echo "` + lostWords + `"; do
    [ $status -ne 0 ] || exit
  done
done`

const lostWords = "guixci: what was said here for two seconds is lost: the log could not be written"

// speak executes a launcher, whose command follows the arguments: the listener, the fifo, the log and the gate, at which it
// waits before, if there is one, until there is something to read.
// Standard error goes to the log as it is: it is what tells why there is no container.
//
// Shepherd opens the console for each line, and leaves the closing to the garbage collector: hundreds of
// files are open then, and a thousand, which is the usual limit, can be too many. Its logger dies of that, and whoever is
// logged waits for ever. With this limit there would have to be gigabytes of garbage.
const speak = `type cat timeout >/dev/null || exit
listener=$1 console=$2 log=$3 gate=$4
shift 4
exec 3<>"$console" || exit
(exec /bin/sh -c "$listener" <"$console" >>"$log" 2>/dev/null 3<&- &)
exec >&3 3<&-
for files in 65536 "$(ulimit -H -n)"; do
  [ "$(ulimit -S -n)" = unlimited ] || [ "$(ulimit -S -n)" -ge 65536 ] || ulimit -S -n "$files"
done 2>/dev/null
[ ! -p "$gate" ] || read -r go 2>/dev/null <"$gate" || [ ! -p "$gate" ] || exit
exec "$@"`

// speaking is the launcher's command with what makes it heard.
func (in *Instance) speaking() []string {
	return append([]string{"/bin/sh", "-c", speak, "sh", listener, in.console(), in.logFile(), in.gateFile()}, in.command()...)
}

func (in *Instance) console() string { return filepath.Join(in.runDir(), "console") }

// makeConsole makes the fifo.
func (in *Instance) makeConsole() error {
	if err := unix.Mkfifo(in.console(), 0o600); err != nil {
		return &fs.PathError{Op: "mkfifo", Path: in.console(), Err: err}
	}
	return nil
}

// hearOutLimit is how long the listener of a container that has ended may take to write down the last that was said.
const hearOutLimit = time.Second

// hearOut waits until the listener has ended, as it does once it has written down what a container said that has ended.
func (in *Instance) hearOut(atMost time.Duration) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(atMost); ; {
		// As long as somebody listens this can be opened.
		fifo, err := unix.Open(in.console(), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		unix.Close(fifo)
		select {
		case <-tick.C:
		case <-late:
			return
		}
	}
}

// A substitute listens in the place of listeners that have been killed.
type substitute struct {
	waiting int   // bytes in the fifo when it was looked at last
	log     int64 // how long the log was

	mu      sync.Mutex // guards fifo
	fifo    *os.File   // what it listens to; nil for nothing
	running sync.WaitGroup
}

// look begins to listen if nobody seems to: if there is something to read, now as before, and
// the log does not grow. A listener that turns out to be only slow does no harm, nor
// does the substitute.
func (s *substitute) look(in *Instance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fifo != nil {
		return nil
	}
	fifo, err := os.OpenFile(in.console(), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was started by somebody who did not listen
	}
	if err != nil {
		return err
	}
	waiting, size, err := backlog(fifo, in.logFile())
	stuck := err == nil && waiting > 0 && s.waiting > 0 && size == s.log
	s.waiting, s.log = waiting, size
	if !stuck {
		return errors.Join(err, fifo.Close())
	}
	log, err := os.OpenFile(in.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return errors.Join(err, fifo.Close())
	}
	s.fifo = fifo
	s.running.Go(func() { // close waits for it
		listen(log, fifo)
		log.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fifo.Close()
		s.fifo = nil
	})
	in.d.log().Warn("nobody listened to the container any more, now the supervisor does", "generation", in.Generation.Number)
	return nil
}

// listen does what the listener does, until the container ends or the fifo is closed.
func listen(log io.Writer, fifo *os.File) {
	for {
		_, err := io.Copy(log, fifo)
		if err == nil || errors.Is(err, os.ErrClosed) {
			return
		}
		for said := false; !said; {
			fifo.SetReadDeadline(time.Now().Add(2 * time.Second))
			_, end := io.Copy(io.Discard, fifo)
			fifo.SetReadDeadline(time.Time{})
			_, err := fmt.Fprintln(log, lostWords)
			if said = err == nil; !said && !errors.Is(end, os.ErrDeadlineExceeded) {
				return
			}
		}
	}
}

// backlog says how much there is to read, and how long the log is.
func backlog(fifo *os.File, log string) (waiting int, size int64, err error) {
	conn, err := fifo.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var failed error
	err = conn.Control(func(fd uintptr) { waiting, failed = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	if err = errors.Join(err, failed); err != nil {
		return 0, 0, fmt.Errorf("look at console: %w", err)
	}
	info, err := os.Stat(log)
	if err != nil {
		return 0, 0, err
	}
	return waiting, info.Size(), nil
}

// listens reports whether it does.
func (s *substitute) listens() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fifo != nil
}

// close makes it stop listening.
func (s *substitute) close() {
	s.mu.Lock()
	if s.fifo != nil {
		s.fifo.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}
