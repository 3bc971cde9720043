package systemd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/container/containertest"
	"github.com/genenetwork/guixci/container/systemd"
	"github.com/genenetwork/guixci/internal/cgroup"
	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

const program = "/lib/systemd/systemd"

// boot makes the machine of a systemd that is process 1 of namespaces of its own: its own
// /run, and the unified hierarchy of control groups, of which it sees its own part only.
// It runs this test's binary as a service, and ends as that does.
const boot = `set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /etc/systemd/system
mkdir -p /run/systemd/system
cat > /run/systemd/system/inside.service
cat > /run/systemd/system/dbus.socket <<END
[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/dbus/system_bus_socket
END
cat > /run/systemd/system/dbus.service <<END
[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
Type=notify
NotifyAccess=main
ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only
END
exec ` + program + ` --system --unit=inside.service --log-level=warning --log-target=console --show-status=no --crash-reboot=no
`

// inside describes the service: the only one there is.
const inside = `[Unit]
Description=tests of guixci
DefaultDependencies=no
Requires=dbus.service
After=dbus.service
SuccessAction=exit
FailureAction=exit
[Service]
Type=exec
ExecStart=%q %s
Environment=%q %q %q %q
WorkingDirectory=%s
StandardOutput=append:%s
StandardError=append:%s
`

// underSystemd runs the named test of this binary as a service of a systemd that
// is there for nothing else. The test inside is told of a run-container script.
func underSystemd(t *testing.T, name, script string) {
	t.Helper()
	guixtest.Require(t)
	if _, err := os.Stat(program); err != nil || os.Geteuid() != 0 {
		t.Skipf("needs root and a systemd: %v", err)
	}
	group, err := cgroup.New(fmt.Sprintf("guixci-systemd-%d", os.Getpid()), cgroup.Limits{})
	if err != nil || !group.Dirs[0].Unified {
		t.Skipf("needs version 2 of control groups: %v", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if err := group.Remove(ctx); err != nil {
			t.Error(err)
		}
	}()
	output := filepath.Join(t.TempDir(), "output")
	cmd, err := group.Start(func() *exec.Cmd { return bootCommand(t, name, script, output) })
	if err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(t.Context(), func() { group.Kill() })
	defer stop()
	err = cmd.Wait()
	text, _ := os.ReadFile(output)
	t.Logf("inside:\n%s", text)
	if err != nil || !strings.Contains(string(text), "--- PASS: "+name) {
		t.Errorf("%s failed inside: %v", name, err)
	}
}

func bootCommand(t *testing.T, name, script, output string) *exec.Cmd {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", boot)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "container=guixci"}
	cmd.Stdin = strings.NewReader(fmt.Sprintf(inside, os.Args[0], "-test.v -test.run=^"+name+"$",
		"GUIXCI_INSIDE="+name, "PATH="+os.Getenv("PATH"),
		"SCRIPT="+script, "EXPOSED="+strings.Join(guixbox.Exposed(), ":"), dir, output, output))
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS |
		unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP}
	return cmd
}

// isInside reports whether this is the process that underSystemd is about.
func isInside(t *testing.T) bool { return os.Getenv("GUIXCI_INSIDE") == t.Name() }

// A real systemd passes what every runner must, spoken to over the system bus and,
// by somebody else, over its private socket.
func TestRunner(t *testing.T) {
	if !isInside(t) {
		underSystemd(t, t.Name(), "")
		return
	}
	conn, err := dbus.NewSystemConnectionContext(t.Context())
	if err != nil {
		t.Fatalf("there is no system bus: %v", err)
	}
	conn.Close()
	quick := 100 * time.Millisecond
	containertest.Suite{
		Runner:   &systemd.Runner{RestartAfter: quick, RestartAtMost: quick},
		Again:    &systemd.Runner{RestartAfter: quick, RestartAtMost: quick, Address: "unix:path=/run/systemd/private"},
		Restarts: true,
	}.Run(t)
}

// Where there is no controller, systemd leaves a limit out and says nothing. We do not.
func TestLimitsAreNotLeftOut(t *testing.T) {
	if !isInside(t) {
		underSystemd(t, t.Name(), "")
		return
	}
	r := new(systemd.Runner)
	u := container.Unit{Name: "guixci-test-limits", Command: []string{"/bin/sleep", "1000"},
		Log: filepath.Join(t.TempDir(), "log"), Limits: container.Limits{Memory: 1 << 30}}
	err := r.Start(t.Context(), u)
	text, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if controlled := strings.Contains(string(text), "memory"); controlled != (err == nil) {
		t.Errorf("controllers %s, error %v", text, err)
	}
	if err := r.Stop(t.Context(), u); err != nil {
		t.Error(err)
	}
	if names, err := r.Units(t.Context()); err != nil || len(names) > 0 {
		t.Errorf("units %q, %v", names, err)
	}
}

// A real container under a real systemd.
func TestDeploy(t *testing.T) {
	if !isInside(t) {
		guixtest.Require(t)
		underSystemd(t, t.Name(), containertest.SampleScript(t, guixtest.FreePort(t)))
		return
	}
	containertest.Deploy(t, "systemd", new(systemd.Runner), os.Getenv("SCRIPT"), filepath.SplitList(os.Getenv("EXPOSED")))
}

// That a program cannot be executed is the result of the job.
func TestJobFails(t *testing.T) {
	if !isInside(t) {
		underSystemd(t, t.Name(), "")
		return
	}
	err := new(systemd.Runner).Start(t.Context(), container.Unit{Name: "guixci-test-missing",
		Command: []string{filepath.Join(t.TempDir(), "nothing")}, Log: filepath.Join(t.TempDir(), "log")})
	var failed *systemd.JobError
	if !errors.As(err, &failed) || failed.Job != "start" || failed.Result != "failed" {
		t.Errorf("error %v", err)
	}
}
