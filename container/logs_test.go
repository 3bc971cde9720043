package container

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a service says is told from what others say, whenever it is known whose process it is.
func TestVoice(t *testing.T) {
	log := strings.ReplaceAll(`P GNU Shepherd 1.0.9 (Guile 3.0.11)
P [hash-early] without a number
P [hash-other] not ours
P Starting service early...
P hash-early[7] before it is known
P Service early running with value #<<process> id: 7 command: ("/gnu/store/hash-early" "-x")>.
P Service other running with value #<<process> id: 8 command: ("/y")>.
P hash-early[7] known, and [8] in it
P hash-other[8] shepherd[1]: hash-early[7] not ours
P Service early has been started.
something else
hash-early[7] not shepherd
P sh[9] a process of nobody
P Service early running with value #<<process> id: 17 command: ("/gnu/store/hash-early" "-x")>.
P [hash-early] when it is known
P hash-early[17] with its number
P [hash-early] of the next
P Service early running with value #<<process> id: 18 command: ("/gnu/store/hash-early" "-x")>.
P Service early running with value 19.
P sh[19] only a number
P Service other running with value #<<process> id: 19 command: ("/y")>.
P sh[19] taken over
2026-11-27 03:20:08 host P odd[9] with a date
guixci: something is lost
P hash-early[7] at `, "P ", "shepherd[1]: ")
	var out strings.Builder
	v := newVoice(&out, "early", []Service{{Provides: []string{"known"}, PID: 12}})
	for chunk := range slices.Chunk([]byte(log+"the end\n"), 7) {
		if _, err := v.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	want := "without a number\nbefore it is known\nknown, and [8] in it\n" +
		"when it is known\nwith its number\nof the next\nonly a number\nguixci: something is lost\nat the end\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", &out, want)
	}
	if len(v.held) != 1 || v.held["9"] == nil {
		t.Errorf("held: %v", v.held)
	}
}

// A process that shepherd has not told of is recognised by what it has said, if only one can have
// said it; too much of it is not kept, and that is counted.
func TestVoiceRecognises(t *testing.T) {
	var out strings.Builder
	v := newVoice(&out, "one", nil)
	for i := range mostHeld + 1 {
		fmt.Fprintf(v, "shepherd[1]: sh[5] line %d\n", i)
	}
	fmt.Fprintf(v, "shepherd[1]: sh[6] the same\nshepherd[1]: sh[7] never\n")
	said := func(name string, texts ...string) Service {
		s := Service{Provides: []string{name}}
		for _, text := range texts {
			s.Messages = append(s.Messages, Message{Text: text})
		}
		return s
	}
	services := []Service{said("one", "the same", fmt.Sprint("line ", mostHeld)), said("two", "the same")}
	for range mostTried {
		if err := v.recognise(services); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if want := fmt.Sprintf("guixci: %d lines are missing here", mostHeld/2); lines[0] != want {
		t.Errorf("%q, want %q", lines[0], want)
	}
	if len(lines) != mostHeld/2+2 || lines[1] != fmt.Sprint("line ", mostHeld/2) || lines[len(lines)-1] != fmt.Sprint("line ", mostHeld) {
		t.Errorf("%d lines, %q … %q", len(lines), lines[1], lines[len(lines)-1])
	}
	if len(v.held) != 0 {
		t.Errorf("held: %v", v.held)
	}
}

func TestLastBeginning(t *testing.T) {
	for text, want := range map[string]int64{
		"":         0,
		"no such":  0,
		"a\nb\nc":  0,
		"before\n": 0,
		"shepherd[1]: GNU Shepherd 1\nx\nshepherd[1]: sh[2] GNU Shepherd 1\n":    0,
		"shepherd[1]: GNU Shepherd 1\nx\nshepherd[1]: GNU Shepherd 1.0.9 (Guile": 30,
	} {
		if got, err := lastBeginning(strings.NewReader(text)); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

// A service is not restarted while somebody changes the deployment.
func TestRestartTakesTurns(t *testing.T) {
	d := testDeployment(t)
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	lease, err := d.acquire("alice", "release 7")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	if err := d.RestartService(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "alice: release 7") {
		t.Errorf("error %v", err)
	}
}

// Who follows a log does not miss what is put aside, however often that is done between two looks, and is told when
// something is not there any more.
func TestLogTail(t *testing.T) {
	d, in := applied(t, "works")
	if err := os.Truncate(in.logFile(), 0); err != nil {
		t.Fatal(err)
	}
	r, err := in.openTail()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	var got strings.Builder
	number, want := 0, ""
	say := func(count int) {
		f, err := os.OpenFile(in.logFile(), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for range count {
			number++
			line := fmt.Sprintf("number %d\n", number)
			want += line
			if _, err := f.WriteString(line); err != nil {
				t.Fatal(err)
			}
		}
	}
	rotate := func() {
		if err := in.rotateLog(t.Context(), 1, 3); err != nil {
			t.Fatal(err)
		}
	}
	look := func(what string) {
		t.Helper()
		for finished := false; !finished; {
			var err error
			if finished, err = r.copy(&got); err != nil {
				t.Fatal(err)
			}
		}
		if got.String() != want {
			t.Fatalf("%s: got %q, want %q", what, &got, want)
		}
	}
	say(3)
	look("beginning")
	say(2)
	rotate()
	look("put aside for the first time")
	say(2)
	look("new log")
	say(1)
	rotate()
	say(9)
	look("put aside, and longer than before")
	say(1)
	rotate()
	say(1)
	rotate()
	say(1)
	look("put aside twice")
	got.Reset()
	want = ""
	for range 4 {
		say(1)
		rotate()
	}
	want = want[strings.Index(want, "\n")+1:] // of four, three are kept
	want = "guixci: lines are missing here: the log was put aside more often than it was read\n" + want
	look("put aside too often")
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What is put aside just now is both: it is not read twice.
func TestLogTailInBetween(t *testing.T) {
	_, in := applied(t, "works")
	if err := os.WriteFile(in.logFile(), []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := in.openTail()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	var got strings.Builder
	copies := func(want bool) {
		t.Helper()
		if finished, err := r.copy(&got); err != nil || finished != want {
			t.Fatalf("finished: %v, %v", finished, err)
		}
	}
	copies(true)
	if err := os.WriteFile(in.asideName(1), []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	copies(false)
	if got.String() != "one\n" {
		t.Fatalf("%q", &got)
	}
	if err := os.WriteFile(in.logFile(), []byte("3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	copies(true)
	if got.String() != "one\ntwo\n3\n" {
		t.Errorf("%q", &got)
	}
}

// A log that is opened when it has just been put aside, and is emptied only then, goes on at its beginning.
func TestLogTailOpenedInBetween(t *testing.T) {
	_, in := applied(t, "works")
	for _, name := range []string{in.logFile(), in.asideName(1)} {
		if err := os.WriteFile(name, []byte("one\ntwo\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := in.openTail()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	var got strings.Builder
	for _, more := range []string{"", "3\n"} {
		if more != "" {
			if err := os.WriteFile(in.logFile(), []byte(more), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if finished, err := r.copy(&got); err != nil || !finished {
			t.Fatalf("finished: %v, %v", finished, err)
		}
	}
	if got.String() != "one\ntwo\n3\n" {
		t.Errorf("%q", &got)
	}
}

// A writeFunc is a writer that calls a function.
type writeFunc func(p []byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

// What is put aside while a log is shown is shown, too: of a container that runs, and of one that has ended, whose last
// words they are.
func TestLogsWhilePutAside(t *testing.T) {
	for _, follow := range []bool{false, true} {
		t.Run(fmt.Sprintf("follow %v", follow), func(t *testing.T) {
			_, in := applied(t, "works")
			if err := os.WriteFile(in.logFile(), []byte("one\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			tail, err := in.openTail()
			if err != nil {
				t.Fatal(err)
			}
			defer tail.close()
			if follow {
				if err := errors.Join(in.Process.signal(9), in.Process.wait(t.Context()), in.Launcher.wait(t.Context())); err != nil {
					t.Fatal(err)
				}
			}
			var got, want strings.Builder
			before := string(readFile(t, in.logFile())) // the launcher may have said something of its end
			want.WriteString(before)
			w := writeFunc(func(p []byte) (int, error) {
				if got.Len() == 0 {
					f, err := os.OpenFile(in.logFile(), os.O_APPEND|os.O_WRONLY, 0)
					if err != nil {
						return 0, err
					}
					defer f.Close()
					f.WriteString("two\n")
					want.WriteString("two\n")
					if err := in.rotateLog(t.Context(), 1, 3); err != nil {
						return 0, err
					}
					f.WriteString("three\n")
					want.WriteString("three\n")
				}
				return got.Write(p)
			})
			if err := in.repeat(t.Context(), follow, func() (bool, error) { return tail.copy(w) }); err != nil {
				t.Fatal(err)
			}
			if got.String() != want.String() {
				t.Errorf("got %q, want %q", &got, &want)
			}
		})
	}
}

// listeners returns the processes of the unit that listen to its container.
func listeners(t *testing.T, in *Instance) []Process {
	t.Helper()
	h, err := recall(in.unit())
	if err != nil || h.Group == nil {
		t.Skipf("no control group here: %v", err)
	}
	var found []Process
	for _, pid := range h.Group.PIDs() {
		if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", pid)); to == in.console() {
			p, _, err := identify(pid)
			if err == nil {
				found = append(found, p)
			}
		}
	}
	return found
}

// A container whose listeners are killed is heard again, and goes on, when there is a supervisor. What is lost is
// only what cat had just read.
func TestListenersKilled(t *testing.T) {
	d, in := applied(t, "prints")
	killListeners(t, in)
	before := sizeOf(t, in.logFile())
	s := supervise(t, d, quickly)
	await(t, func() bool { return sizeOf(t, in.logFile()) > before+2<<20 })
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if err := s.wait(); err != nil {
		t.Error(err)
	}
	last, gaps := 0, 0
	for line := range strings.Lines(string(readFile(t, in.logFile()))) {
		var number int
		if n, _ := fmt.Sscanf(line, "line %d\n", &number); n != 1 || number < last {
			continue // half a line
		}
		if number != last+1 {
			gaps++
		}
		last = number
	}
	if last < 100_000 || gaps > 2 {
		t.Errorf("%d lines with %d gaps", last, gaps)
	}
}

// What a container has said last is in its log when it has been heard out, however late its listener is.
func TestHearOut(t *testing.T) {
	d, in := applied(t, "works")
	var ears []Process
	await(t, func() bool { ears = listeners(t, in); return len(ears) == 2 })
	for _, p := range ears {
		if err := p.signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(in.console(), []byte("last words\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(in.Process.signal(unix.SIGKILL), in.Process.wait(t.Context()), in.Launcher.wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	begun, heard := make(chan bool), make(chan string)
	go func() {
		begun <- true
		in.hearOut(plenty)
		heard <- in.output()
	}()
	<-begun
	for _, p := range ears {
		if err := p.signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	if text := <-heard; !strings.HasSuffix(text, "last words") {
		t.Errorf("%q", text)
	}
	stopNow(t, d)
}

func killListeners(t *testing.T, in *Instance) {
	t.Helper()
	var killed []Process
	await(t, func() bool { killed = listeners(t, in); return len(killed) == 2 }) // the shell begins in its own time
	for _, p := range killed {
		if err := p.signal(9); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range killed {
		if err := p.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// So is one on trial, and each of two that run side by side.
func TestListenersOfOthersKilled(t *testing.T) {
	heard := func(t *testing.T, d *Deployment, all ...*Instance) {
		t.Helper()
		before := make([]int64, len(all))
		for i, in := range all {
			killListeners(t, in)
			before[i] = sizeOf(t, in.logFile())
		}
		supervise(t, d, quickly)
		for i, in := range all {
			await(t, func() bool { return sizeOf(t, in.logFile()) != before[i] }) // it may be put aside
		}
	}
	for _, beside := range []bool{false, true} {
		t.Run(fmt.Sprintf("trial, beside: %v", beside), func(t *testing.T) {
			w := newWaiting(t, beside, "prints")
			heard(t, w.d, w.trial)
			w.kill()
		})
	}
	t.Run("kept", func(t *testing.T) {
		d, _ := besides(t)
		mustApply(t, d, script(t, d, "prints", "status-works.sexp"))
		mustApply(t, d, script(t, d, "prints", "status-works.sexp"))
		s, err := d.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		heard(t, d, s.Running, s.Beside)
	})
}

func sizeOf(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// A full disk makes nobody wait who says something, be it that the listener hears it or a supervisor; what is lost is
// said when there is space again.
func TestLogOnFullDisk(t *testing.T) {
	for _, listening := range []string{"listener", "supervisor"} {
		t.Run(listening, func(t *testing.T) {
			d := testDeployment(t)
			disk := mountTmpfs(t, "64M")
			d.Dir, d.MinFree = disk+"/deployment", 1
			mustApply(t, d, script(t, d, "prints", "status-works.sexp"))
			in := awaitRunning(t, d, nil)
			if listening == "supervisor" {
				killListeners(t, in)
				how := quickly
				how.LogSize = 1 << 30 // it is not put aside
				supervise(t, d, how)
			}
			written := func() (number int) {
				for line := range strings.Lines(string(readFile(t, fmt.Sprintf("/proc/%d/io", in.Process.PID)))) {
					fmt.Sscanf(line, "wchar: %d", &number)
				}
				return number
			}
			empty := fill(t, disk)
			before, size := written(), sizeOf(t, in.logFile())
			await(t, func() bool { return written() > before+10<<20 })
			if now := sizeOf(t, in.logFile()); now > size+1<<20 {
				t.Fatalf("the log has grown from %d to %d bytes", size, now)
			}
			empty()
			await(t, func() bool { return sizeOf(t, in.logFile()) > size+1<<20 })
			if text := readFile(t, in.logFile())[size:]; !bytes.Contains(text, []byte(lostWords+"\n")) {
				t.Errorf("what is lost is not said in %d bytes", len(text))
			}
			begin := time.Now()
			if err := d.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took > in.handling().StopTimeout {
				t.Errorf("it took %v to stop", took)
			}
		})
	}
}

// That something is lost is said before anything else, even if there was no space for that either.
func TestLostWordsComeFirst(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()
	w, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	fmt.Fprintln(w, "lost")
	calls := 0
	var log strings.Builder
	listen(writeFunc(func(p []byte) (int, error) {
		switch calls++; calls {
		case 1:
			return 0, unix.ENOSPC
		case 2:
			fmt.Fprintln(w, "lost, too")
			return 0, unix.ENOSPC
		case 3:
			w.Close()
		}
		return log.Write(p)
	}), fifo)
	if log.String() != lostWords+"\n" {
		t.Errorf("%q", &log)
	}
}

// What is executed with a listener may open many files, has the fifo as its standard output, to read from it, too, and
// nothing else of it.
func TestSpeak(t *testing.T) {
	dir := t.TempDir()
	console, log := filepath.Join(dir, "console"), filepath.Join(dir, "log")
	if err := unix.Mkfifo(console, 0o600); err != nil {
		t.Fatal(err)
	}
	const few = `ulimit -S -n 256; exec "$@"`
	const what = `test -e /proc/$$/fd/3 && echo left open; ulimit -S -n; echo error >&2; exec grep flags /proc/self/fdinfo/1`
	cmd := exec.Command("/bin/sh", "-c", few, "sh", "/bin/sh", "-c", speak, "sh", listener, console, log, "/no/gate", "/bin/sh", "-c", what)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil || said.String() != "error\n" {
		t.Fatalf("%v: %s", err, &said)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%d\nflags:\t0100002\n", min(65536, limit.Max))
	var got []byte
	await(t, func() bool { got, _ = os.ReadFile(log); return len(got) >= len(want) }) // the listener makes it, in its own time
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A launcher waits at its gate until that is open, whether it arrives before or after that, or while it is removed; if whoever
// could open it dies, it is not executed.
func TestGate(t *testing.T) {
	for name, c := range map[string]struct {
		before, after func(*Instance) error
		want          string
	}{
		"opened before": {before: (*Instance).open, want: "executed\n"},
		"opened after":  {after: (*Instance).open, want: "executed\n"},
		"abandoned":     {after: func(in *Instance) error { return in.gate.Close() }},
		"removed": {after: func(in *Instance) error { // between looking for it and opening it
			return errors.Join(os.Remove(in.gateFile()), in.gate.Close())
		}, want: "executed\n"},
	} {
		t.Run(name, func(t *testing.T) {
			d := testDeployment(t)
			in := d.future(&Generation{Number: 1})
			if err := errors.Join(os.MkdirAll(in.runDir(), 0o700), in.makeConsole(), in.makeGate()); err != nil {
				t.Fatal(err)
			}
			defer in.removeGate()
			if c.before != nil {
				if err := c.before(in); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("/bin/sh", "-c", speak, "sh", listener, in.console(), in.logFile(), in.gateFile(), "/bin/sh", "-c", "echo executed")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if c.after != nil {
				await(t, func() bool { // it waits there
					to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", cmd.Process.Pid))
					return to == in.gateFile()
				})
				if err := c.after(in); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Wait(); (err == nil) != (c.want != "") {
				t.Error(err)
			}
			await(t, func() bool { // the listener makes it, in its own time
				text, err := os.ReadFile(in.logFile())
				return err == nil && string(text) == c.want
			})
			if err := d.removeRecord(); err != nil {
				t.Error(err)
			}
		})
	}
}
