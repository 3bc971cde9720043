package inferior

import (
	"errors"
	"os/exec"
	"syscall"
	"testing"
)

// Without a control group we look ourselves, at the child's children too.
func TestWatch(t *testing.T) {
	const hoard = "{ head -c 1G /dev/zero; sleep 1000; } | tail" // keeps all until the end
	for _, command := range []string{hoard, "(" + hoard + "); true"} {
		p := &process{cmd: exec.Command("sh", "-c", command), most: 100 << 20}
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		end := p.watch()
		err := p.cmd.Wait()
		end()
		if starved := p.outOfMemory(); err == nil || !errors.Is(starved, errMemory) {
			t.Errorf("%s: %v, %v", command, err, starved)
		}
	}
}
