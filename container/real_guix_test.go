package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/google/go-cmp/cmp"
)

// realScripts are run-container scripts of the system of testdata/sample-system.scm.
type realScripts struct {
	port     string
	one, two string // work, and answer "one" and "two"
	fails    string // has a service "broken" that does not come up
	dies     string // has one that comes up and dies, again and again
}

// guixClosures asks the machine's guix-daemon.
type guixClosures struct{}

var usualDaemon store.Pool

func (guixClosures) Closure(ctx context.Context, item string) (items []Item, err error) {
	err = usualDaemon.Do(ctx, func(c *store.Client) error {
		paths, err := c.Closure(ctx, store.StorePath(item))
		for _, path := range paths {
			info, e := c.PathInfo(ctx, path)
			if e != nil {
				return e
			}
			items = append(items, Item{Path: string(path), Size: info.NarSize})
		}
		return err
	})
	return items, err
}

// boxMounts are what the stand-ins of the box's store link to.
func boxMounts() []Mount {
	var mounts []Mount
	for _, dir := range guixbox.Exposed() {
		mounts = append(mounts, Mount{Source: dir})
	}
	return mounts
}

func TestRealContainer(t *testing.T) {
	guixtest.Require(t)
	port := strconv.Itoa(guixtest.FreePort(t))
	built := samples(t)
	testRealContainer(t, realScripts{port: port, one: built["one"], two: built["two"], fails: built["fails"], dies: built["dies"]})
}

// An awaited is a writer that calls found each time it is given a text.
type awaited struct {
	text  bytes.Buffer
	what  string
	found func()
}

func (a *awaited) Write(p []byte) (int, error) {
	a.text.Write(p)
	if bytes.Contains(p, []byte(a.what)) {
		a.found()
	}
	return len(p), nil
}

func testRealContainer(t *testing.T, scripts realScripts) {
	state := t.TempDir()
	var log bytes.Buffer
	d := &Deployment{
		Name: "sample", Dir: t.TempDir(),
		Shares:  []Mount{{Source: state, Target: "/srv/state"}},
		Exposes: boxMounts(),
		Environment: Environment{Settings: map[string]string{"PORT": scripts.port},
			Secrets: []Secret{{Name: "key", File: writeSecret(t, "secret", 0o600), UID: 65534, GID: 65534}}},
		Probes: Probes{Alive{}, AllServices{},
			HTTP{URL: "http://127.0.0.1:" + scripts.port + "/"}},
		Schedule:    Schedule{StartPeriod: plenty, Interval: 200 * time.Millisecond, Window: time.Second},
		StopTimeout: plenty,
		Logger:      slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	ctx := t.Context()
	t.Cleanup(func() {
		if err := d.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})

	apply := func(script string) (*Generation, error) {
		return d.Apply(ctx, Revision{Script: script, Lock: "0123", Who: "test", Why: t.Name()})
	}
	serves := func(t *testing.T, want string) {
		t.Helper()
		p := HTTP{URL: "http://127.0.0.1:" + scripts.port + "/", Contains: want}
		if _, err := p.Check(ctx, nil, nil); err != nil {
			t.Errorf("the service: %v", err)
		}
	}

	t.Run("deploy", func(t *testing.T) {
		g, err := apply(scripts.one)
		if err != nil {
			t.Fatal(err)
		}
		if g.Number != 1 || g.Started.IsZero() {
			t.Errorf("generation %+v", g)
		}
		serves(t, "one")
	})

	// Its garbage collector has no thread of its own, and does nothing: see launcherEnvironment.
	t.Run("launcher", func(t *testing.T) {
		in, err := d.Running()
		if err != nil {
			t.Fatal(err)
		}
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", in.Launcher.PID))
		if err != nil || len(threads) == 0 {
			t.Errorf("threads %v, %v", threads, err)
		}
		for _, name := range threads {
			if text := readFile(t, name); bytes.HasPrefix(text, []byte("GC-marker")) {
				t.Errorf("the launcher has a thread %s", text)
			}
		}
		environment := readFile(t, fmt.Sprintf("/proc/%d/environ", in.Launcher.PID))
		const allocate = "(let loop ((i 0)) (when (< i 100) (make-bytevector 1000000) (loop (+ i 1)))) (display (assq-ref (gc-stats) 'gc-times))"
		guile := exec.Command(in.launcher()[0], "-c", "(use-modules (rnrs bytevectors)) "+allocate)
		guile.Env = strings.Split(string(bytes.TrimRight(environment, "\x00")), "\x00")
		if times, err := guile.Output(); err != nil || string(times) != "0" {
			t.Errorf("garbage was collected %q times, %v", times, err)
		}
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		blocked := exec.CommandContext(limited, "env", "--block-signal=USR2", in.launcher()[0], "-l", in.preludeFile(), "-c", "(display (car (sigaction SIGUSR2)))")
		blocked.Env = guile.Env
		if handler, err := blocked.Output(); err != nil || string(handler) != "0" {
			t.Errorf("where SIGUSR2 is blocked: handler %q, %v", handler, err)
		}
	})

	t.Run("status", func(t *testing.T) {
		s, err := d.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.Running == nil || !s.Confirmed || s.Holder != nil || s.Trouble != nil {
			t.Fatalf("status %+v", s)
		}
		for _, name := range []string{"root", "web", "counter"} {
			if service, ok := find(s.Services, name); !ok || service.Status != "running" {
				t.Errorf("service %s: %+v", name, service)
			}
		}
		if setup, _ := find(s.Services, "setup"); !setup.OneShot || setup.problem(s.Services) != "" {
			t.Errorf("one-shot service: %+v", setup)
		}
	})

	t.Run("exec keeps the status", func(t *testing.T) {
		var out bytes.Buffer
		status, err := d.Exec(ctx, Stdio{Out: &out, Err: &out}, "/bin/sh", "-c", "read x < /proc/1/cmdline; echo $$; hostname; exit 42")
		if err != nil || status != 42 {
			t.Errorf("status %d, error %v; %s", status, err, out.String())
		}
		if status, err := d.Exec(ctx, Stdio{}, "no-such-command"); err != nil || status != 127 {
			t.Errorf("status %d, error %v", status, err)
		}
	})

	t.Run("environment", func(t *testing.T) {
		var out bytes.Buffer
		status, err := d.Exec(ctx, Stdio{Out: &out, Err: &out}, "/bin/sh", "-c",
			". /etc/guixci/settings; echo $PORT; read key < /etc/guixci/secrets/key; echo $key; echo > /etc/guixci/new")
		if text := out.String(); err != nil || status == 0 || !strings.HasPrefix(text, scripts.port+"\nsecret\n") || !strings.Contains(text, "Read-only") {
			t.Errorf("status %d, error %v; %s", status, err, text)
		}
	})

	t.Run("accounts are numbered as foreseen", func(t *testing.T) {
		in, err := d.Running()
		if err != nil {
			t.Fatal(err)
		}
		system, err := ReadSystem(ctx, guixClosures{}, scripts.one)
		if err != nil {
			t.Fatal(err)
		}
		users, groups, err := accountsOf(in.Process)
		if err != nil || len(users) < 2 || len(groups) < 10 {
			t.Fatalf("%v, %v, %v", users, groups, err)
		}
		if diff := cmp.Diff(users, system.Users); diff != "" {
			t.Errorf("users (-container +foreseen):\n%s", diff)
		}
		if diff := cmp.Diff(groups, system.Groups); diff != "" {
			t.Errorf("groups (-container +foreseen):\n%s", diff)
		}
		if !slices.Contains(system.Services, "web") {
			t.Errorf("services %q", system.Services)
		}
	})

	t.Run("doctor", func(t *testing.T) {
		in, err := d.Running()
		if err != nil {
			t.Fatal(err)
		}
		found := Doctor()
		if !slices.ContainsFunc(found, func(f Finding) bool {
			return f.Launcher == in.Launcher.PID && f.Process == in.Process.PID && f.Script == scripts.one
		}) {
			t.Errorf("somebody's container is not found: %+v", found)
		}
	})

	t.Run("logs follow a service", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(ctx, plenty)
		defer cancel()
		lines := &awaited{what: "counter is counting"}
		lines.found = func() {
			if lines.found = cancel; strings.Count(lines.text.String(), lines.what) == 1 {
				if err := d.RestartService(ctx, "counter"); err != nil {
					t.Error(err)
				}
			}
		}
		if err := d.Logs(ctx, lines, "counter", true); err != nil {
			t.Error(err)
		}
		if strings.Count(lines.text.String(), lines.what) != 2 {
			t.Errorf("followed %q", &lines.text)
		}
	})

	t.Run("again is nothing to do", func(t *testing.T) {
		before, err := d.Running()
		if err != nil {
			t.Fatal(err)
		}
		g, err := apply(scripts.one)
		if err != nil || g.Number != 1 {
			t.Errorf("%+v, %v", g, err)
		}
		if after, err := d.Running(); err != nil || after.Process != before.Process {
			t.Errorf("another container runs: %v", err)
		}
	})

	t.Run("upgrade", func(t *testing.T) {
		if _, err := apply(scripts.two); err != nil {
			t.Fatal(err)
		}
		serves(t, "two")
	})

	failing := func(script, why string) func(t *testing.T) {
		return func(t *testing.T) {
			d := *d
			d.Probes = append(Probes{eventual(isBrokenOnly)}, d.Probes...)
			d.Schedule.StartPeriod, d.Schedule.Timeout, d.Schedule.Window = 1, plenty, time.Hour
			rev := Revision{Script: script}
			_, err := d.Apply(ctx, rev)
			var e *Error
			if !errors.As(err, &e) || e.Outcome != RolledBack {
				t.Fatalf("error %v", err)
			}
			t.Log(err)
			var guilty *ServiceError
			if !errors.As(err, &guilty) || guilty.Service.Name() != "broken" {
				t.Errorf("not said to be the service broken: %v", err)
			}
			if !strings.Contains(err.Error(), why) {
				t.Errorf("does not say %q: %v", why, err)
			}
			serves(t, "two")
			if current, err := d.Current(); err != nil || current.Script != scripts.two {
				t.Errorf("current %+v, %v", current, err)
			}
			_, err = d.Apply(ctx, rev)
			var rejected *RejectedError
			if !errors.As(err, &e) || e.Outcome != Refused || !errors.As(err, &rejected) {
				t.Errorf("the second time: %v", err)
			}
		}
	}
	t.Run("a service does not come up", failing(scripts.fails, "sample-broken.pid"))
	t.Run("a service dies", failing(scripts.dies, "respawn"))

	t.Run("interrupted while it boots", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		probing := probeFunc(func() error { cancel(); return errors.New("not yet") })
		e := *d
		e.Probes = append(Probes{probing}, d.Probes...)
		e.Logger = slog.New(heard{d.Logger.Handler(), "killing the container", func() { t.Error("the signal to stop was lost") }})
		_, err := e.Apply(ctx, Revision{Script: scripts.one})
		var result *Error
		if !errors.As(err, &result) || result.Outcome != RolledBack || !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		serves(t, "two")
	})

	t.Run("the launcher is killed", func(t *testing.T) {
		in, err := d.Running()
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Launcher.signal(9); err != nil {
			t.Fatal(err)
		}
		if err := in.Launcher.wait(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := (Alive{}).Check(ctx, in, nil); err == nil {
			t.Error("nothing is missed")
		}
		found := Doctor() // of no deployment: it is an orphan of somebody's
		if !slices.ContainsFunc(found, func(f Finding) bool {
			return f.Process == in.Process.PID && strings.Contains(strings.Join(f.Missing, ""), "an orphan")
		}) {
			t.Errorf("the orphan is not found: %+v", found)
		}
		serves(t, "two")
	})

	t.Run("stop leaves nothing", func(t *testing.T) {
		in, err := d.Running()
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := d.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("stopped in %v", time.Since(begin))
		checkNothingLeft(t, d, in)
	})

	t.Run("start", func(t *testing.T) {
		begin := time.Now()
		in, err := d.Start(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("started in %v", time.Since(begin))
		serves(t, "two")
		begin = time.Now()
		if err := d.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("stopped in %v", time.Since(begin))
		checkNothingLeft(t, d, in)
	})

	t.Run("a file is in the way of a directory to mount", func(t *testing.T) {
		e := *d
		e.Dir = t.TempDir()
		base := t.TempDir()
		if err := os.WriteFile(filepath.Join(base, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		e.Shares = []Mount{{Source: base, Target: "/base"}, {Source: state, Target: "/base/file"}}
		e.Exposes = nil
		_, err := e.Apply(ctx, Revision{Script: scripts.one})
		var launch *LaunchError
		if !errors.As(err, &launch) {
			t.Fatalf("error %v", err)
		}
		t.Log(err)
	})

	if starts, err := os.ReadFile(filepath.Join(state, "starts")); err != nil || strings.Count(string(starts), "started") < 5 {
		t.Errorf("state: %q, %v", starts, err)
	}
	history, err := d.History()
	if err != nil {
		t.Error(err)
	}
	for _, e := range history {
		t.Log(e.Number, e.Event, e.Generation, e.Detail)
	}
}

// isBrokenOnly reports whether the service broken has come to grief, and all others are well.
func isBrokenOnly(ctx context.Context, in *Instance) error {
	services, err := in.Shepherd().Services(ctx)
	if err != nil {
		return err
	}
	if broken, _ := find(services, "broken"); len(broken.StartupFailures)+len(broken.Respawns) == 0 {
		return errors.New("it has not come to that")
	}
	_, err = AllServices{Except: []string{"broken"}}.Check(ctx, in, nil)
	return err
}

// What real shepherd forks crashes, and its crash handler says so; the second time all is well.
func TestRealForkCrash(t *testing.T) {
	built := samples(t)
	d, _ := realDeployment(t)
	g, err := d.Apply(t.Context(), Revision{Script: built["crashes"]})
	if err != nil {
		t.Fatal(err)
	}
	if log := readFile(t, d.generationPath(g.Number, "log")); !bytes.Contains(log, []byte(crashSign)) {
		t.Errorf("nothing has crashed:\n%s", log)
	}
}
