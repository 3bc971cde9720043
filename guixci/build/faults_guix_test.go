package build_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// newOwn is newReal with a daemon and a store that nobody else uses.
func newOwn(t *testing.T, o storetest.DaemonOptions) (*real, *storetest.Daemon) {
	t.Helper()
	guixtest.Require(t)
	d := storetest.StartDaemon(t, o)
	daemon := &build.Daemon{Pool: d.Pool()}
	t.Cleanup(func() { daemon.Close() })
	client := d.Dial()
	r := &real{kit: storetest.New(t, client), client: client, names: map[build.StorePath]string{},
		started: map[string]int{}, results: map[string]build.Result{}}
	r.Scheduler = &build.Scheduler{Store: daemon, Builder: daemon, Derivations: d.Derivations(),
		Slots: 2, Backoff: time.Millisecond, Logs: t.TempDir(), Notify: r.notify}
	return r, d
}

// A whistle lets a builder tell that it runs, and by its end that it does not any more.
type whistle struct {
	fifo  string
	heard chan struct{} // closed when it has blown
	over  chan struct{} // closed when all who held it have ended
}

// newWhistle makes one. A builder takes it with "exec 3>FIFO; echo >&3".
func newWhistle(t *testing.T) *whistle {
	t.Helper()
	w := &whistle{filepath.Join(t.TempDir(), "whistle"), make(chan struct{}), make(chan struct{})}
	if err := syscall.Mkfifo(w.fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	openUp(t, w.fifo)
	go func() {
		f, err := os.Open(w.fifo) // waits for a writer
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if _, err := f.Read(make([]byte, 1)); err != nil {
			t.Errorf("hear that a builder runs: %v", err)
		}
		close(w.heard)
		io.Copy(io.Discard, f)
		close(w.over)
	}()
	return w
}

func (w *whistle) script() string { return "exec 3>" + w.fifo + "; echo >&3\n" }

// blown reports whether a builder has come so far.
func (w *whistle) blown() bool {
	select {
	case <-w.heard:
		return true
	default:
		return false
	}
}

// await waits for an event, for as long as tests may take.
func await(t *testing.T, what string, event <-chan struct{}) {
	t.Helper()
	select {
	case <-event:
	case <-time.After(3 * time.Minute):
		t.Errorf("no sign of %s", what)
	}
}

// A daemon that is killed while it builds, and is back soon, costs a second attempt.
func TestRealDaemonKilled(t *testing.T) {
	r, d := newOwn(t, storetest.DaemonOptions{})
	first := newWhistle(t)
	again := filepath.Join(t.TempDir(), "again")
	base := r.add("base", "echo >$out")
	slow := r.add("slow", "test -e "+again+" || { "+first.script()+" sleep 600; }; echo >$out", base)
	top := r.add("top", "echo >$out", slow)
	letThrough(t, again)
	r.also = func(e build.Event) {
		if e.Kind == build.Started && e.Derivation == slow.Derivation {
			go func() {
				await(t, "the builder", first.heard)
				d.Kill()
				if err := os.WriteFile(again, nil, 0o644); err != nil {
					t.Error(err)
				}
				d.Start()
			}()
		}
	}
	r.client.Close() // it held all that it had added
	var causes []build.Cause
	notify := r.also
	r.also = func(e build.Event) {
		notify(e)
		if e.Kind == build.Retrying {
			causes = append(causes, e.Result.Cause)
		}
		if e.Kind == build.Finished && e.Derivation == slow.Derivation {
			// What the daemon that was killed had been told to keep, the new one keeps too.
			collect(t, d)
			if valid, err := d.Pool().Valid(context.Background(), base.Out()); err != nil || !valid {
				t.Errorf("what top needs is valid: %v, %v", valid, err)
			}
		}
	}
	r.Backoff, r.Attempts = 50*time.Millisecond, 10
	r.build(t, top)
	for name, attempts := range map[string]int{"base": 1, "slow": len(causes) + 1, "top": 1} {
		if got := r.results[name]; got.Cause != build.Succeeded || got.Attempts != attempts {
			t.Errorf("%s: %+v, want success after %d attempts", name, got, attempts)
		}
	}
	if len(causes) == 0 || causes[0] != build.DaemonLost {
		t.Errorf("retried because %v, want a lost daemon", causes)
	}
	await(t, "the first builder's end", first.over)
}

// Garbage collected at the worst moments takes nothing that is still needed.
func TestRealGarbageCollectedInBetween(t *testing.T) {
	r, d := newOwn(t, storetest.DaemonOptions{})
	r.Slots = 1
	base := r.add("base", "echo base >$out")
	top := r.add("top", "cat $base >$out", base)
	lost := r.add("lost", "echo >$out")
	holder := r.Store.(*build.Daemon)
	if err := holder.Hold(t.Context(), []store.StorePath{top.Derivation}); err != nil { // as what evaluates does
		t.Fatal(err)
	}
	r.client.Close() // it held all that it had added
	freed := collect(t, d)
	for begin := time.Now(); len(freed) == 0 && time.Since(begin) < time.Minute; {
		freed = collect(t, d) // as soon as the daemon has noticed that the client is gone
	}
	if len(freed) != 1 || freed[0] != lost.Derivation {
		t.Errorf("collected %v, want what nobody held", freed)
	}
	r.also = func(e build.Event) {
		if e.Kind == build.Finished && e.Derivation == base.Derivation {
			collect(t, d)
		}
	}
	r.build(t, top, lost)
	want := map[string]build.Cause{"base": build.Succeeded, "top": build.Succeeded, "lost": build.Gone}
	for name, cause := range want {
		if got := r.results[name]; got.Cause != cause {
			t.Errorf("%s: %+v, want %s", name, got, cause)
		}
	}
	if r.started["base"] != 1 {
		t.Errorf("base was built %d times", r.started["base"])
	}
}

// collect collects all garbage there is.
func collect(t *testing.T, d *storetest.Daemon) (freed []store.StorePath) {
	t.Helper()
	c, err := store.Dial(context.Background(), d.Socket)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer c.Close()
	got, err := c.CollectGarbage(context.Background(), 0)
	if err != nil {
		t.Error(err)
	}
	return got.Paths
}

// A full disk is not the build's fault: it is tried again, and again only so often.
func TestRealDiskFull(t *testing.T) {
	r, d := newOwn(t, storetest.DaemonOptions{Size: 16 << 20})
	filler := filepath.Join(d.Dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 12<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	large := r.add("large", "head -c 6M /dev/zero >$out")
	huge := r.add("huge", "head -c 32M /dev/zero >$out", large)
	r.Attempts = 2
	r.also = func(e build.Event) {
		if e.Kind == build.Retrying && e.Derivation == large.Derivation {
			if err := os.Remove(filler); err != nil { // somebody tidies up
				t.Error(err)
			}
		}
	}
	r.build(t, huge)
	if got := r.results["large"]; got.Cause != build.Succeeded || got.Attempts != 2 {
		t.Errorf("large: %+v, want success at the second attempt", got)
	}
	if got := r.results["huge"]; got.Cause != build.DiskFull || got.Attempts != 2 {
		t.Errorf("huge: %+v, want a full disk twice", got)
	}
}

// So is a disk too full for the log.
func TestRealDiskFullOfLogs(t *testing.T) {
	r, d := newOwn(t, storetest.DaemonOptions{Size: 4 << 20})
	r.Logs, r.Attempts = filepath.Join(d.Dir, "logs"), 2
	r.build(t, r.add("loud", "head -c 8M /dev/urandom; echo >$out"))
	if got := r.results["loud"]; got.Cause != build.DiskFull || got.Attempts != 2 {
		t.Errorf("loud: %+v, want a full disk twice", got)
	}
}

// A gigabyte of log takes time and disk, but no memory, and is there in the end.
func TestRealGigabyteOfLog(t *testing.T) {
	r, _ := newOwn(t, storetest.DaemonOptions{Args: []string{"--log-compression=gzip"}})
	const size = 1 << 30
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b := r.add("loud", "head -c 1G /dev/zero | tr '\\0' -; echo >$out")
	r.Add(build.Job{Derivation: b.Derivation, Limits: build.Limits{MaxLog: -1}})
	r.build(t)
	runtime.ReadMemStats(&after)
	if got := r.results["loud"]; got.Cause != build.Succeeded {
		t.Fatalf("loud: %+v", got)
	}
	if more := int64(after.HeapSys) - int64(before.HeapSys); more > 64<<20 {
		t.Errorf("%d more bytes of heap", more)
	}
	log, err := build.OpenLog(r.results["loud"].Log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if n, err := io.Copy(io.Discard, log); err != nil || n != size {
		t.Errorf("log of %d bytes, %v", n, err)
	}
}

// A builder that leaves processes behind and never ends is stopped with all of them.
func TestRealForksForEver(t *testing.T) {
	r, d := newOwn(t, storetest.DaemonOptions{})
	scripts := map[string]string{
		"forks":  "for i in 1 2 3 4 5; do (while :; do sleep 1; done) & done; wait",
		"leaves": "sleep 600 & echo >$out", // its log does not end
	}
	whistles := map[string]*whistle{}
	limit := 2 * time.Second
	for name, script := range scripts {
		whistles[name] = newWhistle(t)
		b := r.add(name, whistles[name].script()+script)
		r.Add(build.Job{Name: name, Derivation: b.Derivation, Limits: build.Limits{Timeout: limit}})
	}
	done := 0
	r.also = func(e build.Event) {
		if e.Kind != build.JobDone {
			return
		}
		if !whistles[e.Job.Name].blown() && limit < time.Minute { // no builder begins so soon here
			limit *= 2
			r.Retry(e.Derivation)
			r.Add(build.Job{Name: e.Job.Name, Derivation: e.Derivation, Limits: build.Limits{Timeout: limit}})
		} else if done++; done == len(scripts) {
			r.Seal()
		}
	}
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, w := range whistles {
		if got := r.results[name]; got.Cause != build.TimedOut || got.Attempts != 1 {
			t.Errorf("%s: %+v, want it to have timed out", name, got)
		}
		await(t, "the end of all that "+name+" started", w.over)
	}
	for _, pid := range d.Processes() {
		if text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline")); err == nil && strings.HasPrefix(string(text), "sleep") {
			t.Errorf("process %d is left: %q", pid, text)
		}
	}
}

// What the kernel does to a builder when memory runs out is not the build's fault.
func TestRealOutOfMemory(t *testing.T) {
	r, _ := newOwn(t, storetest.DaemonOptions{})
	r.Attempts = 2
	r.build(t, r.add("greedy", "echo allocating; kill -9 $$"))
	if got := r.results["greedy"]; got.Cause != build.OutOfMemory || got.Attempts != 2 {
		t.Errorf("greedy: %+v, want it to have run out of memory twice", got)
	}
}

// A real failure is not tried again until somebody asks.
func TestRealRetry(t *testing.T) {
	r, _ := newOwn(t, storetest.DaemonOptions{})
	mended := filepath.Join(t.TempDir(), "mended")
	letThrough(t, mended)
	bad := r.add("bad", "test -e "+mended+" && echo >$out")
	top := r.add("top", "echo >$out", bad)
	done := 0
	r.also = func(e build.Event) {
		if e.Kind != build.JobDone {
			return
		}
		switch done++; done {
		case 1: // of its own accord it is as it was
			r.Add(build.Job{Derivation: top.Derivation})
		case 2:
			if got := r.started["bad"]; got != 1 || e.Result.Cause != build.DependencyFailed {
				t.Errorf("before anybody asked: %d builds, %s", got, e.Result.Cause)
			}
			if err := os.WriteFile(mended, nil, 0o644); err != nil {
				t.Error(err)
			}
			r.Retry(bad.Derivation)
			r.Add(build.Job{Derivation: top.Derivation})
		default:
			r.Seal()
		}
	}
	r.Add(build.Job{Derivation: top.Derivation})
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bad", "top"} {
		if got := r.results[name]; got.Cause != build.Succeeded {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
