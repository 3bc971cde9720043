package storetest

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/substitute"
)

// A Daemon is a guix-daemon with a store of its own, to which anything may be done. It is
// in a mount namespace of its own, where this store is /gnu/store; for everybody else
// its items are below [Daemon.Dir]. It is in a process namespace of its own as well, because
// guix-daemon kills the processes of a build user, which other daemons have too.
type Daemon struct {
	Socket string
	Dir    string // of the store, as seen from here

	t      testing.TB
	state  string
	args   []string
	env    []string
	holder *exec.Cmd // keeps the namespaces while there is no daemon
	init   string    // PID of their first process
	cmd    *exec.Cmd // nil while there is none
}

// DaemonOptions say what daemon a test needs. The zero value is an ordinary one.
type DaemonOptions struct {
	Size int64                   // bytes of the store's file system; 0 means that of the temporary directory
	Args []string                // for guix-daemon
	Env  []string                // NAME=VALUE
	ACL  []*substitute.PublicKey // whose substitutes it believes
}

// StartDaemon starts a daemon that ends with the test. That takes root and Guix.
func StartDaemon(t testing.TB, o DaemonOptions) *Daemon {
	t.Helper()
	dir := t.TempDir()
	d := &Daemon{t: t, state: dir, Socket: filepath.Join(dir, "socket"), args: o.Args}
	for parent := dir; parent != os.TempDir() && parent != "/"; parent = filepath.Dir(parent) {
		d.must(os.Chmod(parent, 0o755)) // builders are other users
	}
	for _, sub := range []string{"etc", "store"} {
		d.must(os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	acl := substitute.NewACL(o.ACL...).String()
	d.must(os.WriteFile(filepath.Join(dir, "etc", "acl"), []byte(acl), 0o644))
	d.env = append(append(os.Environ(), o.Env...), "GUIX_CONFIGURATION_DIRECTORY="+filepath.Join(dir, "etc"),
		"GUIX_STATE_DIRECTORY="+filepath.Join(dir, "state"), "GUIX_LOG_DIRECTORY="+filepath.Join(dir, "log"),
		"XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "GUIX_DAEMON_SOCKET="+d.Socket)
	d.hold(o.Size)
	d.Start()
	return d
}

func (d *Daemon) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// hold makes the namespace, by a process that has it until the test ends.
func (d *Daemon) hold(size int64) {
	d.t.Helper()
	mount := "mount --bind " + filepath.Join(d.state, "store") + " " + substitute.StoreDir
	if size > 0 {
		mount = fmt.Sprintf("mount -t tmpfs -o size=%d,mode=1775,gid=$(stat -c %%g %[2]s) none %[2]s", size, substitute.StoreDir)
	}
	d.holder = exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mount+" && read -r pid rest </proc/self/stat && echo $pid && read -r never")
	d.holder.Stderr = os.Stderr
	in, err := d.holder.StdinPipe()
	d.must(err)
	out, err := d.holder.StdoutPipe()
	d.must(err)
	d.must(d.holder.Start())
	d.t.Cleanup(func() { in.Close(); d.holder.Wait() })
	pid, err := bufio.NewReader(out).ReadString('\n')
	d.must(err)
	d.init = strings.TrimSpace(pid)
	d.Dir = filepath.Join("/proc", d.init, "root", substitute.StoreDir)
}

// Command is a program that sees the daemon's store and uses the daemon.
func (d *Daemon) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--mount", "--pid", "--target", d.init, "--", name}, args...)...)
	cmd.Env = d.env
	return cmd
}

// Start starts the daemon, again after [Daemon.Kill].
func (d *Daemon) Start() {
	d.t.Helper()
	d.cmd = d.Command("guix-daemon", append([]string{"--disable-chroot", "--build-users-group=guixbuild", "--listen=" + d.Socket}, d.args...)...)
	log, err := os.OpenFile(filepath.Join(d.state, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	d.must(err)
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.must(d.cmd.Start())
	d.t.Cleanup(d.Kill)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(3 * time.Minute)
	for {
		c, err := store.Dial(context.Background(), d.Socket)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-tick.C:
		case <-late:
			d.t.Fatalf("guix-daemon does not answer: %v\n%s", err, d.Log())
		}
	}
}

// Kill kills the daemon and its processes, one for each connection, with no chance to tidy
// up. Builders, which are not the daemon's program, are left to themselves.
func (d *Daemon) Kill() {
	d.t.Helper()
	if d.cmd == nil {
		return
	}
	for again := true; again; { // one may have started another one meanwhile
		again = false
		for _, pid := range d.Processes() {
			if exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe")); err == nil && filepath.Base(exe) == "guix-daemon" {
				syscall.Kill(pid, syscall.SIGKILL)
				again = true
			}
		}
	}
	d.cmd.Wait()
	d.cmd = nil
}

// Processes returns the PIDs, as seen from here, of all that runs in the daemon's namespace.
func (d *Daemon) Processes() (pids []int) {
	namespace := func(pid string) string {
		name, _ := os.Readlink(filepath.Join("/proc", pid, "ns", "pid"))
		return name
	}
	ours := namespace(d.init)
	all, err := os.ReadDir("/proc")
	d.must(err)
	for _, e := range all {
		if pid, err := strconv.Atoi(e.Name()); err == nil && e.Name() != d.init && ours != "" && namespace(e.Name()) == ours {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Log is what the daemon has printed.
func (d *Daemon) Log() string {
	text, _ := os.ReadFile(filepath.Join(d.state, "daemon.log"))
	return string(text)
}

// Built tells of which derivations, by their names without hash and ".drv", the daemon has begun
// a build since it was first started: those that it has a log of.
func (d *Daemon) Built() map[string]bool {
	built := map[string]bool{}
	filepath.WalkDir(filepath.Join(d.state, "log"), func(path string, e fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".drv"); err == nil && !e.IsDir() && ok {
			_, name, _ = strings.Cut(name, "-")
			built[name] = true
		}
		return nil
	})
	return built
}

// Derivations is the store, as graphs and schedulers read it.
func (d *Daemon) Derivations() fs.FS { return os.DirFS(d.Dir) }

// Dial connects to the daemon until the test ends.
func (d *Daemon) Dial() *store.Client {
	d.t.Helper()
	c, err := store.Dial(context.Background(), d.Socket)
	d.must(err)
	d.t.Cleanup(func() { c.Close() })
	return c
}

// Pool is a pool of connections to the daemon until the test ends.
func (d *Daemon) Pool() *store.Pool {
	p := &store.Pool{Address: d.Socket}
	d.t.Cleanup(func() { p.Close() })
	return p
}
