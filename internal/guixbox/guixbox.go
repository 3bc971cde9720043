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
//	if err := box.Up(ctx); err != nil { … }   // minutes the first time, then nothing
//	out, err := box.Command(ctx, "guix", "describe").Output()
//
// On a machine that has a working Guix, [OnHost] says so, and demo and tests use
// that one. The command cmd/guixbox does the same from a shell:
//
//	go run ./internal/guixbox/cmd/guixbox up
//	go test -exec "guixbox exec --" ./...
package guixbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

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

// A Status says what there is of a box.
type Status struct {
	Dir    string `json:"dir"`
	Root   string `json:"root"`             // the root file system, empty when there is none
	Holder int    `json:"holder,omitempty"` // pid that holds the mount namespace, 0 when down
	Daemon int    `json:"daemon,omitempty"` // pid of guix-daemon, 0 when it does not run
}

// Up reports whether the box can be entered.
func (s Status) Up() bool { return s.Holder != 0 && s.Daemon != 0 }

func (b *Box) dir() string {
	return cmp.Or(b.Dir, os.Getenv("GUIXBOX_DIR"), "/var/cache/guixbox")
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
// Cancelling ctx, or killing the process, leaves nothing that looks ready.
// A precondition the machine does not meet is an error that says how to meet it.
func (b *Box) Up(ctx context.Context) error {
	if st, err := b.Status(); err == nil && st.Up() && b.hasStandIns() {
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
	root, err := b.root(ctx)
	if err != nil {
		return err
	}
	holder, err := b.hold(ctx, root)
	if err != nil {
		return err
	}
	if err := b.daemon(ctx, holder); err != nil {
		return err
	}
	return b.standIns(ctx)
}

// lock waits for its turn to change the box.
func (b *Box) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(b.dir(), 0o755); err != nil {
		return nil, fmt.Errorf("make directory of the box: %v", err)
	}
	l, err := filelock.Try(b.path("lock"))
	if errors.Is(err, filelock.ErrHeld) {
		b.say("waiting for another process that prepares the box")
		l, err = filelock.Acquire(ctx, b.path("lock"))
	}
	if err != nil {
		return nil, fmt.Errorf("wait for the box: %w", err)
	}
	return l.Release, nil
}

// state is what Up writes down for later processes.
type state struct {
	Root   string
	Holder process
	Daemon process
}

// A process is a pid and the start time that tells it from a later one with
// the same number.
type process struct {
	PID   int
	Start string
}

func identify(pid int) process { return process{pid, startTime(pid)} }

func (p process) alive() bool { return p.PID > 0 && p.Start != "" && startTime(p.PID) == p.Start }

// startTime is field 22 of /proc/PID/stat, empty when there is no such
// process or it is a zombie.
func startTime(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

func (b *Box) load() (state, error) {
	var st state
	data, err := os.ReadFile(b.path("state.json"))
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(data, &st)
}

func (b *Box) save(st state) error {
	data, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	name := b.path("state.json")
	if err := os.WriteFile(name+".new", append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write state of the box: %v", err)
	}
	return os.Rename(name+".new", name)
}

// Status returns what there is, without changing anything.
func (b *Box) Status() (Status, error) {
	out := Status{Dir: b.dir()}
	if root := b.rootDir(); exists(root) {
		out.Root = root
	}
	st, err := b.load()
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("read state of the box: %v", err)
	}
	if st.Root != b.rootDir() || !st.Holder.alive() {
		return out, nil // of another recipe, or before a reboot
	}
	out.Holder = st.Holder.PID
	if st.Daemon.alive() {
		out.Daemon = st.Daemon.PID
	}
	return out, nil
}

// Command returns a command that runs inside the box, in the same directory
// if that is visible there, with a clean environment to which only what tests need is
// added: TERM, TMPDIR, and variables whose names start with GUIXCI or GO.
// The box must be up; if it is not, the command fails to start.
func (b *Box) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	st, err := b.Status()
	if err == nil && !st.Up() {
		err = errors.New("the box is down: run guixbox up")
	}
	argv := enter(st.Holder, name, args)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = environment()
	cmd.Err = cmp.Or(err, cmd.Err)
	return cmd
}

// Exec replaces this process by a command inside the box, as [Box.Command] runs it.
// extra are further NAME=VALUE settings. It returns only when that fails.
func (b *Box) Exec(extra []string, name string, args ...string) error {
	cmd := b.Command(context.Background(), name, args...)
	if cmd.Err != nil {
		return fmt.Errorf("enter box: %v", cmd.Err)
	}
	return fmt.Errorf("enter box: %v", syscall.Exec(cmd.Path, cmd.Args, append(cmd.Env, extra...)))
}

// ExecSelf replaces this process by the same program inside the box, with other
// arguments. extra are further NAME=VALUE settings. It returns only when that fails.
func (b *Box) ExecSelf(extra []string, args ...string) error {
	// By its descriptor the program can be run wherever it is installed.
	self, err := unix.Open("/proc/self/exe", unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("enter box: %v", err)
	}
	return b.Exec(extra, fmt.Sprintf("/proc/self/fd/%d", self), args...)
}

// enter returns the arguments that run a command in the holder's namespace.
// Without --root and --wd, which would chroot and so forbid user namespaces.
func enter(holder int, name string, args []string) []string {
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	const script = `cd "$1" 2>/dev/null || cd /; shift; exec "$@"`
	return append([]string{"nsenter", "--target", fmt.Sprint(holder), "--mount", "--",
		"/bin/sh", "-c", script, "sh", dir, name}, args...)
}

func environment() []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/var/lib/guixbox", // not the host's, which may be visible as /root
		"LC_ALL=C.UTF-8", "USER=root",
		guixtest.Env + "=box",
	}
	for _, setting := range os.Environ() {
		name, _, _ := strings.Cut(setting, "=")
		if name == "TERM" || name == "TMPDIR" || name == "CI" ||
			strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "GUIXCI") && name != guixtest.Env {
			env = append(env, setting)
		}
	}
	return env
}

// OnHost reports whether this machine, or the box this process is in, has a
// working Guix: the command is there and guix-daemon answers.
func OnHost(ctx context.Context) bool {
	// guix gc --list-busy would be slow; asking about a path that is not there
	// takes one round trip to the daemon.
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
