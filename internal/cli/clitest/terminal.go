// Package clitest has a terminal for the tests of what programs show on one.
package clitest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Terminal is one that a program may write to, and that keeps what it is shown.
type Terminal struct {
	*os.File
	t    *testing.T
	seen chan string // all that was shown, each time that there is more; closed when no program has it open
	last string      // the newest of that
}

// NewTerminal returns a terminal that is closed at the end of the test at the latest.
func NewTerminal(t *testing.T) *Terminal {
	t.Helper()
	screen, program := pty(t)
	term := &Terminal{File: program, t: t, seen: make(chan string, 1000)}
	go func() {
		defer close(term.seen)
		text, b := "", make([]byte, 4096)
		for {
			n, err := screen.Read(b)
			if err != nil {
				return // the terminal was closed
			}
			text += string(b[:n])
			term.seen <- text
		}
	}()
	t.Cleanup(func() {
		term.Close()
		for range term.seen { // to its end
		}
		screen.Close()
	})
	return term
}

// Await waits until the terminal has shown a text, and does again, which may be nil, what should have it shown: a
// display is not drawn more often than people can see.
func (term *Terminal) Await(want string, again func()) {
	term.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(3 * time.Minute)
	for !strings.Contains(term.last, want) {
		select {
		case text, ok := <-term.seen:
			if !ok {
				term.t.Fatalf("no %q in %q", want, term.last)
			}
			term.last = text
		case <-tick.C:
			if again != nil {
				again()
			}
		case <-late:
			term.t.Fatalf("no %q in %q", want, term.last)
		}
	}
}

// Shown closes the terminal and returns all that it has shown.
func (term *Terminal) Shown() string {
	term.Close()
	for text := range term.seen {
		term.last = text
	}
	return term.last
}

// pty returns both ends of a terminal: what it shows, and what programs have.
func pty(t *testing.T) (screen, program *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := screen.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err == nil {
		program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		screen.Close()
		t.Fatal(err)
	}
	return screen, program
}
