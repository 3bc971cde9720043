package container

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestLedger(t *testing.T) {
	d := &Deployment{Name: "test", Dir: t.TempDir()}
	if history, err := d.History(); err != nil || history != nil {
		t.Errorf("%v, %v", history, err)
	}
	for _, e := range []Event{Began, Confirmed, WasStopped} {
		if err := d.enter(Entry{Event: e, Who: "alice", Detail: "a \"quoted\"\nline"}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]Event{Began, Confirmed, WasStopped}, events(t, d)); diff != "" {
		t.Error(diff)
	}

	name := d.path("ledger.jsonl")
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for what, text := range map[string][]byte{
		"changed":  bytes.Replace(whole, []byte("alice"), []byte("mallo"), 1),
		"removed":  append(bytes.Clone(lines[0]), lines[2]...),
		"swapped":  bytes.Join([][]byte{lines[1], lines[0], lines[2]}, nil),
		"repeated": append(bytes.Clone(whole), lines[2]...),
		"nonsense": append(bytes.Clone(whole), "{\n"...),
		"cut":      bytes.Join(lines[:2], nil),
		"emptied":  nil,
	} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if history, err := d.History(); err == nil {
			t.Errorf("%s: not noticed: %v", what, history)
		}
	}

	// What was cut is not forgotten: the next entry says so.
	if err := os.WriteFile(name, lines[0], 0o600); err != nil {
		t.Fatal(err)
	}
	var cut *CutError
	if _, err := d.History(); !errors.As(err, &cut) || cut.Entry != 3 || cut.Last != 1 {
		t.Errorf("error %v", err)
	}
	if err := d.enter(Entry{Event: WasStarted}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Event{Began, WasCut, WasStarted}, events(t, d)); diff != "" {
		t.Error(diff)
	}
	if history, err := d.History(); err != nil || !strings.Contains(history[1].Detail, "entry 3 with hash "+cut.Hash) {
		t.Errorf("%v, %v", history, err)
	}
	// The process may have died before it wrote where the ledger ends.
	if err := errors.Join(os.WriteFile(name, bytes.Join(lines[:2], nil), 0o600), os.Remove(d.path("ledger.end")),
		d.enter(Entry{Event: WasStopped})); err != nil {
		t.Fatal(err)
	}
	end := readFile(t, d.path("ledger.end"))
	if err := errors.Join(d.enter(Entry{Event: WasStarted}), os.WriteFile(d.path("ledger.end"), end, 0o600), d.enter(Entry{Event: WasStopped})); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Event{Began, Confirmed, WasStopped, WasStarted, WasStopped}, events(t, d)); diff != "" {
		t.Error(diff)
	}
	if err := errors.Join(os.WriteFile(name, whole, 0o600), os.Remove(d.path("ledger.end"))); err != nil {
		t.Fatal(err)
	}

	// A line cut short by a crash was never there; the next takes its place.
	if err := os.WriteFile(name, append(bytes.Clone(whole), bytes.Repeat([]byte("x"), 5000)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.enter(Entry{Event: WasStarted}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Event{Began, Confirmed, WasStopped, WasStarted}, events(t, d)); diff != "" {
		t.Error(diff)
	}
}

// Who reads the ledger while somebody else writes it does not take it for cut.
func TestLedgerReadWhileWritten(t *testing.T) {
	d := &Deployment{Name: "test", Dir: t.TempDir()}
	written := make(chan error, 1)
	go func() {
		var err error
		for range 200 {
			err = errors.Join(err, d.enter(Entry{Event: WasStarted}))
		}
		written <- err
	}()
	for {
		if _, err := d.History(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-written:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
	}
}

// The process dies between moving the pointer and writing the ledger, or before.
func TestSettleLedger(t *testing.T) {
	for _, c := range []struct {
		current int
		want    Event
	}{{7, Confirmed}, {6, WasCutOff}, {0, WasCutOff}} {
		d := &Deployment{Name: "test", Dir: t.TempDir()}
		if err := d.enter(Entry{Event: Began, Generation: 7}); err != nil {
			t.Fatal(err)
		}
		var current *Generation
		if c.current != 0 {
			current = &Generation{Number: c.current}
		}
		for range 2 { // the second finds nothing to do
			if err := d.settleLedger(current); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]Event{Began, c.want}, events(t, d)); diff != "" {
			t.Errorf("current %d: %s", c.current, diff)
		}
	}
}

func TestLease(t *testing.T) {
	d := &Deployment{Name: "test", Dir: t.TempDir()}
	if h, err := d.Holder(); h != nil || err != nil {
		t.Errorf("%v, %v", h, err)
	}
	l, err := d.acquire("alice", "release 7")
	if err != nil {
		t.Fatal(err)
	}
	var busy *BusyError
	if _, err := d.acquire("bob", "fix"); !errors.As(err, &busy) || busy.Holder.Who != "alice" || busy.Holder.Why != "release 7" {
		t.Errorf("error %v", err)
	}
	if h, err := d.Holder(); err != nil || h == nil || h.PID != os.Getpid() || h.Since.IsZero() {
		t.Errorf("%v, %v", h, err)
	}
	l.Release()
	if h, err := d.Holder(); h != nil || err != nil {
		t.Errorf("%v, %v", h, err)
	}
	l, err = d.acquire("", "")
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

func TestPointer(t *testing.T) {
	d := &Deployment{Name: "test", Dir: t.TempDir()}
	if err := d.prepare(); err != nil {
		t.Fatal(err)
	}
	if g, err := d.Current(); g != nil || err != nil {
		t.Errorf("%v, %v", g, err)
	}
	for n := 1; n <= 2; n++ {
		if err := os.Mkdir(d.generationPath(n), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := d.writeGeneration(&Generation{Number: n, Script: "/gnu/store/x"}); err != nil {
			t.Fatal(err)
		}
		if err := d.point(n); err != nil {
			t.Fatal(err)
		}
		if g, err := d.Current(); err != nil || g.Number != n {
			t.Errorf("%v, %v", g, err)
		}
	}
	os.Mkdir(d.generationPath(3), 0o700) // the making of 3 was interrupted
	all, err := d.Generations()
	if err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := d.Generation(3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	// What else is there is not touched, and nothing is half written.
	entries, err := os.ReadDir(d.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left over: %s", e.Name())
		}
	}
}

func TestParseStat(t *testing.T) {
	text := "21942 (a b) c) (d) S 1 21942 21942 0 -1 4194560 3764 0 3 0 8 7 0 0 20 0 2 0 184830 62709760 7392\n"
	got, err := parseStat([]byte(text))
	if want := (processStat{'S', 1, 4194560, 184830}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "1 (x) S 1", "1 x S 1 2 3", strings.Replace(text, " 184830 ", " x ", 1), strings.Replace(text, " 4194560 ", " x ", 1)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, parent, err := identify(cmd.Process.Pid)
	if err != nil || parent != os.Getpid() || !p.Alive() {
		t.Fatalf("%+v, parent %d, %v", p, parent, err)
	}

	// Another process with the same pid is not it, is not signalled and not waited for.
	reused := Process{PID: p.PID, Start: p.Start - 1}
	if reused.Alive() {
		t.Error("taken for another")
	}
	if err := reused.signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := reused.wait(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := dialInRoot(t.Context(), reused, "/x"); !errors.Is(err, errGone) {
		t.Errorf("error %v", err)
	}

	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := p.wait(ctx); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	if !p.Alive() {
		t.Fatal("signalled in the place of another")
	}
	ended := make(chan error)
	go func() { ended <- p.wait(t.Context()) }()
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if p.Alive() { // a zombie, as long as we do not wait
		t.Error("alive after its end")
	}
	cmd.Wait()
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

// A path with an absolute link is followed in the root of the process. Here that is the
// host's, so the test is of the connection through a descriptor, with a path
// longer than an address of a socket may be.
func TestDialInRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 150))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := listenIn(t, dir)
	defer l.Close()
	go answer(l, []byte("(reply)"))
	self, _, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	s := shepherdIn(self, filepath.Join(dir, "nothing"), filepath.Join(dir, "link", "socket"))
	_, _, err = s.Do(t.Context(), "status", "root")
	if err == nil || !strings.Contains(err.Error(), "reply without a result") {
		t.Errorf("error %v", err)
	}
}

// Whatever is mounted or lies below the launcher's directory is not deleted.
func TestRemoveRunDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	empty, full := filepath.Join(dir, "tmp", "guix-directory.1"), filepath.Join(dir, "tmp", "guix-directory.2")
	for _, name := range []string{empty, full, filepath.Join(full, "data")} {
		if err := os.MkdirAll(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeRunDir(dir); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(full, "data")); err != nil {
		t.Error(err)
	}
	os.Remove(filepath.Join(full, "data"))
	if err := removeRunDir(dir); err != nil {
		t.Error(err)
	}
	if err := removeRunDir(dir); err != nil { // again
		t.Error(err)
	}
}

func TestOutcome(t *testing.T) {
	for outcome, code := range map[Outcome]int{NotTried: 3, Refused: 10, Kept: 11, RolledBack: 12, RollbackFailed: 13} {
		if e := (&Error{Outcome: outcome}); e.ExitCode() != code {
			t.Errorf("%v: %d", outcome, e.ExitCode())
		}
	}
}

// What is red is told from what may be better the next time, and from what was decided.
func TestExitCodes(t *testing.T) {
	d := &Deployment{Name: "test", Dir: t.TempDir()}
	ended := &Instance{d: d, Generation: new(Generation), Process: Process{PID: 1 << 30}}
	neverWas := &Instance{d: d, Generation: new(Generation)}
	unreadable := *d
	unreadable.Dir = filepath.Join(t.TempDir(), "file", "below")
	mustWrite(t, filepath.Dir(unreadable.Dir), "")
	_, nothing := d.RollBack(t.Context(), 0, Revision{})
	_, noSuch := d.RollBack(t.Context(), 7, Revision{})
	_, broken := unreadable.RollBack(t.Context(), 7, Revision{})
	_, unconfirmed := d.Promote(t.Context(), Promotion{From: d})
	_, unknown := d.Promote(t.Context(), Promotion{From: &unreadable})
	for _, c := range []struct {
		err  error
		want int
	}{
		{&UnhealthyError{Err: errors.New("status 503")}, 1}, {&ServiceError{}, 1}, {ended.death(), 1}, {neverWas.death(), 3},
		{nothing, 10}, {noSuch, 10}, {broken, 3}, {unconfirmed, 10}, {unknown, 3},
	} {
		var has interface{ ExitCode() int }
		if !errors.As(c.err, &has) || has.ExitCode() != c.want {
			t.Errorf("not %d: %v", c.want, c.err)
		}
	}
}

// The ledger tells what was going to change, and what the probes said.
func TestLedgerTells(t *testing.T) {
	d := testDeployment(t)
	works := script(t, d, "works", "status-works.sexp")
	c, state := closures{}, t.TempDir()
	c[works] = []Item{{"/gnu/store/a-same-1", 10}, {"/gnu/store/a-shepherd-web.scm", 10}}
	d.Closures, d.Shares = c, []Mount{{Name: "state", Source: state, Target: "/state"}}
	mustApply(t, d, works)
	d.Environment.Settings = map[string]string{"A": "1"}
	tries := 0
	d.Probes = Probes{Alive{}, probeFunc(func() error {
		if tries++; tries < 3 {
			return errors.New("not yet\nreally")
		}
		return nil
	})}
	mustApply(t, d, works)
	history, err := d.History()
	if err != nil || len(history) != 4 {
		t.Fatalf("%+v, %v", history, err)
	}
	first := []Line{{Kind: OfMount, Name: "state", New: state + " at /state, writable"}, {Kind: OfService, Name: "web", New: "/gnu/store/a-shepherd-web.scm"}}
	for _, line := range first {
		if p := history[0].Plan; p == nil || p.SameScript || !slices.Contains(p.Lines, line) {
			t.Errorf("plan of the first %+v, want %+v", p, line)
		}
	}
	want := &Difference{SameScript: true, Lines: []Line{{Kind: OfSetting, Name: "A", New: "1"}, {Kind: OfProbe, Name: "process", New: "must pass"}}}
	if diff := cmp.Diff(want, history[2].Plan); diff != "" {
		t.Error(diff)
	}
	got := history[3].Probes
	if len(got) != 2 || got[0].Probe != "process" || got[0].Failures != 0 || got[0].Slowest == 0 {
		t.Fatalf("%+v", got)
	}
	if got[1].Tries != tries || got[1].Failures != 2 || got[1].Last != "not yet" {
		t.Errorf("%+v after %d tries", got, tries)
	}
	other := script(t, d, "works", "status-works.sexp")
	c[other] = []Item{{"/gnu/store/b-same-1", 10}, {"/gnu/store/a-shepherd-web.scm", 10}}
	mustApply(t, d, other)
	all, err := d.History()
	if err != nil || len(all) != 6 {
		t.Fatalf("%+v, %v", all, err)
	}
	want = &Difference{Lines: []Line{{Kind: OfStore, Name: "item", Old: works, New: other}}, Rebuilt: Rebuilt{Packages: 1}}
	if diff := cmp.Diff(want, all[4].Plan); diff != "" {
		t.Error(diff)
	}
	if len(history[2].Probes) != 0 || history[3].Bindings == history[1].Bindings || history[3].Hash == "" {
		t.Errorf("%+v", history)
	}
}
