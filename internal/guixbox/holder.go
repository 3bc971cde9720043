package guixbox

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed hold.sh
var holdScript string

// DaemonSocket is where guix-daemon listens, inside the box.
const DaemonSocket = "/var/guix/daemon-socket/socket"

// command returns a command in a process group of its own, which is killed as a
// whole when ctx ends.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// shared are the host's top directories that the root does not have itself.
func shared(root string) ([]string, error) {
	own := []string{"bin", "boot", "dev", "etc", "gnu", "proc", "run", "sbin", "sys", "usr", "var", "lost+found"}
	entries, err := os.ReadDir("/")
	if err != nil {
		return nil, fmt.Errorf("list directories to share: %v", err)
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(own, e.Name()) && !strings.HasPrefix(e.Name(), "lib") &&
			!strings.HasPrefix(e.Name(), ".") && !strings.HasPrefix(root, "/"+e.Name()+"/") {
			dirs = append(dirs, "/"+e.Name())
		}
	}
	return dirs, nil
}

// hold returns the process that holds the box's mount namespace, starting it if need be.
// It is told to stay only after it is written down,
// so that a killed Up leaves no holder that nobody knows.
func (b *Box) hold(ctx context.Context, root string) (process, error) {
	if st, err := b.load(); err == nil && st.Root == root && st.Holder.alive() {
		return st.Holder, nil
	}
	if err := b.Down(ctx); err != nil { // of another recipe
		return process{}, err
	}
	dirs, err := shared(root)
	if err != nil {
		return process{}, err
	}
	// sh -c SCRIPT keeps standard input free for the word.
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "private",
		"/bin/sh", "-c", holdScript, "hold.sh", root}, dirs...)...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	word, err := cmd.StdinPipe()
	if err != nil {
		return process{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return process{}, err
	}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		return process{}, fmt.Errorf("hold box: %v", err)
	}
	defer context.AfterFunc(ctx, func() { word.Close() })()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		word.Close()
		cmd.Wait()
		return process{}, fmt.Errorf("hold box: %s", cmp.Or(strings.TrimSpace(complaint.String()), "the holder ended early"))
	}
	holder := identify(cmd.Process.Pid)
	if err := b.save(state{Root: root, Holder: holder}); err != nil {
		word.Close()
		cmd.Wait()
		return process{}, err
	}
	_, err = word.Write([]byte("stay\n"))
	// The holder outlives this process, which must not wait for it; its output
	// ends when it becomes sleep.
	out.Close()
	go cmd.Wait()
	if err != nil || ctx.Err() != nil {
		return process{}, fmt.Errorf("hold box: %w", cmp.Or(context.Cause(ctx), err))
	}
	return holder, nil
}

// daemon starts guix-daemon unless it runs, and waits until it accepts connections.
func (b *Box) daemon(ctx context.Context, holder process) error {
	st, err := b.load()
	if err != nil {
		return fmt.Errorf("read state of the box: %v", err)
	}
	if st.Daemon.alive() {
		return nil
	}
	b.say("starting guix-daemon")
	log, err := os.OpenFile(b.path("guix-daemon.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start guix-daemon: %v", err)
	}
	defer log.Close()
	socket := filepath.Join(st.Root, DaemonSocket)
	os.Remove(socket) // of a daemon that is gone; the new one makes its own
	// --disable-chroot because the stand-ins link into the root's /usr.
	argv := enter(holder.PID, "guix-daemon", []string{"--disable-chroot",
		"--build-users-group=guixbuild", "--substitute-urls="})
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start guix-daemon: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // reaps it should it die before this process does
	if err := awaitSocket(ctx, socket, ended); err != nil {
		cmd.Process.Kill()
		return fmt.Errorf("start guix-daemon: %w; its messages are in %s", err, log.Name())
	}
	st.Daemon = identify(cmd.Process.Pid)
	return b.save(st)
}

// awaitSocket waits until somebody listens on the socket. The name appears on
// its own file system, so the host's view of the root will do.
func awaitSocket(ctx context.Context, socket string, ended <-chan error) error {
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case err := <-ended:
			return cmp.Or(err, errors.New("it ended at once"))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-retry.C:
		}
	}
}

// Down stops what runs in the box, the daemon and its holder last.
// The root file system and its store stay for the next Up.
// It returns when all is gone; a box that is down is no error.
func (b *Box) Down(ctx context.Context) error {
	st, err := b.load()
	if err != nil || !st.Holder.alive() {
		os.Remove(b.path("state.json"))
		return nil
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		pids := inside(st.Holder.PID)
		for _, pid := range pids {
			if pid != st.Holder.PID {
				syscall.Kill(pid, sig)
			}
		}
		if err := awaitEnd(ctx, pids, st.Holder.PID); err != nil {
			return fmt.Errorf("stop box: %w", err)
		}
	}
	syscall.Kill(st.Holder.PID, syscall.SIGKILL)
	if err := awaitEnd(ctx, []int{st.Holder.PID}, 0); err != nil {
		return fmt.Errorf("stop box: %w", err)
	}
	return os.Remove(b.path("state.json"))
}

// inside returns the processes in the holder's mount namespace and their
// descendants, which may have gone into namespaces of their own.
func inside(holder int) []int {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", holder))
	if err != nil {
		return nil
	}
	parents := map[int]int{}
	in := map[int]bool{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || startTime(pid) == "" {
			continue
		}
		if its, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); its == ns {
			in[pid] = true
		}
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 1 {
			parents[pid], _ = strconv.Atoi(f[1])
		}
	}
	var pids []int
	for pid := range parents {
		for p := pid; p > 1; p = parents[p] {
			if in[p] {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// awaitEnd waits up to five seconds for all pids but one to end.
func awaitEnd(ctx context.Context, pids []int, but int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, pid := range pids {
		if pid == but {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone
		}
		err = pollUntil(ctx, fd)
		unix.Close(fd)
		if errors.Is(err, context.Canceled) {
			return err
		}
	}
	return nil
}

// pollUntil waits until the pidfd says that its process ended, or ctx does.
func pollUntil(ctx context.Context, fd int) error {
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 || err != nil && err != unix.EINTR {
			return nil
		}
	}
	return ctx.Err()
}
