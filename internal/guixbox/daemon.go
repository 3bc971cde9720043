package guixbox

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

//go:embed daemon.sh
var daemonScript string

// DaemonSocket is where guix-daemon listens, inside the box.
const DaemonSocket = "/var/guix/daemon-socket/socket"

// socket is the daemon's, as the host sees it.
func (b *Box) socket() string { return filepath.Join(b.rootDir(), DaemonSocket) }

// startDaemon starts guix-daemon in the holder's namespace, in place of the one in st,
// and waits until it accepts connections.
func (b *Box) startDaemon(ctx context.Context, st state) (*guarded, error) {
	b.say("starting guix-daemon")
	if st.Daemon.alive() { // but its socket is gone
		syscall.Kill(st.Daemon.PID, syscall.SIGKILL)
	}
	log, err := os.OpenFile(b.path("guix-daemon.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start guix-daemon: %v", err)
	}
	defer log.Close()
	os.Remove(b.socket()) // of a daemon that is gone; the new one makes its own
	cmd := exec.Command("unshare", append([]string{"--pid", "--fork", "--kill-child"},
		enter(st.Holder.PID, "/bin/sh", []string{"-c", daemonScript, "daemon.sh"})...)...)
	// Not what the caller has in TMPDIR, say: the daemon outlives that.
	cmd.Env = ownEnvironment()
	cmd.Stderr = log
	g, err := start(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("start guix-daemon: %w; its messages are in %s", err, log.Name())
	}
	// By this name it fits into a socket's address, however long the name of the directory.
	err = awaitSocket(ctx, fmt.Sprintf("/proc/%d/root%s", st.Holder.PID, DaemonSocket), g)
	if err != nil {
		g.end()
		return nil, fmt.Errorf("start guix-daemon: %w; its messages are in %s", err, log.Name())
	}
	return g, nil
}

// awaitSocket waits until somebody listens on the socket.
func awaitSocket(ctx context.Context, socket string, daemon *guarded) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("it does not listen within a minute"))
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		if !daemon.alive() {
			return errors.New("it ended at once")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-retry.C:
		}
	}
}
