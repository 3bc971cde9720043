package guixbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What the root, its packages while they are unpacked, and the store of a few runs
// take; and what must be left to start a box that is there. In bytes.
const (
	neededToMake  = 3 << 30
	neededToStart = 200 << 20
)

// preconditions reports the first thing that keeps a box from working here,
// and what to do about it.
func (b *Box) preconditions(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("prepare box: this needs root, for mounts and build users: run it with sudo, or install Guix and use that")
	}
	for _, tool := range []string{"unshare", "nsenter", "mount", "pivot_root"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("prepare box: no %q on this machine: install the packages util-linux and mount", tool)
		}
	}
	if why := refused(ctx, contained("true")); why != "" {
		return fmt.Errorf("prepare box: this machine forbids mount or process namespaces (%s): inside a container, give it CAP_SYS_ADMIN or run it privileged", why)
	}
	if why := refused(ctx, exec.Command("unshare", "--user", "--map-root-user", "true")); why != "" {
		return fmt.Errorf("prepare box: this machine forbids user namespaces, which system containers need (%s): see /proc/sys/user/max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns; in a chroot they are always forbidden", why)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("prepare box: %w", context.Cause(ctx))
	}
	return b.space()
}

// refused returns in one line why a command fails, empty if it does not or ctx ends.
func refused(ctx context.Context, cmd *exec.Cmd) string {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := runBound(ctx, cmd, nil)
	if err == nil || ctx.Err() != nil {
		return ""
	}
	text := bytes.Join(bytes.Fields(out.Bytes()), []byte(" "))
	if len(text) == 0 {
		return err.Error()
	}
	return fmt.Sprintf("%.200s", text)
}

// space looks whether the directory is on a file system that can take the box.
func (b *Box) space() error {
	at := b.dir()
	for !exists(at) {
		at = filepath.Dir(at)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return fmt.Errorf("prepare box: look at file system of %s: %v", at, err)
	}
	for flag, name := range map[int64]string{unix.ST_RDONLY: "ro", unix.ST_NOEXEC: "noexec", unix.ST_NODEV: "nodev"} {
		if st.Flags&flag != 0 {
			return fmt.Errorf("prepare box: the file system of %s is mounted %s: set GUIXBOX_DIR to a directory elsewhere", at, name)
		}
	}
	var needed uint64 = neededToMake
	if exists(b.rootDir()) {
		needed = neededToStart
	}
	if free := st.Bavail * uint64(st.Bsize); free < needed {
		return fmt.Errorf("prepare box: only %d MiB free at %s, %d MiB are needed: free some, or set GUIXBOX_DIR to a directory elsewhere",
			free>>20, at, needed>>20)
	}
	return nil
}
