package guixbox

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The test binary is also the programs that a box is made of, small and quick but real
// processes: what it is called says which.
func TestMain(m *testing.M) {
	programs := map[string]func([]string) error{
		"mmdebstrap":  fakeMmdebstrap,
		"guix-daemon": fakeDaemon,
		"guix":        fakeGuix,
		"guixbox":     command,
	}
	if program, ok := programs[filepath.Base(os.Args[0])]; ok {
		if err := program(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "guixbox:", err)
			syscall.Exit(3)
		}
		syscall.Exit(0) // os.Exit would wait a second for the race detector
	}
	os.Exit(m.Run())
}

// command is a guixbox in a process of its own: "up", or "exec COMMAND…".
func command(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	box := &Box{Progress: func(line string) { fmt.Println(line) }}
	if args[0] == "up" {
		return box.Up(ctx)
	}
	return box.Exec(nil, args[1], args[2:]...)
}

// The fake mmdebstrap's behaviour: a file in which each call is noted, one to print before
// failing, a named pipe to open and hang, and one for guix to do so.
const (
	callsEnv    = "GUIXBOX_TEST_CALLS"
	failEnv     = "GUIXBOX_TEST_FAIL"
	hangEnv     = "GUIXBOX_TEST_HANG"
	guixHangEnv = "GUIXBOX_TEST_GUIX_HANG"
)

// fakeMmdebstrap makes a root of this program and a few of the host's.
func fakeMmdebstrap(args []string) error {
	calls, err := os.OpenFile(os.Getenv(callsEnv), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	fmt.Fprintln(calls, args)
	calls.Close()
	root := args[len(args)-1]
	if err := os.MkdirAll(root+"/var/lib/guixbox", 0o755); err != nil {
		return err
	}
	fmt.Println("I: running --setup-hook in shell: sh -c '…'")
	fmt.Println("I: extracting archives...")
	hang(os.Getenv(hangEnv))
	if name := os.Getenv(failEnv); name != "" {
		text, _ := os.ReadFile(name)
		fmt.Print(string(text))
		syscall.Exit(25)
	}
	if err := os.WriteFile(root+"/hang", []byte(os.Getenv(guixHangEnv)), 0o644); err != nil {
		return err
	}
	return fill(root)
}

func fill(root string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	script := `set -e
root=$1 self=$2
cd "$root"
mkdir -p usr/bin usr/lib usr/lib64 etc/guix tmp var/lib/dpkg/info var/guix/daemon-socket var/guix/db
ln -s usr/bin usr/lib usr/lib64 .
for program in sh sleep umount mkdir cat sort chmod readlink pwd true unshare mount pivot_root; do
    file=$(command -v $program); test -x "$file" || file=/bin/$program
    cp -L "$file" usr/bin/$program
    ldd "$file" | grep -o '/[^ ]*' | while read -r lib; do cp -Ln --parents "$lib" .; done || true
done
ldd "$self" 2>/dev/null | grep -o '/[^ ]*' | while read -r lib; do cp -Ln --parents "$lib" .; done || true
cp "$self" usr/bin/guix
ln usr/bin/guix usr/bin/guix-daemon
for name in groupadd useradd git chgrp; do ln -s true usr/bin/$name; done
echo precious > etc/precious
printf '/etc/precious\n/never/was\n' > var/lib/dpkg/info/fake.list`
	if out, err := exec.Command("/bin/sh", "-c", script, "sh", root, self).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %s", err, out)
	}
	return nil
}

// hang opens a named pipe and waits to be killed, which its reader notices.
func hang(name string) {
	if name == "" {
		return
	}
	if f, err := os.OpenFile(name, os.O_WRONLY, 0); err == nil {
		fmt.Fprintln(f, "hanging")
		select {}
	}
}

// fakeDaemon listens and answers nobody.
func fakeDaemon([]string) error {
	l, err := net.Listen("unix", DaemonSocket)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		conn.Close()
	}
}

// fakeGuix is "guix repl" for the two scripts.
func fakeGuix(args []string) error {
	name, _ := os.ReadFile("/hang")
	hang(string(name))
	if strings.HasSuffix(args[1], "workload.scm") {
		fmt.Println("/gnu/store/one.drv")
		return nil
	}
	for _, dir := range []string{"/gnu/store/item", "/var/guix/gcroots/standins"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	os.Symlink("/gnu/store/item", "/var/guix/gcroots/standins/item")
	return os.WriteFile("/var/guix/db/db.sqlite", nil, 0o644)
}

// A fixture is a box made of this program, and a guixbox command for it.
type fixture struct {
	*testing.T
	box   *Box
	bin   string // first in PATH
	calls string
	mu    chan struct{} // guards said
	said  []string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	if why := refused(t.Context(), contained("true")); why != "" {
		t.Skip("needs mount namespaces: ", why)
	}
	// The box's own temporary directory is the host's only if this is below it.
	dir := t.TempDir()
	f := &fixture{T: t, bin: filepath.Join(dir, "bin"), calls: filepath.Join(dir, "calls"), mu: make(chan struct{}, 1)}
	f.box = &Box{Dir: filepath.Join(dir, "box"), Progress: func(line string) {
		f.mu <- struct{}{}
		defer func() { <-f.mu }()
		f.said = append(f.said, line)
	}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(f.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mmdebstrap", "guixbox"} {
		if err := os.Symlink(self, filepath.Join(f.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", f.bin+":"+os.Getenv("PATH"))
	t.Setenv("GUIXBOX_DIR", f.box.Dir)
	t.Setenv(callsEnv, f.calls)
	t.Cleanup(func() {
		if err := f.box.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) up() Status {
	f.Helper()
	if err := f.box.Up(f.Context()); err != nil {
		f.Fatal(err)
	}
	st := f.status()
	if !st.Up() {
		f.Fatalf("not up after Up: %+v", st)
	}
	return st
}

func (f *fixture) status() Status {
	f.Helper()
	st, err := f.box.Status()
	if err != nil {
		f.Fatal(err)
	}
	return st
}

func (f *fixture) installs() int {
	text, _ := os.ReadFile(f.calls)
	return strings.Count(string(text), "\n")
}

// guixbox returns the command in a process of its own.
func (f *fixture) guixbox(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(f.Context(), "guixbox", args...)
	cmd.Path = filepath.Join(f.bin, "guixbox")
	return cmd
}

// pipe makes a named pipe for hang.
func (f *fixture) pipe() string {
	f.Helper()
	name := filepath.Join(f.TempDir(), "pipe")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		f.Fatal(err)
	}
	return name
}

// nobody fails the test if a process lives in the box, or anything unfinished lies there.
func (f *fixture) nobody() {
	f.Helper()
	all, err := f.box.inhabitants()
	if err != nil || len(all) > 0 {
		f.Errorf("processes left: %v, %v", all, err)
	}
	if st := f.status(); st.Holder != 0 || st.Daemon != 0 {
		f.Errorf("still %+v", st)
	}
}

// drain reads a pipe to its end, which comes when all who hang on it are gone.
func drain(r io.Reader) { io.Copy(io.Discard, r) }
