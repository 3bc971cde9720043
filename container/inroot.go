package container

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// dialInRoot connects to the Unix socket at path as process p sees it.
//
// The path is resolved with the process's root as the limit: through
// /proc/PID/root/… an absolute link of the container would be followed in the
// host's tree. Connecting to the descriptor that is found also keeps a long
// path within the 107 bytes of a socket's address.
func dialInRoot(ctx context.Context, p Process, path string) (net.Conn, error) {
	fd, err := openInRoot(p, path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
}

// openInRoot opens path as process p sees it.
func openInRoot(p Process, path string, flags uint64) (int, error) {
	root, err := p.root()
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, fmt.Errorf("open %s in the root of process %d: %w", path, p.PID, err)
	}
	return fd, nil
}
