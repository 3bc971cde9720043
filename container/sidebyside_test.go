package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// besides returns a deployment whose generations follow each other side by side, on two ports, and the
// file to which its hook writes where the traffic goes.
func besides(t *testing.T) (d *Deployment, target string) {
	t.Helper()
	d, target = testDeployment(t), filepath.Join(t.TempDir(), "target")
	setBeside(d, target, guixtest.FreePort(t), guixtest.FreePort(t))
	return d, target
}

func setBeside(d *Deployment, target string, one, two int) {
	d.Probes = Probes{Alive{}} // the stand-ins share one socket
	d.Environment.Ports, d.Environment.Settings = []int{one}, map[string]string{"PORT": fmt.Sprint(one)}
	d.Switch = Switch{Mode: SideBySide,
		Traffic: &Hook{Command: []string{"/bin/sh", "-c",
			`test ! -e "$0.broken" || exit 5; echo "$GUIXCI_GENERATION $GUIXCI_SETTING_PORT" > "$0"`, target}},
		Alternate: Alternate{Ports: []int{two}, Settings: map[string]string{"PORT": fmt.Sprint(two)}}}
}

// checkTraffic checks where the traffic goes.
func checkTraffic(t *testing.T, target string, g *Generation) {
	t.Helper()
	text, err := os.ReadFile(target)
	if want := fmt.Sprintf("%d %d\n", g.Number, g.Environment.Ports[0]); err != nil || string(text) != want {
		t.Errorf("traffic goes to %q, want %q (%v)", text, want, err)
	}
}

// checkBoth checks that one generation is current and another one runs beside it; nil for none.
func checkBoth(t *testing.T, d *Deployment, current, beside *Generation) *Status {
	t.Helper()
	s, err := d.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Running == nil || !s.Confirmed || s.Current.Number != current.Number || (s.Beside == nil) != (beside == nil) ||
		beside != nil && s.Beside.Generation.Number != beside.Number {
		t.Fatalf("status %+v, want %d beside %+v", s, current.Number, beside)
	}
	return s
}

func TestSideBySide(t *testing.T) {
	d, target := besides(t)
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	checkTraffic(t, target, one)
	first := checkBoth(t, d, one, nil).Running

	two := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	checkTraffic(t, target, two)
	s := checkBoth(t, d, two, one)
	if s.Beside.Process != first.Process || two.Environment.Ports[0] == one.Environment.Ports[0] || two.Switched.Gap != 0 {
		t.Errorf("it was not side by side: %+v", two)
	}
	second := s.Running

	// the same again is nothing to do, on whichever port it is
	if g := mustApply(t, d, two.Script); g.Number != two.Number {
		t.Errorf("generation %d", g.Number)
	}

	// back at once: nothing is started
	back, err := d.RollBack(t.Context(), 0, Revision{})
	if err != nil || back.Number != one.Number {
		t.Fatalf("%+v, %v", back, err)
	}
	checkTraffic(t, target, one)
	if s := checkBoth(t, d, one, two); s.Running.Process != first.Process || s.Beside.Process != second.Process {
		t.Error("something was started")
	}

	// the next one takes the place of the one that was kept
	three := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	checkTraffic(t, target, three)
	checkBoth(t, d, three, one)
	checkNothingLeft(t, d, second)

	// back not to what was gone back from, and by name there again
	if back, err = d.RollBack(t.Context(), 0, Revision{}); err != nil || back.Number != one.Number {
		t.Fatalf("%+v, %v", back, err)
	}
	if back, err = d.RollBack(t.Context(), three.Number, Revision{}); err != nil || back.Number != three.Number || back.Withdrawn {
		t.Fatalf("%+v, %v", back, err)
	}
	d.Switch.StopOld = true
	four := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	checkBoth(t, d, four, nil)
	checkNothingLeft(t, d, first)
	events(t, d)
}

// Whatever goes wrong, the old generation has never stopped, and has the traffic.
func TestSideBySideFails(t *testing.T) {
	d, target := besides(t)
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	first := checkBoth(t, d, one, nil).Running
	fails := func(want Outcome, mode string, change func(e *Deployment)) {
		t.Helper()
		e := *d
		change(&e)
		_, err := e.Apply(t.Context(), Revision{Script: script(t, d, mode, "status-works.sexp")})
		wantOutcome(t, err, want)
		if s := checkBoth(t, d, one, nil); s.Running.Process != first.Process {
			t.Error("it was started again")
		}
	}
	fails(Kept, "dies", func(*Deployment) {})
	fails(Kept, "works", func(e *Deployment) {
		e.Probes = Probes{probeFunc(func() error { return errors.New("not well") })}
		e.Schedule.StartPeriod = time.Millisecond
	})
	fails(Kept, "works", func(e *Deployment) { e.Switch.Hooks = []Hook{{Command: []string{"/bin/false"}}} })
	checkTraffic(t, target, one)
	fails(RolledBack, "works", func(e *Deployment) { e.ConfirmBy = 20 * time.Millisecond })
	checkTraffic(t, target, one)
	fails(RollbackFailed, "works", func(e *Deployment) {
		if err := os.WriteFile(target+".broken", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	history, err := d.History()
	if last := history[len(history)-1]; err != nil || last.Event != WasLost || !strings.Contains(last.Detail, "could not be moved back") {
		t.Errorf("ledger %+v, %v", last, err)
	}
}

// The deployer is killed while the new one is tried, after its traffic was moved, and right after
// it has confirmed.
func TestSideBySideKilled(t *testing.T) {
	for _, when := range []string{"tried", "moved", "confirmed", "supervised"} {
		t.Run(when, func(t *testing.T) {
			d, target := besides(t)
			one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			first := checkBoth(t, d, one, nil).Running
			t.Setenv("SIDE", fmt.Sprintf("%d %d %s", d.Environment.Ports[0], d.Switch.Alternate.Ports[0], target))
			killDeployer(t, d, script(t, d, "works", "status-works.sexp"))
			trial, err := d.kept()
			if err != nil || trial == nil || trial.Generation.Number != 2 {
				t.Fatalf("%+v, %v", trial, err)
			}
			switch when {
			case "moved":
				r, err := d.readRecord()
				if err != nil {
					t.Fatal(err)
				}
				r.Beside.Moved = true
				if err := errors.Join(d.writeRecord(r), os.WriteFile(target, []byte("2"), 0o600)); err != nil {
					t.Fatal(err)
				}
			case "confirmed":
				if err := d.point(2); err != nil {
					t.Fatal(err)
				}
			}
			if when == "supervised" {
				supervise(t, d, quickly)
				await(t, func() bool {
					r, err := d.readRecord()
					return err == nil && r.Beside == nil
				})
			} else if _, err := d.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
			if when == "confirmed" {
				if s := checkBoth(t, d, trial.Generation, one); s.Running.Process != trial.Process || s.Beside.Process != first.Process {
					t.Error("something was started")
				}
				return
			}
			if s := checkBoth(t, d, one, nil); s.Running.Process != first.Process {
				t.Error("it was started again")
			}
			checkNothingLeft(t, d, trial)
			checkTraffic(t, target, one)
		})
	}
}

// It is the new generation, which runs beside, that waits to be confirmed; the one that is kept does not.
func TestSideBySideConfirmByHand(t *testing.T) {
	d, target := besides(t)
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	next := script(t, d, "works", "status-works.sexp")
	e := *d
	e.ConfirmBy = time.Minute
	done := make(chan error, 1)
	go func() {
		_, err := e.Apply(t.Context(), Revision{Script: next})
		done <- err
	}()
	await(t, func() bool {
		if current, err := d.Current(); err != nil || current.Number != one.Number {
			t.Fatalf("current before it is confirmed: %+v, %v", current, err)
		}
		return d.Confirm(t.Context()) == nil
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	two, err := d.Current()
	if err != nil || two.Script != next {
		t.Fatalf("%+v, %v", two, err)
	}
	checkTraffic(t, target, two)
	checkBoth(t, d, two, one)
	if err := d.Confirm(t.Context()); err == nil || !strings.Contains(err.Error(), "generation 2 does not wait") {
		t.Errorf("error %v", err)
	}

	// So does the one that was kept, when it is returned to.
	go func() {
		_, err := e.Apply(t.Context(), Revision{Script: one.Script})
		done <- err
	}()
	await(t, func() bool { return d.Confirm(t.Context()) == nil })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	checkTraffic(t, target, one)
	checkBoth(t, d, one, two)
}

// A clinging runner does not let go of its units, as the kernel may not of a process that waits for a disk.
type clinging struct {
	Supervisor
	to func(u Unit) bool
}

var errClings = errors.New("it does not go")

func (c *clinging) Stop(ctx context.Context, u Unit) error {
	if c.to(u) {
		return errClings
	}
	return c.Supervisor.Stop(ctx, u)
}

// cling has the runner of a deployment cling to a generation until let go.
func cling(d *Deployment, number int) (letGo func()) {
	held := &Instance{Generation: &Generation{Number: number}, d: d}
	c := &clinging{to: func(u Unit) bool { return u.Dir == held.runDir() }}
	d.Runners, d.Environment.Runner = map[string]Runner{"clinging": c}, "clinging"
	return func() { c.to = func(Unit) bool { return false } }
}

// What runs beside and cannot be stopped is not forgotten, and cleared away as soon as that can be done.
func TestSideBySideClings(t *testing.T) {
	for which, c := range map[string]struct {
		number int // what cannot be stopped
		want   Outcome
		change func(t *testing.T, d *Deployment) (mode string)
	}{
		"kept": {1, Kept, func(t *testing.T, d *Deployment) string {
			mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			return "works"
		}},
		"not started": {2, Kept, func(*testing.T, *Deployment) string { return "dies" }},
		"unwell": {2, Kept, func(_ *testing.T, d *Deployment) string {
			d.Probes, d.Schedule.StartPeriod = Probes{probeFunc(func() error { return errors.New("not well") })}, time.Millisecond
			return "works"
		}},
		"not confirmed": {2, RolledBack, func(_ *testing.T, d *Deployment) string {
			d.ConfirmBy = 20 * time.Millisecond
			return "works"
		}},
	} {
		t.Run(which, func(t *testing.T) {
			d, _ := besides(t)
			d.Switch.Drain = time.Millisecond
			letGo := cling(d, c.number)
			mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			e := *d
			mode := c.change(t, &e)
			live, err := d.Running()
			if err != nil {
				t.Fatal(err)
			}
			_, err = e.Apply(t.Context(), Revision{Script: script(t, d, mode, "status-works.sexp")})
			wantOutcome(t, err, c.want)
			if !errors.Is(err, errClings) {
				t.Errorf("error %v", err)
			}
			r, err := d.readRecord()
			if err != nil || r.Beside == nil || r.Beside.Generation != c.number {
				t.Fatalf("what cannot be stopped is forgotten: %+v, %v", r, err)
			}
			if _, err := d.Start(t.Context()); !errors.Is(err, errClings) {
				t.Errorf("error %v", err)
			}
			g, err := d.Generation(c.number)
			if err != nil {
				t.Fatal(err)
			}
			haunt(t, groupsNamed((&Instance{Generation: g, d: d}).unit().Name))
			letGo()
			if in, err := d.Start(t.Context()); err != nil || in.Process != live.Process {
				t.Errorf("%+v, %v", in, err)
			}
			checkBoth(t, d, live.Generation, nil)
			checkNothingLeft(t, d, &Instance{Generation: g, d: d})
		})
	}
}

// haunt puts a process into control groups, as a slow machine has one there for a moment after it was killed.
func haunt(t *testing.T, groups []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait() // it ends with the group or with the test
	for _, dir := range groups {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing is started in the place of a generation that has failed and cannot be stopped.
func TestReplaceClings(t *testing.T) {
	d := testDeployment(t)
	letGo := cling(d, 2)
	old := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	e := *d
	e.Probes, e.Schedule.StartPeriod = Probes{probeFunc(func() error { return errors.New("not well") })}, time.Millisecond
	_, err := e.Apply(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
	if failed := wantOutcome(t, err, RollbackFailed); !errors.Is(failed.Rollback, errClings) {
		t.Errorf("error %v", err)
	}
	r, err := d.readRecord()
	if err != nil || r == nil || r.Generation != 2 || r.Previous != 1 {
		t.Fatalf("what cannot be stopped is forgotten: %+v, %v", r, err)
	}
	if _, err := d.Start(t.Context()); !errors.Is(err, errClings) {
		t.Errorf("error %v", err)
	}
	letGo()
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRuns(t, d, old)
	checkNothingLeft(t, d, &Instance{Generation: &Generation{Number: 2}, d: d})

	// Neither is what does not come up when it is started by hand.
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	letGo = cling(d, 1)
	if err := os.WriteFile(old.Script, []byte("#!/bin/sh\n: --pid-file\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context()); !errors.Is(err, errClings) {
		t.Errorf("error %v", err)
	}
	if r, err := d.readRecord(); err != nil || r == nil || r.Generation != 1 {
		t.Errorf("what cannot be stopped is forgotten: %+v, %v", r, err)
	}
	letGo()
}

// A supervisor that is asked to end leaves neither of both running.
func TestSideBySideSupervised(t *testing.T) {
	d, _ := besides(t)
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	two := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	s := checkBoth(t, d, two, one)
	supervisor := supervise(t, d, quickly)
	await(t, func() bool {
		held, err := d.Supervised()
		return err == nil && held
	})
	supervisor.stop()
	if err := supervisor.wait(); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d, s.Running)
	checkNothingLeft(t, d, s.Beside)
}

func TestSideBySidePreflight(t *testing.T) {
	d, _ := besides(t)
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	dir := t.TempDir()
	current, err := d.Current()
	if err != nil {
		t.Fatal(err)
	}
	current.Shares = []Mount{{Name: "state", Source: dir, Target: "/srv"}}
	network := Network{freeAddress(t), freeAddress(t)}
	if err := d.writeGeneration(current); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(e *Deployment)
		says   string
	}{
		{func(e *Deployment) {}, ""},
		{func(e *Deployment) { e.Switch.Alternate.Ports = nil }, "side by side takes ports"},
		{func(e *Deployment) { e.Switch.Alternate.Ports = e.Environment.Ports }, "cannot be the other port of itself"},
		{func(e *Deployment) { e.Switch.Alternate.Settings = map[string]string{"NEW": "1"} }, `setting "NEW" needs a value`},
		{func(e *Deployment) { e.Switch.Snapshot = []string{"state"} }, "the old generation goes on"},
		{func(e *Deployment) { e.Switch.Alternate.Address = freeAddress(t) }, "is for a container with a network of its own"},
		{func(e *Deployment) { e.Environment.Network = network }, "side by side with a network takes"},
		{func(e *Deployment) {
			e.Environment.Network, e.Switch.Alternate.Address = network, network.Address
		}, "cannot be the other one of"},
		{func(e *Deployment) {
			e.Environment.Network, e.Switch.Alternate = network, Alternate{Address: freeAddress(t)}
		}, ""},
		{func(e *Deployment) { e.Environment.Network.Gateway = network.Gateway }, "an address and another one of the same kind"},
		{func(e *Deployment) { // it would be started again without a wire
			e.Environment.Network, e.Environment.Runner, e.Switch = network, "other", Switch{}
			e.Runners = map[string]Runner{"other": new(Supervisor)}
		}, `runner "other" may start the container by itself`},
		{func(e *Deployment) { e.Shares = []Mount{{Name: "state", Source: dir, Target: "/srv"}} }, "at the same time"},
		{func(e *Deployment) {
			e.Shares = []Mount{{Name: "state", Source: dir, Target: "/srv", Concurrent: true}}
		}, ""},
	} {
		e := *d
		c.change(&e)
		p, err := e.Plan(t.Context(), Revision{Script: script(t, d, "works", "status-works.sexp")})
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(p.Refusals)
		if c.says == "" && len(p.Refusals) > 0 || !strings.Contains(text, c.says) {
			t.Errorf("want %q: %s", c.says, text)
		}
	}
}

// Somebody is connected even if nobody has accepted it.
func TestConnected(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
			t.Logf("this machine has no %s", address)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		want := func(want bool) {
			t.Helper()
			if got, err := connected([]int{1, port}); got != want || err != nil {
				t.Errorf("%s: connected %v, %v", address, got, err)
			}
		}
		want(false)
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		want(true)
		other, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		io.ReadAll(other) // it has said all
		want(true)
		other.Close()
		want(false)
	}
}

// A queue is a server that has room for hardly anybody, and one client that it has no room for.
type queue struct {
	net.Listener
	clients errgroup.Group
}

// startQueue returns once a client knocks in vain: what it asks for is dropped by the kernel, and nothing of the
// server's tells of it.
func startQueue(t *testing.T, port int) *queue {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	err = cmp.Or(unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0))
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "queue")
	defer f.Close()
	q := new(queue)
	if q.Listener, err = net.FileListener(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	ask := func() {
		q.clients.Go(func() error {
			conn, err := net.Dial("tcp", q.Addr().String())
			if err != nil {
				return err
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "?!"); err != nil {
				return err
			}
			_, err = io.ReadFull(conn, make([]byte, 2))
			return err
		})
	}
	awaitSocket := func(what string, is func(s *netlink.Socket) bool) {
		t.Helper()
		eventually(t, func() error {
			all, err := sockets()
			if !slices.ContainsFunc(all, is) {
				return fmt.Errorf("nobody %s (%v)", what, err)
			}
			return nil
		})
	}
	ask()
	awaitSocket("waits", func(s *netlink.Socket) bool { // now there is no room: of three at a time all might get in
		return s.State == unix.BPF_TCP_ESTABLISHED && int(s.ID.SourcePort) == port
	})
	ask()
	ask()
	awaitSocket("knocks", func(s *netlink.Socket) bool {
		return s.State == unix.BPF_TCP_SYN_SENT && int(s.ID.DestinationPort) == port
	})
	return q
}

func say(conn net.Conn) {
	io.ReadFull(conn, make([]byte, 2))
	io.WriteString(conn, "ok")
	conn.Close()
}

// serveAll answers everybody, one after another, and returns what a client has not got.
func (q *queue) serveAll(t *testing.T) error {
	var saying sync.Mutex
	go func() { // ends with the listener
		for {
			conn, err := q.Accept()
			if err != nil {
				return
			}
			saying.Lock()
			say(conn)
			saying.Unlock()
		}
	}()
	err := q.clients.Wait()
	saying.Lock() // who has the answer may be gone before its connection is closed here
	defer saying.Unlock()
	return err
}

// Those that the server has no room for are clients, too, and have asked before the traffic was moved.
func TestConnectedKnocking(t *testing.T) {
	q := startQueue(t, guixtest.FreePort(t))
	port := q.Addr().(*net.TCPAddr).Port
	for range 2 { // one that is accepted makes room for one that knocks
		conn, err := q.Accept()
		if err != nil {
			t.Fatal(err)
		}
		say(conn)
		if some, err := connected([]int{port}); !some || err != nil {
			t.Errorf("connected %v, %v", some, err)
		}
	}
	if err := q.serveAll(t); err != nil {
		t.Error(err)
	}
	if some, err := connected([]int{port}); some || err != nil {
		t.Errorf("connected %v, %v", some, err)
	}
}

// What is said to somebody who waits for a message of the log.
type heard struct {
	slog.Handler
	what string
	once func()
}

func (h heard) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == h.what {
		h.once()
	}
	return h.Handler.Handle(ctx, r)
}

func (h heard) WithAttrs(all []slog.Attr) slog.Handler {
	return heard{h.Handler.WithAttrs(all), h.what, h.once}
}

// Whoever has asked a generation gets an answer before it is stopped: the old one that is stopped at once,
// the one that was kept, and the new one that is taken back.
func TestSideBySideDrains(t *testing.T) {
	for _, which := range []string{"old", "kept", "taken back"} {
		t.Run(which, func(t *testing.T) {
			d, _ := besides(t)
			waits := make(chan struct{})
			d.Logger = slog.New(heard{d.Logger.Handler(), waitsForClients, sync.OnceFunc(func() { close(waits) })})
			d.Switch.StopOld = which == "old"
			mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			asked := d.Environment.Ports[0]
			switch which {
			case "kept":
				mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			case "taken back":
				asked, d.ConfirmBy = d.Switch.Alternate.Ports[0], 100*time.Millisecond
			}
			var q *queue
			stopping := d.atPort(t, asked)
			comesUp, queued := make(chan struct{}), make(chan struct{})
			if stopping == nil { // it has yet to be started, and its port must be free then
				d.Probes = append(d.Probes, probeFunc(sync.OnceValue(func() error {
					close(comesUp)
					select {
					case <-queued:
					case <-t.Context().Done():
					}
					return nil
				})))
			} else {
				q = startQueue(t, asked)
			}
			next, done, outcome := script(t, d, "works", "status-works.sexp"), make(chan struct{}), error(nil)
			go func() {
				defer close(done)
				_, outcome = d.Apply(t.Context(), Revision{Script: next})
			}()
			t.Cleanup(func() { <-done })
			until := func(what chan struct{}) {
				t.Helper()
				select {
				case <-what:
				case <-done:
					t.Fatalf("it has ended before: %v", outcome)
				}
			}
			if stopping == nil {
				until(comesUp)
				stopping, q = d.atPort(t, asked), startQueue(t, asked)
				close(queued)
			}
			until(waits)
			if !stopping.Alive() {
				t.Error("it was stopped while somebody waited for its answer")
			}
			if err := q.serveAll(t); err != nil {
				t.Error(err)
			}
			<-done
			if stopping.Alive() {
				t.Error("it was not stopped")
			}
			if which == "taken back" {
				wantOutcome(t, outcome, RolledBack)
			} else if outcome != nil {
				t.Error(outcome)
			}
		})
	}
}

// atPort returns what listens on a port, according to its environment; nil for nothing.
func (d *Deployment) atPort(t *testing.T, port int) *Instance {
	t.Helper()
	in, err := d.Running()
	if err != nil {
		t.Fatal(err)
	}
	beside, err := d.kept()
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []*Instance{in, beside} {
		if in != nil && slices.Contains(in.Generation.Environment.Ports, port) {
			return in
		}
	}
	return nil
}

// A drain that is interrupted leaves the old generation running. Who looks after the deployment next stops it, if it was
// to be stopped at once.
func TestSideBySideDrainInterrupted(t *testing.T) {
	for _, next := range []string{"start", "supervise"} {
		t.Run(next, func(t *testing.T) {
			d, _ := besides(t)
			ctx, cancel := context.WithCancel(t.Context())
			d.Logger = slog.New(heard{d.Logger.Handler(), waitsForClients, cancel})
			d.Switch.StopOld = true
			one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			q := startQueue(t, d.Environment.Ports[0])
			two, err := d.Apply(ctx, Revision{Script: script(t, d, "works", "status-works.sexp")})
			if err != nil {
				t.Fatal(err)
			}
			old := checkBoth(t, d, two, one).Beside
			if err := q.serveAll(t); err != nil {
				t.Error(err)
			}
			if next == "start" {
				if _, err := d.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else {
				supervise(t, d, quickly)
				await(t, func() bool { r, err := d.readRecord(); return err == nil && r.Beside == nil })
			}
			checkBoth(t, d, two, nil)
			checkNothingLeft(t, d, old)
		})
	}
}

// Nobody has been busy for a while, and not only when it was looked.
func TestAwaitQuiet(t *testing.T) {
	for _, c := range []struct {
		since time.Duration // ago
		busy  []int         // the looks, 20 a second, that find somebody
		want  time.Duration
	}{
		{since: quiet},
		{since: time.Hour},
		{since: quiet - 100*time.Millisecond, want: 100 * time.Millisecond},
		{since: 0, want: quiet},
		{since: -time.Hour, want: quiet},
		{since: time.Hour, busy: []int{0}, want: quiet},
		{since: 0, busy: []int{20}, want: time.Second + quiet},
		{since: 0, busy: []int{20, 40}, want: 2*time.Second + quiet},
	} {
		synctest.Test(t, func(t *testing.T) {
			begin, look := time.Now(), -1
			awaitQuiet(t.Context(), begin.Add(-c.since), func() bool { look++; return slices.Contains(c.busy, look) })
			if took := time.Since(begin); took != c.want {
				t.Errorf("%+v: waited %v", c, took)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		awaitQuiet(ctx, time.Time{}, func() bool { return true })
		if ctx.Err() == nil {
			t.Error("it has not waited")
		}
	})
}

func TestReadSideBySide(t *testing.T) {
	read := func(field string) (*Deployment, error) {
		file, err := ReadFile("d.scm", strings.NewReader("(deployment (script \"/s\") (environment \"a\"\n "+field+"))"))
		if err != nil {
			return nil, err
		}
		return file.Environment("a")
	}
	d, err := read(`(side-by-side (move-traffic "/bin/move" "now" (timeout "5s")) (ports 81)
  (address "10.77.0.3") (settings (PORT "81")) (drain "1m") (stop-old? #t))`)
	if err != nil {
		t.Fatal(err)
	}
	want := Switch{Mode: SideBySide, Traffic: &Hook{Command: []string{"/bin/move", "now"}, Timeout: 5 * time.Second},
		Alternate: Alternate{Ports: []int{81}, Address: netip.MustParseAddr("10.77.0.3"), Settings: map[string]string{"PORT": "81"}},
		Drain:     time.Minute, StopOld: true}
	if diff := gocmp.Diff(want, d.Switch, sameAddress); diff != "" {
		t.Error(diff)
	}
	if _, err := read(`(side-by-side (ports 81))`); err == nil || err.Error() != "d.scm:2:2: side-by-side: has no hook move-traffic" {
		t.Errorf("error %v", err)
	}
}
