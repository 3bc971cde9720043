package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A herd is a shepherd whose service web requires store, and that db: one of its commands is never done.
type herd struct {
	as        string // the status of the service of never, meanwhile
	complains bool   // when it stops something, which it does

	mu     sync.Mutex // guards what follows
	never  string     // such as "start db"
	hangs  bool       // it has come to that
	knew   bool       // it had when it was asked for the status
	status map[string]string
}

// serve answers in the place of the shepherd that listens to a socket.
func (h *herd) serve(t *testing.T, socket string) {
	t.Helper()
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	h.status = map[string]string{"web": "running", "store": "running", "db": "running", "other": "running"}
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			clients.Go(func() {
				defer conn.Close()
				h.answer(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); clients.Wait() })
}

func (h *herd) answer(conn net.Conn) {
	command, err := sexp.NewReader(conn).Next()
	if err != nil {
		return
	}
	action, _ := sexp.Field(command, "action")
	service, _ := sexp.Field(command, "service")
	name := service.String()
	if h.isNeverDone(fmt.Sprint(action, " ", service), name) {
		io.Copy(io.Discard, conn) // until the client has enough
		return
	}
	result := "()"
	switch action.String() {
	case "status":
		result = "((" + h.services() + "))"
	case "stop":
		for _, with := range []string{"web", "store", name} {
			h.set(with, "stopped")
		}
		if h.complains {
			fmt.Fprint(conn, "(reply (version 0) (result #f) (error (error (version 0) action-exception stop db system-error ())) (messages ()))")
			return
		}
	case "start":
		h.set(name, "running")
		result = "(service (version 0))"
	}
	fmt.Fprintf(conn, "(reply (version 0) (result %s) (error #f) (messages ()))", result)
}

func (h *herd) isNeverDone(command, service string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if command != h.never {
		return false
	}
	h.hangs, h.status[service] = true, h.as
	return true
}

// hung reports whether it was not done with the command already when it was asked for its status last.
func (h *herd) hung() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.knew
}

func (h *herd) set(service, status string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status[service] = status
}

func (h *herd) services() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.knew = h.hangs
	var all strings.Builder
	for name, status := range h.status {
		requires := map[string]string{"web": "store", "store": "db"}[name]
		fmt.Fprintf(&all, `(service (version 0) (provides (%s)) (requires (%s)) (enabled? #t) (status %s) (recent-messages ((1795378823 . "%[1]s says why"))))`,
			name, requires, status)
	}
	return all.String()
}

// Shepherd answers when a service is started, or stopped, and that may be never: others get their turn all the same, and it is
// said what is not done.
func TestRestartIsLimited(t *testing.T) {
	for _, c := range []struct {
		never, as string
		says      []string // none if it is well
	}{
		{"start db", "starting", []string{"service db is still starting after LIMIT; its last messages:\n  db says why", "service store is stopped", "service web is stopped"}},
		{"start web", "starting", []string{"service web is still starting after LIMIT"}},
		{"start store", "starting", []string{"service store is still starting after LIMIT", "service web is stopped"}},
		{"start web", "running", nil}, // in the last moment
		{"stop db", "stopping", []string{"service db is still stopping after LIMIT"}},
		{"start nothing", "", nil},
	} {
		t.Run(c.never+" "+c.as, func(t *testing.T) {
			d := testDeployment(t)
			g := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
			// What comes before takes some of the time, too, and only the machine knows how much.
			limit := 50 * time.Millisecond
			h, err := restartWithin(t, d, g, limit, c.never, c.as)
			for ; !h.hung() && c.as != "" && limit < time.Minute; h, err = restartWithin(t, d, g, limit, c.never, c.as) {
				limit *= 4
			}
			var guilty *ServiceError
			if errors.As(err, &guilty) != (c.says != nil) || (err == nil) != (c.says == nil) {
				t.Fatalf("error %v", err)
			}
			text := fmt.Sprint(err)
			for _, says := range c.says {
				if says = strings.ReplaceAll(says, "LIMIT", limit.String()); !strings.Contains(text, says) {
					t.Errorf("%q does not say %q", text, says)
				}
			}
			if n := strings.Count(text, "service "); n != len(c.says) {
				t.Errorf("%q speaks of %d services", text, n)
			}
			if holder, err := d.Holder(); holder != nil || err != nil {
				t.Errorf("the lease is held: %v, %v", holder, err)
			}
			if all := events(t, d); all[len(all)-1] != WasRestarted {
				t.Errorf("ledger %v", all)
			}
		})
	}
}

// restartWithin restarts the service db by a herd that is never done with a command, as long as that may take.
func restartWithin(t *testing.T, d *Deployment, g *Generation, limit time.Duration, never, as string) (*herd, error) {
	t.Helper()
	g.Schedule.StartPeriod, g.Handling.StopTimeout = time.Hour, time.Hour
	switch action, _, _ := strings.Cut(never, " "); {
	case as == "": // there is no such command
	case action == "stop":
		g.Handling.StopTimeout = limit
	default:
		g.Schedule.StartPeriod = limit
	}
	if err := d.writeGeneration(g); err != nil {
		t.Fatal(err)
	}
	h := &herd{never: never, as: as}
	h.serve(t, d.socket)
	return h, d.RestartService(t.Context(), "db")
}

// A secret in a directory that others may write to is refused to what is new; what ran before goes on.
func TestRestartTrustsSecrets(t *testing.T) {
	d := testDeployment(t)
	secret := writeSecret(t, "x", 0o600)
	d.Environment.Secrets = []Secret{{Name: "token", File: secret}}
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(secret), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, d, script(t, d, "works", "status-works.sexp"), "environment", "could put another file in its place")
}

// Retention has no part in why a revision was rejected; the time it had does.
func TestRejectedForTime(t *testing.T) {
	d := testDeployment(t)
	g := d.generation(Revision{Script: "/gnu/store/run-container"})
	d.Keep, d.MinFree, d.MayFetch = Retention{Last: 7}, 1<<30, []string{"code"}
	if other := d.generation(Revision{Script: g.Script}); !g.timed().sameWay(other.timed()) || g.sameWay(other) {
		t.Error("retention counts for a rejection, or not for how it is handled")
	}
	d.StartTimeout = time.Hour
	if other := d.generation(Revision{Script: g.Script}); g.timed().sameWay(other.timed()) {
		t.Error("the time to start does not count")
	}
}

// Pinning a generation does not hide that a deployment was cut off.
func TestPinEndsTheInterrupted(t *testing.T) {
	d := testDeployment(t)
	g := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	if err := d.enter(Entry{Event: Began, Generation: 2}); err != nil {
		t.Fatal(err)
	}
	if err := d.Pin(g.Number, true); err != nil {
		t.Fatal(err)
	}
	if all := events(t, d); !slices.Equal(all, []Event{Began, Confirmed, Began, WasCutOff, WasPinned}) {
		t.Errorf("ledger %v", all)
	}
}

// A service whose stop goes wrong may have been stopped all the same, and others with it: they do not stay so.
func TestRestartAfterBadStop(t *testing.T) {
	d := testDeployment(t)
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	h := &herd{complains: true}
	h.serve(t, d.socket)
	h.set("other", "stopped")
	err := d.RestartService(t.Context(), "db")
	var complaint *CommandError
	if !errors.As(err, &complaint) || complaint.Action != "stop" {
		t.Errorf("error %v", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if diff := cmp.Diff(map[string]string{"web": "running", "store": "running", "db": "running", "other": "stopped"}, h.status); diff != "" {
		t.Error(diff)
	}
}

// Who restarts a service is killed, or has to end, when it has been stopped, and one that requires it not been started yet: it is
// by whoever comes next.
func TestKilledRestart(t *testing.T) {
	for _, next := range []string{"start", "start after its context", "restart", "supervise"} {
		t.Run(next, func(t *testing.T) {
			d := testDeployment(t)
			in := checkRuns(t, d, mustApply(t, d, script(t, d, "works", "status-works.sexp")))
			h := &herd{never: "start store", as: "stopped"}
			h.serve(t, d.socket)
			h.set("other", "stopped")
			want := []Event{Began, Confirmed, WasRestarted}
			var end func()
			if next == "start after its context" {
				want = append(want, WasRestarted)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- d.RestartService(ctx, "db") }()
				end = func() {
					cancel()
					if err := <-ended; !errors.Is(err, context.Canceled) {
						t.Errorf("error %v", err)
					}
				}
			} else {
				restarter := standIn(t.Context(), d, "restarter", "SERVICE=db")
				if err := restarter.Start(); err != nil {
					t.Fatal(err)
				}
				end = func() {
					restarter.Process.Kill()
					restarter.Wait()
				}
			}
			is := func(db, store, web string) bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.status["db"] == db && h.status["store"] == store && h.status["web"] == web
			}
			await(t, func() bool { return is("running", "stopped", "stopped") })
			end()
			h.mu.Lock()
			h.never = ""
			h.mu.Unlock()
			switch next {
			case "start", "start after its context":
				if _, err := d.Start(t.Context()); err != nil {
					t.Error(err)
				}
			case "restart":
				if err := d.RestartService(t.Context(), "db"); err != nil {
					t.Error(err)
				}
				want = append(want, WasRestarted)
			case "supervise":
				supervise(t, d, quickly)
				await(t, func() bool { return is("running", "running", "running") && len(events(t, d)) == len(want) })
			}
			if !is("running", "running", "running") || h.status["other"] != "stopped" {
				t.Errorf("services %v", h.status)
			}
			found := slices.Index(want, WasRestarted)
			if next == "start after its context" {
				found++ // the first is of who had to end
			}
			history, err := d.History()
			if err != nil || !slices.Equal(events(t, d), want) || !strings.HasPrefix(history[found].Detail, "store, web, found stopped") {
				t.Errorf("%+v, %v", history, err)
			}
			if _, err := os.Stat(in.restartingFile()); err == nil {
				t.Error("it is restarted for ever")
			}
		})
	}
}
