// Package guixbox gives a machine without Guix a real one to test against.
//
// A [Box] is a Debian root file system that has Debian's package of GNU Guix,
// entered as a mount namespace of its own, with a running guix-daemon. Inside, /gnu/store,
// /var/guix and the daemon's socket are the real paths; the host's other directories
// (/home, /tmp, /srv, …) are where they were. Stand-ins made of Debian packages take the place
// of the few dozen packages that would have to be downloaded (scheme/standins.scm),
// so that profiles, channels and system containers really build.
//
//	box := guixbox.Box{Progress: func(line string) { fmt.Fprintln(os.Stderr, line) }}
//	if err := box.Up(ctx); err != nil { … }   // a minute the first time, then nothing
//	out, err := box.Command(ctx, "guix", "describe").Output()
//
// On a machine that has a working Guix, [OnHost] says so, and demo and tests use
// that one. The command cmd/guixbox does the same from a shell:
//
//	go run ./internal/guixbox/cmd/guixbox up
//	go test -exec "guixbox exec --" ./...
//
// A box's directory holds
//
//	root-ID          the root file system of the recipe with that hash; it is complete
//	running-ID.json  the processes that keep it up
//	making-…         what is not complete: removed by the next Up
//	guix-daemon.log  what guix-daemon says
package guixbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/genenetwork/guixci/internal/filelock"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// A Box is one installation of the box. The zero value is the usual one.
type Box struct {
	// Dir holds the root file system and what runs on it;
	// empty means $GUIXBOX_DIR or /var/cache/guixbox.
	Dir string
	// Mirror is the Debian archive to install from;
	// empty means $GUIXBOX_MIRROR or what mmdebstrap takes by itself.
	Mirror string
	// Progress is told what Up is doing, a line at a time; nil tells nobody.
	Progress func(line string)
}

func (b *Box) dir() string {
	dir := cmp.Or(b.Dir, os.Getenv("GUIXBOX_DIR"), "/var/cache/guixbox")
	if whole, err := filepath.Abs(dir); err == nil {
		return whole
	}
	return dir
}

func (b *Box) path(name string) string { return filepath.Join(b.dir(), name) }

func (b *Box) say(format string, args ...any) {
	if b.Progress != nil {
		b.Progress(fmt.Sprintf(format, args...))
	}
}

// Up makes the box ready: it builds the root file system if there is none for
// this recipe, holds its namespace, starts guix-daemon and makes the stand-ins.
// What is there already is left alone, so Up is cheap the second time.
// Several processes may call Up at once; one does the work.
// Cancelling ctx, or killing the process, leaves nothing that looks ready, and
// no process or mount that Up started.
// A precondition the machine does not meet is an error that says how to meet it.
// Inside a box there is nothing to do.
func (b *Box) Up(ctx context.Context) error {
	if Inside() || b.ready() {
		return nil
	}
	if err := b.preconditions(ctx); err != nil {
		return err
	}
	unlock, err := b.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if b.ready() { // somebody else did the work
		return nil
	}
	start := time.Now()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	b.removeOthers(ctx)
	b.say("ready after %.0f s", time.Since(start).Seconds())
	return nil
}

// ready reports whether there is nothing to do for Up.
func (b *Box) ready() bool {
	st, err := b.Status()
	return err == nil && st.Up() && b.hasStandIns()
}

// prepare does Up's work. What it starts ends with this process, or when there is an
// error, until everything is in place and written down.
func (b *Box) prepare(ctx context.Context) (err error) {
	var started []*guarded
	defer func() {
		for _, g := range started {
			if err != nil {
				g.end()
			}
		}
	}()
	st, err := b.running()
	if err != nil {
		return err
	}
	if !st.Holder.alive() {
		if err := b.root(ctx); err != nil {
			return err
		}
		holder, err := b.hold(ctx)
		if err != nil {
			return err
		}
		started = append(started, holder)
		st = state{Holder: holder.process}
	}
	if !st.Daemon.alive() || !exists(b.socket()) {
		daemon, err := b.startDaemon(ctx, st)
		if err != nil {
			return err
		}
		started = append(started, daemon)
		st.Daemon = daemon.process
	}
	if err := b.upStandIns(ctx, st.Holder); err != nil {
		return err
	}
	if err := b.save(st); err != nil {
		return err
	}
	for _, g := range started {
		if err := g.stay(); err != nil {
			return err
		}
	}
	return nil
}

// lock waits for its turn to change the box.
func (b *Box) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(b.dir(), 0o755); err != nil {
		return nil, fmt.Errorf("make directory of the box: %v: set GUIXBOX_DIR to one that can be made", err)
	}
	l, err := filelock.Try(b.path("lock"))
	if errors.Is(err, filelock.ErrHeld) {
		b.say("waiting for another process that changes the box")
		l, err = filelock.Acquire(ctx, b.path("lock"))
	}
	if err != nil {
		return nil, fmt.Errorf("wait for the box: %w", err)
	}
	return l.Release, nil
}

// Down ends what runs in the box: commands, containers, guix-daemon, the holder; also in the
// boxes of other recipes in the same directory. The root file system and its store stay for the next Up.
// It returns when all is gone; a box that is down is no error.
func (b *Box) Down(ctx context.Context) error {
	if Inside() {
		return errors.New("stop box: this is inside it: do so from the host")
	}
	if !exists(b.dir()) {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("stop box: this needs root: run it with sudo")
	}
	unlock, err := b.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := b.inhabitants()
	if err != nil {
		return err
	}
	notes, _ := fs.Glob(os.DirFS(b.dir()), "running-*.json")
	for _, name := range notes {
		os.Remove(b.path(name)) // from here on nobody takes it for ready
	}
	for id := range all {
		if err := b.end(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// OnHost reports whether this machine, or the box this process is in, has a
// working Guix: the command is there and guix-daemon answers.
func OnHost(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// Asking about a path that is not there takes one round trip to the daemon.
	cmd := exec.CommandContext(ctx, "guix", "repl", "-t", "machine")
	cmd.Stdin = strings.NewReader("(begin (use-modules (guix store)) (with-store s (valid-path? s \"/gnu/store/" +
		strings.Repeat("0", 32) + "-none\")))\n")
	out, err := cmd.Output()
	return err == nil && strings.Contains(string(out), "(values (value #f))")
}

// Inside reports whether this process runs in a box.
func Inside() bool { return guixtest.InBox() }

// Exposed are the directories that a system container made inside a box must see
// at the same place, because the stand-ins link to them. Outside a box there are none.
func Exposed() []string {
	if !Inside() {
		return nil
	}
	return []string{"/usr", "/lib", "/lib64", "/bin", "/etc/alternatives"}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
