package guixbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// Command returns a command that runs inside the box, in the same directory
// if that is visible there, with a clean environment to which only what tests need is
// added: TERM, TMPDIR, and variables whose names start with GUIXCI or GO.
// The box must be up; if it is not, the command fails to start.
func (b *Box) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	st, err := b.Status()
	switch {
	case err == nil && !st.Up():
		err = errors.New("the box is down: run guixbox up")
	case err == nil && os.Geteuid() != 0:
		err = errors.New("this needs root: run it with sudo")
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

// Say is the name of a variable for [Box.Exec] whose value is said, on standard error,
// when the working directory is not to be seen in the box, so that the command runs in /.
const Say = "GUIXBOX_SAY"

// enter returns the arguments that run a command in the holder's namespace.
// Without --root and --wd, which would chroot and so forbid user namespaces.
func enter(holder int, name string, args []string) []string {
	const script = `cd "$1" 2>/dev/null || { test -z "$GUIXBOX_SAY" || echo "$GUIXBOX_SAY: $1" >&2; cd /; }; shift; exec "$@"`
	return append([]string{"nsenter", "--target", fmt.Sprint(holder), "--mount", "--",
		"/bin/sh", "-c", script, "sh", workDir(), name}, args...)
}

// workDir is the working directory without symbolic links, which may not be there inside.
func workDir() string {
	dir, err := os.Getwd()
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "/"
	}
	return dir
}

// ownEnvironment is that of every process in the box.
func ownEnvironment() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/var/lib/guixbox", // not the host's, which may be visible as /root
		"LC_ALL=C.UTF-8", "USER=root",
		guixtest.Env + "=box",
	}
}

func environment() []string {
	env := ownEnvironment()
	for _, setting := range os.Environ() {
		name, _, _ := strings.Cut(setting, "=")
		if name == "TERM" || name == "TMPDIR" || name == "CI" ||
			strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "GUIXCI") && name != guixtest.Env {
			env = append(env, setting)
		}
	}
	return env
}
