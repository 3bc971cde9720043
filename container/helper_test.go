package container

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// A probeFunc is a probe that calls a function.
type probeFunc func() error

func (f probeFunc) String() string { return "of a test" }
func (f probeFunc) Check(context.Context, *Instance, any) (any, error) {
	return nil, f()
}

// An eventual probe passes as soon as something is the case, for which it waits as long as the schedule's Timeout. When
// the probes that come after it are tried, that is so, however slow the machine is.
type eventual func(ctx context.Context, in *Instance) error

func (eventual) String() string { return "eventual" }
func (is eventual) Check(ctx context.Context, in *Instance, _ any) (any, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := is(ctx, in)
		if err == nil {
			return nil, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// answers reports whether something listens where the instance's shepherd does.
func answers(ctx context.Context, in *Instance) error {
	conn, err := in.Shepherd().Dial(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

// awaitShepherd waits until the instance's shepherd answers.
func awaitShepherd(t *testing.T, in *Instance) {
	t.Helper()
	await(t, func() bool { _, err := in.services(t.Context()); return err == nil })
}

// sameAddress is for comparing what has addresses in it.
var sameAddress = gocmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// tellState tells, when a test has failed, what may explain it, in a few lines: of a long log people see the last ones.
func tellState(t *testing.T, d *Deployment) {
	if !t.Failed() {
		return
	}
	r, err := d.readRecord()
	if r != nil {
		t.Logf("recorded: generation %d, stopping %v, coming up %v, process %+v; beside: %+v", r.Generation, r.Stopping, r.ComingUp, r.Process, r.Beside)
	}
	last, errLedger := d.lastEntered()
	numbers, errNumbers := numbersIn(d.path("generations"))
	t.Logf("the ledger ends with: generation %d %s: %.200q (%v)", last.Generation, last.Event, last.Detail, errors.Join(err, errLedger, errNumbers))
	if len(numbers) > 0 {
		lines := strings.Split(lastLines(d.generationPath(numbers[len(numbers)-1], "log"), 0), "\n")
		t.Logf("the newest log ends with: %q", lines[max(0, len(lines)-3):])
	}
}

// checkNothingLeft checks that a stopped container is gone altogether.
func checkNothingLeft(t *testing.T, d *Deployment, in *Instance) {
	t.Helper()
	for _, p := range []Process{in.Process, in.Launcher} {
		if p.Alive() {
			t.Errorf("a process is left: %q", p.doing())
		}
	}
	if found := launchersOf(in.pidFile()); len(found) > 0 {
		t.Errorf("launchers are left: %v", found)
	}
	for _, dir := range groupsNamed(in.unit().Name) {
		t.Errorf("control group %s is left", dir)
	}
	if _, err := os.Stat(in.runDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory is left: %v", err)
	}
	if _, err := net.InterfaceByName(in.wire()); err == nil {
		t.Errorf("link %s is left", in.wire())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	dir := strings.NewReplacer(" ", `\040`, `\`, `\134`).Replace(d.Dir) // as proc_pid_mountinfo(5) has it
	if strings.Contains(string(mounts), dir) {
		t.Error("a mount is left")
	}
}

// listenIn listens on a socket in a directory whose name is too long for an address.
func listenIn(t *testing.T, dir string) net.Listener {
	t.Helper()
	short, err := os.MkdirTemp("", "guixci")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	l, err := net.Listen("unix", filepath.Join(short, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(short, "socket"), filepath.Join(dir, "socket")); err != nil {
		t.Fatal(err)
	}
	return l
}

// groupsNamed returns the control groups of a name, wherever they are.
func groupsNamed(name string) []string {
	var found []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == name {
			found = append(found, path)
		}
		return nil
	})
	return found
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
