package container

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// What a real container says is in the log as it comes: its activation, its shepherd, its services, and what is written to the
// console and to where a system's log writes. It goes on when launcher, listeners and supervisor are
// killed. Who follows a service misses nothing, with the log put aside all the time. No process has a terminal.
func TestRealConsole(t *testing.T) {
	built := samples(t)
	d, _ := realDeployment(t)
	mustApply(t, d, built["one"])
	in := awaitRunning(t, d, nil)
	heard := func(what string) func() bool {
		return func() bool { return bytes.Contains(readFile(t, in.logFile()), []byte(what)) }
	}
	for _, what := range []string{
		fmt.Sprintf("system container is running as PID %d\n", in.Process.PID),
		"populating /etc from ",
		"\nshepherd[1]: GNU Shepherd ",
		"\nshepherd[1]: Service web started.\n",
		"-sample-counter[",
		"] counter is counting\n",
	} {
		await(t, heard(what))
	}
	write := func(text string, to ...string) {
		t.Helper()
		for _, file := range to {
			status, err := d.Exec(t.Context(), Stdio{Err: t.Output()}, "/bin/sh", "-c", "echo "+text+" "+file+" >"+file)
			if err != nil || status != 0 {
				t.Fatalf("status %d, %v", status, err)
			}
			await(t, heard(text+" "+file+"\n"))
		}
	}
	write("first", "/dev/console", "/dev/tty12")

	t.Run("no terminal", func(t *testing.T) {
		for _, pid := range recallGroup(t, in) {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			_, rest, _ := strings.Cut(string(stat), ") ")
			if fields := strings.Fields(rest); len(fields) > 4 && fields[4] != "0" {
				t.Errorf("process %d has terminal %s: %s", pid, fields[4], stat)
			}
		}
	})

	t.Run("follow", func(t *testing.T) {
		const lines = 20_000
		flood(t, d, in, "flood", fmt.Sprintf(`i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; done; echo all; exec sleep 1000`, lines))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var following sync.WaitGroup
		all := &awaited{what: "all\n", found: cancel}
		following.Go(func() {
			if err := d.Logs(ctx, all, "flood", true); err != nil {
				t.Error(err)
			}
		})
		await(t, func() bool {
			if err := in.rotateLog(t.Context(), 100_000, 1000); err != nil {
				t.Fatal(err)
			}
			return ctx.Err() != nil
		})
		following.Wait()
		var want strings.Builder
		for i := range lines {
			fmt.Fprintf(&want, "line %d\n", i+1)
		}
		want.WriteString("all\n")
		got := strings.Split(all.text.String(), "\n")
		for i, line := range strings.Split(want.String(), "\n") {
			if i >= len(got) || got[i] != line {
				t.Fatalf("followed %q instead of %q", got[min(i, len(got)):min(i+3, len(got))], line)
			}
		}
		if aside, _ := filepath.Glob(in.logFile() + ".*"); len(aside) < 3 {
			t.Errorf("put aside: %q", aside)
		}
	})

	t.Run("the launcher is killed", func(t *testing.T) {
		if err := in.Launcher.signal(9); err != nil {
			t.Fatal(err)
		}
		if err := in.Launcher.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		write("second", "/dev/console", "/dev/tty12")
	})

	t.Run("the listeners are killed", func(t *testing.T) {
		killed := listeners(t, in)
		if len(killed) != 2 {
			t.Errorf("listeners %v", killed)
		}
		for _, p := range killed {
			if err := p.signal(9); err != nil {
				t.Fatal(err)
			}
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := in.Shepherd().Services(t.Context()); err != nil { // opening the console fails nobody
			t.Error(err)
		}
		gate := filepath.Join(d.Shares[0].Source, "gate")
		if err := unix.Mkfifo(gate, 0o600); err != nil {
			t.Fatal(err)
		}
		flood(t, d, in, "again", `read go </srv/state/gate; i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo once more $i; done; exec sleep 1000`)
		// That is more than the console holds: shepherd waits for a listener from then on, and answers nobody.
		if err := os.WriteFile(gate, []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
		supervise(t, d, quickly)
		await(t, heard("] once more 5000\n"))
		write("third", "/dev/console", "/dev/tty12")
		if now := awaitRunning(t, d, nil); now.Process != in.Process {
			t.Error("it was started again")
		}
	})

	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d, in)
	await(t, heard("shepherd[1]: Service web is now stopped.\n")) // the supervisor may not have written it yet
}

// recallGroup returns the processes of the instance.
func recallGroup(t *testing.T, in *Instance) []int {
	t.Helper()
	h, err := recall(in.unit())
	if err != nil || len(h.Group.PIDs()) < 3 {
		t.Fatalf("processes %v, %v", h.Group.PIDs(), err)
	}
	return h.Group.PIDs()
}

// flood adds a service that runs a shell script, and starts it.
func flood(t *testing.T, d *Deployment, in *Instance, name, script string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.Shares[0].Source, name), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	call := func(procedure string, arguments ...sexp.Value) sexp.Value {
		return sexp.L(append([]sexp.Value{sexp.Symbol(procedure)}, arguments...)...)
	}
	service := call("service", sexp.Quote(sexp.L(sexp.Symbol(name))),
		sexp.Keyword("start"), call("make-forkexec-constructor", sexp.Quote(sexp.Strings("/bin/sh", "/srv/state/"+name))),
		sexp.Keyword("stop"), call("make-kill-destructor"))
	if _, _, err := in.Shepherd().Do(t.Context(), "eval", "root", call("begin", call("register-services", call("list", service)), sexp.Bool(true)).String()); err != nil {
		t.Fatal(err)
	}
	started, _, err := in.Shepherd().Do(t.Context(), "start", name)
	if err != nil || !sexp.True(started) {
		t.Fatalf("start %s: %v, %v", strconv.Quote(name), started, err)
	}
}
