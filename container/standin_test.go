package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the container, or the other process, of a test.
func TestMain(m *testing.M) {
	switch os.Getenv("STANDIN") {
	case "container":
		os.Exit(containerMain(os.Getenv("MODE"), os.Getenv("SOCKET"), os.Getenv("REPLY_FILE")))
	case "deployer":
		os.Exit(deployerMain())
	case "beside":
		os.Exit(besideMain())
	case "supervisor":
		os.Exit(supervisorMain())
	case "stopper":
		d := &Deployment{Name: "test", Dir: os.Getenv("DIR"), Who: "stopper", Why: "to be killed", unprivileged: true, socket: os.Getenv("SOCKET")}
		fmt.Fprintln(os.Stderr, d.Stop(context.Background()))
		os.Exit(1)
	case "applier":
		d := &Deployment{Name: "test", Dir: os.Getenv("DIR"), ConfirmBy: time.Hour, unprivileged: true, socket: os.Getenv("SOCKET")}
		_, err := d.Apply(context.Background(), Revision{Script: os.Getenv("SCRIPT")})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case "starter":
		d := &Deployment{Name: "test", Dir: os.Getenv("DIR"), unprivileged: true, socket: os.Getenv("SOCKET")}
		_, err := d.Start(context.Background())
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case "restarter":
		d := &Deployment{Name: "test", Dir: os.Getenv("DIR"), unprivileged: true, socket: os.Getenv("SOCKET")}
		fmt.Fprintln(os.Stderr, d.RestartService(context.Background(), os.Getenv("SERVICE")))
		os.Exit(1)
	case "sandbox":
		if err := sandboxMain(strings.Fields(os.Getenv("MOUNTS"))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "orphan maker":
		if err := orphanMain(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "planner":
		os.Exit(plannerMain())
	}
	os.Exit(m.Run())
}

// launcher is the stand-in for a run-container script: it does the same, except
// that its container is the test binary.
const launcher = `#!/bin/sh
for a; do
  case $a in --pid-file=*) file=${a#--pid-file=};; esac
done
root=$(mktemp -d "$TMPDIR/guix-directory.XXXXXX")
trap 'rmdir "$root"' EXIT
case $MODE in
  dies) cat "$REPLY_FILE" >&2; exit 1;;
  "hangs at first") test -e "$0.enough" || exec sleep 1000;;
  "deadlocks once") test -e "$0.hung" || {
    : > "$0.hung"
    perl -e 'syscall($ENV{FUTEX}, my $lock = pack("L", 2), 128, 2, 0, 0, 0)' &
    wait $!
  };;
  hangs) exec sleep 1000;;
  crashes) echo 'Shepherd crashed!' >&2;;
  lies) echo $PPID > "$file"; exec sleep 1000;;
esac
STANDIN=container "$BINARY" &
echo "system container is running as PID $!" >&2 # before anybody goes on: tests look for it, or empty the log
test "$MODE" = "tells nothing" || echo $! > "$file"
wait $!
test "$MODE" != lingers || exec sleep 1000
`

// containerMain is a container's shepherd: it answers every command
// with the same reply, until SIGTERM.
func containerMain(mode, socket, replyFile string) int {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	reply, err := os.ReadFile(replyFile)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if strings.HasSuffix(mode, "ends") { // as soon as it is asked
		l.Accept()
		fmt.Fprintln(os.Stderr, map[bool]string{true: crashSign, false: "shepherd: out of luck"}[strings.HasPrefix(mode, "crashes")])
		return 0
	}
	switch mode {
	case "eats memory":
		eatMemory()
	case "makes tasks":
		makeTasks()
	case "prints":
		go printLines()
	}
	go answer(l, reply)
	<-stop
	if mode == "is hard of hearing" {
		<-stop
	}
	if mode == "is stubborn" {
		for {
			time.Sleep(time.Hour)
		}
	}
	return 0
}

// eatMemory wants a gigabyte, and every page of it.
func eatMemory() {
	var eaten [][]byte
	for range 1 << 10 {
		eaten = append(eaten, bytes.Repeat([]byte{1}, 1<<20))
	}
	runtime.KeepAlive(eaten)
}

// printLines prints numbered lines as fast as it can.
func printLines() {
	for i := 1; ; i++ {
		fmt.Printf("line %d\n", i)
	}
}

// supervisorMain supervises until it is killed.
func supervisorMain() int {
	d := &Deployment{Name: "test", Dir: os.Getenv("DIR"), unprivileged: true, socket: os.Getenv("SOCKET")}
	fmt.Fprintln(os.Stderr, d.Supervise(context.Background(), Supervision{}))
	return 1
}

// makeTasks has a shell start processes until it may not, and end them: the runtime of this
// process dies when it cannot have a thread.
func makeTasks() {
	const script = `trap 'kill -9 0' EXIT; for i in $(seq 100); do sleep 1000 & done`
	shell := exec.Command("sh", "-c", script)
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	shell.Run()
}

// answer serves a shepherd's socket.
func answer(l net.Listener, reply []byte) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		io.ReadAtLeast(conn, make([]byte, 4096), 1)
		conn.Write(reply)
		conn.Close()
	}
}

// deployerMain applies a revision that is never confirmed, since its probe says
// on standard output that it is being tried, and then hangs.
func deployerMain() int {
	d := &Deployment{Name: "test", Dir: os.Getenv("DIR"), unprivileged: true, socket: os.Getenv("SOCKET")}
	d.Probes = Probes{probeFunc(func() error {
		fmt.Println("probing")
		select {}
	})}
	if side := os.Getenv("SIDE"); side != "" {
		probes := d.Probes
		var one, two int
		var target string
		fmt.Sscan(side, &one, &two, &target)
		setBeside(d, target, one, two)
		d.Probes = probes
	}
	if by, err := time.ParseDuration(os.Getenv("CONFIRM_BY")); err == nil { // hangs until it is confirmed instead
		d.ConfirmBy, d.Probes, d.Schedule.Interval = by, Probes{Alive{}}, 10*time.Millisecond
	}
	if state := os.Getenv("STATE"); state != "" { // hangs in a migration instead
		d.Shares = []Mount{{Name: "state", Source: state}}
		d.Switch = Switch{Snapshot: []string{"state"}, Hooks: []Hook{{Command: []string{"/bin/sh", "-c",
			`rm -r "$0/db"; while :; do echo >> "$0/new"; sleep .01; done`, state}}}}
	}
	_, err := d.Apply(context.Background(), Revision{Script: os.Getenv("SCRIPT"), Who: "deployer", Why: "to be killed"})
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// plannerMain prints what speaks against a first generation of a script, be there such a script or not.
func plannerMain() int {
	d := &Deployment{Name: "test", Dir: os.Getenv("DIR")}
	p, err := d.Plan(context.Background(), Revision{Script: os.Getenv("SCRIPT")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, r := range p.Refusals {
		fmt.Printf("\n%s: %s\n", r.Check, r.Reason)
	}
	return 0
}

// standIn returns the command of another process that works on the deployment, and is killed when ctx ends.
func standIn(ctx context.Context, d *Deployment, role string, environment ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "STANDIN="+role, "DIR="+d.Dir, "SOCKET="+d.socket)
	cmd.Env = append(cmd.Env, environment...)
	cmd.Stderr = os.Stderr
	return cmd
}

// script writes a run-container script that behaves as mode says and whose shepherd's reply is
// the file of testdata.
func script(t *testing.T, d *Deployment, mode, reply string) string {
	t.Helper()
	if !filepath.IsAbs(reply) {
		dir, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		reply = filepath.Join(dir, "testdata", reply)
	}
	name := filepath.Join(t.TempDir(), "run-container")
	settings := fmt.Sprintf("export GORACE=atexit_sleep_ms=0 MODE='%s' SOCKET='%s' REPLY_FILE='%s' BINARY='%s'\n", mode, d.socket, reply, os.Args[0])
	text := strings.Replace(launcher, "\n", "\n"+settings, 1)
	if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

// hardName is no pattern, but looks like one that matches something else.
const hardName = `state [a-z]*?\*`

// plenty is for what takes no time, but on a machine that stands still now and then.
const plenty = 2 * time.Minute

// testDeployment returns a deployment that is stopped at the end of the test, when
// it must leave nothing behind.
func testDeployment(t *testing.T) *Deployment {
	t.Helper()
	sockets, err := os.MkdirTemp("", "guixci") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), hardName)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := &Deployment{
		Name: "test", Dir: dir, unprivileged: true, socket: filepath.Join(sockets, "socket"),
		Logger:   slog.New(slog.NewTextHandler(t.Output(), nil)),
		Schedule: Schedule{StartPeriod: plenty, Interval: 10 * time.Millisecond, Window: 30 * time.Millisecond},
	}
	t.Cleanup(func() {
		tellState(t, d)
		in, _ := d.Running()
		if err := d.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if in != nil {
			checkNothingLeft(t, d, in)
		}
		os.RemoveAll(sockets)
	})
	return d
}

// wantOutcome checks that err is an *Error of that outcome.
func wantOutcome(t *testing.T, err error, want Outcome) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want outcome %v", err, want)
	}
	if e.Outcome != want {
		t.Fatalf("outcome %v, want %v: %v", e.Outcome, want, err)
	}
	return e
}
