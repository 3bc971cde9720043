package shepherd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/container/containertest"
	"github.com/genenetwork/guixci/container/shepherd"
	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// startShepherd starts a shepherd of the test's own, and returns its socket.
func startShepherd(t *testing.T) string {
	t.Helper()
	guixtest.Require(t)
	dir, err := os.MkdirTemp("", "guixci") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "socket")
	cmd := exec.Command("shepherd", "--silent", "--config=/dev/null", "--socket="+socket)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); <-tick.C {
		if _, err := container.ShepherdAt(socket).Services(t.Context()); err == nil {
			return socket
		}
	}
	t.Fatal("shepherd does not answer")
	return ""
}

// A real shepherd passes what every runner must.
func TestRunner(t *testing.T) {
	socket := startShepherd(t)
	containertest.Suite{
		Runner:   &shepherd.Runner{Socket: socket, RestartAfter: time.Second},
		Again:    &shepherd.Runner{Socket: socket},
		Restarts: true,
		Limits:   os.Geteuid() == 0,
	}.Run(t)
}

// A real container under a real shepherd.
func TestDeploy(t *testing.T) {
	r := &shepherd.Runner{Socket: startShepherd(t)}
	containertest.Deploy(t, "shepherd", r, containertest.SampleScript(t, guixtest.FreePort(t)), guixbox.Exposed())
}
