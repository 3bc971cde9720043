package guixbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestUpExecDown(t *testing.T) {
	f := newFixture(t)
	if st := f.status(); st.Root != "" || st.Up() {
		t.Fatalf("before Up: %+v", st)
	}
	st := f.up()
	for _, line := range f.said {
		if strings.Contains(line, "hook") {
			t.Errorf("says %q", line)
		}
	}
	f.said = nil
	if again := f.up(); again != st || f.said != nil {
		t.Errorf("second Up: %+v and %q, first %+v", again, f.said, st)
	}
	t.Chdir(f.TempDir())
	out, err := f.box.Command(t.Context(), "sh", "-c", "pwd; readlink /proc/self/ns/mnt; echo $GUIXCI_TEST_GUIX").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := os.Getwd()
	own, _ := os.Readlink("/proc/self/ns/mnt")
	if lines := strings.Split(string(out), "\n"); lines[0] != dir || lines[1] == own || lines[2] != "box" {
		t.Errorf("in the box: %q", lines)
	}
	if err := f.box.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.nobody()
	if err := f.box.Down(t.Context()); err != nil {
		t.Errorf("second Down: %v", err)
	}
	cmd := f.box.Command(t.Context(), "true")
	if err := cmd.Run(); err == nil || !strings.Contains(err.Error(), "the box is down: run guixbox up") {
		t.Errorf("command in a box that is down: %v", err)
	}
	if f.up(); f.installs() != 1 {
		t.Errorf("%d installations", f.installs())
	}
}

func TestExecIsTheCommand(t *testing.T) {
	f := newFixture(t)
	f.up()
	var exit *exec.ExitError
	if err := f.guixbox("exec", "sh", "-c", "exit 7").Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit 7 becomes %v", err)
	}
	if err := f.guixbox("exec", "no-such-command").Run(); !errors.As(err, &exit) || exit.ExitCode() != 127 {
		t.Errorf("a command that is not there: %v", err)
	}
	cmd := f.guixbox("exec", "sh", "-c", "echo ready; exec sleep infinity")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bufio.NewReader(out).ReadString('\n')
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("SIGTERM gives %v", err)
	}
}

func TestTwoUpsAtOnce(t *testing.T) {
	f := newFixture(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if out, err := f.guixbox("up").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	if n := f.installs(); n != 1 {
		t.Errorf("%d installations", n)
	}
	f.up()
	// The holder, and guix-daemon with its shell.
	if all, err := f.box.inhabitants(); err != nil || len(all) != 1 || busy(all[f.box.id()]) != 0 {
		t.Errorf("inhabitants %v, %v", all, err)
	}
}

// TestUpStopped stops Up while it installs and while it makes stand-ins, in two ways.
func TestUpStopped(t *testing.T) {
	for _, where := range []string{hangEnv, guixHangEnv} {
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
			t.Run(where+" "+sig.String(), func(t *testing.T) {
				f := newFixture(t)
				pipe := f.pipe()
				t.Setenv(where, pipe)
				cmd := f.guixbox("up")
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				r, err := os.Open(pipe) // somebody hangs from here on
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				cmd.Process.Signal(sig)
				if cmd.Wait() == nil {
					t.Error("a stopped up succeeds")
				}
				drain(r)
				if st := f.status(); st.Up() || where == hangEnv && st.Root != "" {
					t.Errorf("looks ready: %+v", st)
				}
				if sig == syscall.SIGINT {
					f.nobody()
					if left, _ := filepath.Glob(f.box.path("making-*")); len(left) > 0 {
						t.Errorf("left: %q", left)
					}
				}
				t.Setenv(where, "")
				os.Remove(filepath.Join(f.box.rootDir(), "hang"))
				f.up()
				if left, _ := filepath.Glob(f.box.path("making-*")); len(left) > 0 {
					t.Errorf("left after the next Up: %q", left)
				}
			})
		}
	}
}

func TestDownEndsEverything(t *testing.T) {
	f := newFixture(t)
	f.up()
	// A stubborn process without parents, and a container: it has its own mount and process
	// namespaces, a root of its own, and sees the store where it was.
	script := `
trap '' TERM
(unshare --mount --pid --fork --mount-proc sh -c '
    mount -t tmpfs none /mnt; mkdir -p /mnt/gnu/store /mnt/old /mnt/usr /mnt/lib64 /mnt/lib /mnt/proc
    mount -t proc none /mnt/proc
    mount --bind /gnu/store /mnt/gnu/store
    for d in usr lib lib64; do mount --rbind /$d /mnt/$d; done
    cd /mnt && pivot_root . old && /usr/bin/umount -l /old && echo contained && exec /usr/bin/sleep infinity' &)
(sh -c 'echo stubborn; while :; do sleep 1000; done' &)
`
	os.MkdirAll(filepath.Join(f.box.rootDir(), "mnt"), 0o755)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := f.box.Command(t.Context(), "sh", "-c", script)
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	in := bufio.NewReader(r)
	for range 2 {
		line, err := in.ReadString('\n')
		if err != nil || line != "contained\n" && line != "stubborn\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if err := f.box.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	drain(in) // both are gone
	f.nobody()
}

func TestWhatDiedIsStartedAgain(t *testing.T) {
	f := newFixture(t)
	first := f.up()
	kill(t, first.Daemon)
	if st := f.status(); st.Up() || st.Holder != first.Holder {
		t.Errorf("without daemon: %+v", st)
	}
	second := f.up()
	if second.Holder != first.Holder || second.Daemon == first.Daemon {
		t.Errorf("after %+v came %+v", first, second)
	}
	kill(t, second.Holder)
	third := f.up()
	if third.Holder == second.Holder || third.Daemon == second.Daemon || (process{second.Daemon, startTime(second.Daemon)}).alive() {
		t.Errorf("after %+v came %+v", second, third)
	}
	os.Remove(f.box.socket())
	if fourth := f.up(); fourth.Daemon == third.Daemon || fourth.Holder != third.Holder {
		t.Errorf("without socket: %+v, then %+v", third, fourth)
	}
}

// kill ends a process and waits until it is gone.
func kill(t *testing.T, pid int) {
	t.Helper()
	if err := signalAndWait(t.Context(), []int{pid}, syscall.SIGKILL, time.Minute); err != nil {
		t.Fatal(err)
	}
}

func TestStaleState(t *testing.T) {
	f := newFixture(t)
	f.up()
	if err := f.box.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	self := identify(os.Getpid())
	ticks, _, _ := strings.Cut(self.Start, " ")
	for name, holder := range map[string]process{
		"another process with the number":  {self.PID, "1" + self.Start},
		"another boot":                     {self.PID, ticks + " 00000000-0000-0000-0000-000000000000"},
		"a process that is not in the box": self,
	} {
		text, _ := json.Marshal(state{holder, holder})
		if err := os.WriteFile(f.box.stateFile(), text, 0o644); err != nil {
			t.Fatal(err)
		}
		if st := f.status(); st.Holder != 0 || st.Daemon != 0 || st.Root == "" {
			t.Errorf("%s: %+v", name, st)
		}
	}
	if err := os.WriteFile(f.box.stateFile(), []byte(`{"Holder":`), 0o644); err != nil {
		t.Fatal(err)
	}
	f.nobody()
	f.up()
	// Forgotten, but running: it must not be doubled.
	os.Remove(f.box.stateFile())
	st := f.up()
	all, err := f.box.inhabitants()
	if err != nil || len(all[f.box.id()]) != 3 {
		t.Errorf("%v live in the box of %+v, %v", all, st, err)
	}
}

func TestDamage(t *testing.T) {
	f := newFixture(t)
	down := func() {
		if err := f.box.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.up()
	down()
	os.RemoveAll(filepath.Join(f.box.rootDir(), "gnu/store/item"))
	if f.up(); f.installs() != 1 || !exists(filepath.Join(f.box.rootDir(), "gnu/store/item")) {
		t.Errorf("a stand-in that is gone is not made again")
	}
	down()
	os.Remove(filepath.Join(f.box.rootDir(), "etc/precious"))
	if f.up(); f.installs() != 2 || !exists(filepath.Join(f.box.rootDir(), "etc/precious")) {
		t.Errorf("a root that lacks a file is used")
	}
	// Removed while it is up.
	if err := os.RemoveAll(f.box.dir() + "/root-" + f.box.id() + "/usr"); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(f.box.rootDir())
	if st := f.status(); st.Up() {
		t.Errorf("up without root: %+v", st)
	}
	if f.up(); f.installs() != 3 {
		t.Errorf("a root that is gone is not made again")
	}
	all, _ := f.box.inhabitants()
	if len(all[f.box.id()]) != 3 {
		t.Errorf("the old one still runs: %v", all)
	}
}

func TestOtherRecipes(t *testing.T) {
	f := newFixture(t)
	f.up()
	idle, used := f.box.path("root-000000000000"), f.box.path("root-111111111111")
	for _, root := range []string{idle, used} {
		if out, err := exec.Command("cp", "-a", f.box.rootDir(), root).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	os.WriteFile(f.box.path("running-000000000000.json"), nil, 0o644)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	user := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec", `
mount --bind "$1" "$1"; mkdir -p "$1/old"; cd "$1"; pivot_root . old; echo in; read -r line`, "sh", used)
	user.Stderr = os.Stderr
	in, err := user.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := user.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "in\n" {
		t.Fatal(line, err)
	}
	f.box.removeOthers(t.Context())
	if exists(idle) || exists(f.box.path("running-000000000000.json")) {
		t.Error("a root of another recipe is not removed")
	}
	if !exists(used) {
		t.Error("a root of another recipe was removed while it was used")
	}
	in.Close()
	user.Wait()
	if f.box.removeOthers(t.Context()); exists(used) {
		t.Error("it is not removed when nobody uses it any more")
	}
	if !f.status().Up() {
		t.Error("the box itself went down")
	}
}

func TestDirectoryOfTheBox(t *testing.T) {
	f := newFixture(t)
	real := f.TempDir()
	long := filepath.Join(real, strings.Repeat("long", 20), "with space")
	if err := os.MkdirAll(long, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(f.TempDir(), "link")
	if err := os.Symlink(long, link); err != nil {
		t.Fatal(err)
	}
	f.box.Dir = filepath.Join(link, "box")
	t.Cleanup(func() { f.box.Down(context.Background()) })
	f.up()
	if err := f.box.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.nobody()
	t.Chdir(long)
	f.box.Dir = "box"
	f.up()
	if err := f.box.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.nobody()
}

// The daemon kills all processes of a build user; those outside must not be among them.
func TestDaemonHasItsOwnProcesses(t *testing.T) {
	f := newFixture(t)
	st := f.up()
	children, err := os.ReadFile("/proc/" + strconv.Itoa(st.Daemon) + "/task/" + strconv.Itoa(st.Daemon) + "/children")
	if err != nil {
		t.Fatal(err)
	}
	its, err := os.Readlink("/proc/" + strings.Fields(string(children))[0] + "/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	if own, _ := os.Readlink("/proc/self/ns/pid"); its == own {
		t.Error("guix-daemon is in the host's process namespace")
	}
}
