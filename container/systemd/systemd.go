// Package systemd has systemd run containers.
//
//	d := &container.Deployment{…, Runners: map[string]container.Runner{"systemd": &systemd.Runner{}}}
//	d.Environment.Runner = "systemd"
//
// Each container is a transient service, described in systemd.service(5) and
// org.freedesktop.systemd1(5): systemd limits it, keeps its processes together, and starts it again,
// later and later, when it ends without having been asked to. It goes on running
// whatever becomes of who asked for it, but is forgotten with the machine: only
// [container.Deployment.Supervise] starts it then.
package systemd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/internal/cgroup"
)

// A Runner is a [container.Runner] that hands units to systemd. The zero Runner
// uses the machine's own.
type Runner struct {
	// Address is where systemd is spoken to, as D-Bus writes it, such as
	// "unix:path=/run/systemd/private"; empty means the system bus, or, for root and
	// where there is none, systemd's private socket.
	Address string
	// RestartAfter is how long systemd waits before it starts again what has
	// ended; 0 means one second. The wait grows up to RestartAtMost; 0 means one minute.
	RestartAfter, RestartAtMost time.Duration
}

var _ container.Runner = (*Runner)(nil)

// A JobError is a job of systemd that came to another end than it should.
type JobError struct {
	Unit, Job string // such as "start"
	Result    string // "failed", "timeout", "canceled", "dependency" or "skipped"
	Detail    string // what systemd knows besides; may be empty
}

func (e *JobError) Error() string {
	text := fmt.Sprintf("%s %s: systemd says that the job is %s", e.Job, e.Unit, e.Result)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// connect returns a connection that hears of jobs that end.
func (r *Runner) connect(ctx context.Context) (*dbus.Conn, error) {
	conn, err := r.dial(ctx)
	if err == nil {
		if err = conn.Subscribe(); err == nil {
			return conn, nil
		}
		conn.Close()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("connect to systemd: %w", err)
}

func (r *Runner) dial(ctx context.Context) (*dbus.Conn, error) {
	if r.Address == "" {
		return dbus.NewWithContext(ctx)
	}
	return dbus.NewConnection(func() (*godbus.Conn, error) {
		conn, err := godbus.Dial(r.Address, godbus.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		if err := conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	})
}

// with does something over a connection of its own.
func (r *Runner) with(ctx context.Context, f func(*dbus.Conn) error) error {
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(conn)
}

func service(u container.Unit) string { return u.Name + ".service" }

// Start starts a transient service. It counts as started if systemd says that the job is
// done, else the error is a *[JobError].
func (r *Runner) Start(ctx context.Context, u container.Unit) error {
	return r.with(ctx, func(conn *dbus.Conn) error {
		state, err := properties(ctx, conn, u)
		if err != nil {
			return err
		}
		if state.active() {
			return fmt.Errorf("start %s: %w", u.Name, container.ErrRunning)
		}
		conn.ResetFailedUnitContext(ctx, service(u)) // most often there is none to reset
		if err := r.start(ctx, conn, u); err != nil {
			return errors.Join(err, r.stop(context.WithoutCancel(ctx), conn, u))
		}
		return nil
	})
}

func (r *Runner) start(ctx context.Context, conn *dbus.Conn, u container.Unit) error {
	err := job(ctx, u, "start", func(done chan<- string) error {
		_, err := conn.StartTransientUnitContext(ctx, service(u), "fail", r.properties(u), done)
		return err
	})
	state, e := properties(ctx, conn, u)
	var failed *JobError
	if errors.As(err, &failed) {
		failed.Detail = state.ended()
	}
	if err != nil {
		return err
	}
	return errors.Join(e, state.check(u.Limits))
}

// job waits for a job's end, which alone says whether it has been done: a unit that
// is to be restarted is never seen to have failed.
func job(ctx context.Context, u container.Unit, name string, begin func(done chan<- string) error) error {
	done := make(chan string, 1)
	if err := begin(done); err != nil {
		return fmt.Errorf("%s %s: %w", name, u.Name, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return &JobError{Unit: u.Name, Job: name, Result: result}
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s %s: %w", name, u.Name, context.Cause(ctx))
	}
}

// properties returns those of the service, as systemd.exec(5), systemd.kill(5),
// systemd.service(5) and systemd.resource-control(5) have them.
func (r *Runner) properties(u container.Unit) []dbus.Property {
	set := func(name string, value any) dbus.Property {
		return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
	}
	first, most := cmp.Or(r.RestartAfter, time.Second), cmp.Or(r.RestartAtMost, time.Minute)
	all := []dbus.Property{
		dbus.PropDescription("Guix System container " + strings.TrimPrefix(u.Name, container.UnitPrefix)),
		dbus.PropType("exec"),
		// Nothing in a command is a variable.
		set("ExecStartEx", []execStart{{u.Command[0], u.Command, []string{"no-env-expand"}}}),
		set("Environment", u.Environment),
		set("WorkingDirectory", "/"),
		set("StandardOutputFileToAppend", u.Log),
		set("StandardErrorFileToAppend", u.Log),
		// The launcher passes SIGTERM on to shepherd; what is left in the end is killed.
		set("KillMode", "mixed"),
		set("TimeoutStopUSec", microseconds(u.StopTimeout)),
		// The container makes groups of its own below.
		set("Delegate", true),
		// Shepherd starts again what the kernel has killed for want of memory.
		set("OOMPolicy", "continue"),
		set("Restart", "always"), // the launcher's status says nothing
		set("RestartUSec", microseconds(first)),
		set("RestartMaxDelayUSec", microseconds(max(first, most))),
		set("RestartSteps", uint32(6)),
		set("StartLimitIntervalUSec", uint64(0)), // it never gives up
		set("CollectMode", "inactive-or-failed"), // and is forgotten when it is stopped
	}
	if u.Limits.Memory > 0 {
		all = append(all, set("MemoryMax", uint64(u.Limits.Memory)))
	}
	if u.Limits.Tasks > 0 {
		all = append(all, set("TasksMax", uint64(u.Limits.Tasks)))
	}
	return all
}

// execStart is a command as D-Bus has it, signature (sasas).
type execStart struct {
	Path      string
	Arguments []string
	Flags     []string
}

func microseconds(d time.Duration) uint64 { return uint64(d.Microseconds()) }

// Stop kills all processes of the service, and has it forgotten.
func (r *Runner) Stop(ctx context.Context, u container.Unit) error {
	return r.with(ctx, func(conn *dbus.Conn) error { return r.stop(ctx, conn, u) })
}

func (r *Runner) stop(ctx context.Context, conn *dbus.Conn, u container.Unit) error {
	state, err := properties(ctx, conn, u)
	if err != nil {
		return err
	}
	if !state.loaded() {
		return nil
	}
	if state.active() {
		// With the signal on its way, the job's own SIGTERM is for nobody.
		conn.KillUnitWithTarget(ctx, service(u), dbus.All, 9) // nobody there: all the better
		err = job(ctx, u, "stop", func(done chan<- string) error {
			_, err := conn.StopUnitContext(ctx, service(u), "replace", done)
			return err
		})
	}
	if notLoaded(err) {
		return nil // it has gone in the meantime
	}
	conn.ResetFailedUnitContext(ctx, service(u)) // it is forgotten then, if it has not been
	return err
}

func notLoaded(err error) bool {
	var e godbus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.NoSuchUnit"
}

// State asks for the service's properties.
func (r *Runner) State(ctx context.Context, u container.Unit) (state container.UnitState, err error) {
	err = r.with(ctx, func(conn *dbus.Conn) error {
		p, err := properties(ctx, conn, u)
		if err != nil || !p.loaded() {
			return err
		}
		events := p.group().Events()
		state = container.UnitState{Restarts: p.number("NRestarts"), Held: true,
			Killed: events.Killed, Refused: events.Refused}
		if pid := p.number("MainPID"); pid != 0 {
			state.Launcher, err = container.FindProcess(pid)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // it has just ended
		}
		if state.Launcher == (container.Process{}) {
			state.Ended = p.ended()
		}
		return err
	})
	return state, err
}

// Units returns the services that begin with [container.UnitPrefix], whatever their state.
func (r *Runner) Units(ctx context.Context) (names []string, err error) {
	err = r.with(ctx, func(conn *dbus.Conn) error {
		all, err := conn.ListUnitsByPatternsContext(ctx, nil, []string{container.UnitPrefix + "*.service"})
		if err != nil {
			return fmt.Errorf("list units: %w", err)
		}
		for _, one := range all {
			names = append(names, strings.TrimSuffix(one.Name, ".service"))
		}
		return nil
	})
	return names, err
}

// A status is what systemd says of a service.
type status map[string]any

func properties(ctx context.Context, conn *dbus.Conn, u container.Unit) (status, error) {
	p, err := conn.GetAllPropertiesContext(ctx, service(u))
	if err != nil {
		return nil, fmt.Errorf("ask systemd about %s: %w", u.Name, err)
	}
	return p, nil
}

func (s status) text(name string) string { text, _ := s[name].(string); return text }

// number is 0 for what an older systemd does not know, and for what is not known yet.
func (s status) number(name string) int {
	switch n := s[name].(type) {
	case uint32:
		return int(n)
	case int32:
		return int(n)
	case uint64:
		if n != math.MaxUint64 {
			return int(n)
		}
	}
	return 0
}

func (s status) loaded() bool { return s.text("LoadState") == "loaded" }

// active reports whether the unit has, or is going to have, processes.
func (s status) active() bool {
	return s.loaded() && s.text("ActiveState") != "inactive" && s.text("ActiveState") != "failed"
}

// group is the service's control group; of an older hierarchy nothing is known.
func (s status) group() *cgroup.Group {
	return &cgroup.Group{Dirs: []cgroup.Dir{{Path: filepath.Join("/sys/fs/cgroup", s.text("ControlGroup")), Unified: true}}}
}

// check returns an error if systemd has silently left out a limit, as it does
// where the controller is not to be had.
func (s status) check(l container.Limits) error {
	dir := s.group().Dirs[0].Path
	for file, limit := range map[string]int64{"memory.max": l.Memory, "pids.max": int64(l.Tasks)} {
		if limit <= 0 {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			return fmt.Errorf("systemd does not limit the container: %w", err)
		}
	}
	return nil
}

// ended says how the main process did, if it has.
func (s status) ended() string {
	const exited, killed, dumped = 1, 2, 3 // CLD_EXITED and so on
	text := s.text("Result")
	switch s.number("ExecMainCode") {
	case exited:
		text += fmt.Sprintf(", exit status %d", s.number("ExecMainStatus"))
	case killed, dumped:
		text += fmt.Sprintf(", signal %d", s.number("ExecMainStatus"))
	default:
		return ""
	}
	return strings.TrimPrefix(text, "success, ")
}
