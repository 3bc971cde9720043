package guixbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// neededSpace is what the root, its packages while they are unpacked, and the
// store of a few runs take.
const neededSpace = 3 << 30

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
	if out, err := exec.CommandContext(ctx, "unshare", "--mount", "true").CombinedOutput(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("prepare box: this machine forbids mount namespaces (%.100s): inside a container, give it CAP_SYS_ADMIN or run it privileged", out)
	}
	if out, err := exec.CommandContext(ctx, "unshare", "--user", "--map-root-user", "true").CombinedOutput(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("prepare box: this machine forbids user namespaces, which system containers need (%.100s): see /proc/sys/user/max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns", out)
	}
	if !exists(b.rootDir()) {
		return b.space()
	}
	return ctx.Err()
}

func (b *Box) space() error {
	at := b.dir()
	for !exists(at) {
		at = filepath.Dir(at)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return fmt.Errorf("prepare box: free space of %s: %v", at, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < neededSpace {
		return fmt.Errorf("prepare box: only %d MiB free at %s, %d MiB are needed: free some, or set GUIXBOX_DIR to a directory elsewhere",
			free>>20, at, neededSpace>>20)
	}
	return nil
}
