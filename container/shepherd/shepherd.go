// Package shepherd has the machine's Shepherd run containers, as is the way of a Guix System.
//
//	d := &container.Deployment{…, Runners: map[string]container.Runner{"shepherd": &shepherd.Runner{}}}
//	d.Environment.Runner = "shepherd"
//
// Each container is a service that is registered when it is started, as "herd eval root" can,
// and unloaded when it is stopped; "herd status" shows it. Shepherd starts it again when it ends
// without having been asked to. See "Defining Services" and "Service De- and
// Constructors" in Shepherd's manual. Limits and the killing of all processes are our own control
// groups'; Shepherd has none.
package shepherd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/cgroup"
)

// A Runner is a [container.Runner] that hands units to a shepherd. The zero Runner
// uses the machine's own, which only root may.
type Runner struct {
	// Socket is where shepherd listens; empty means /var/run/shepherd/socket.
	Socket string
	// RestartAfter is how long shepherd waits before it starts again what has
	// ended, rounded up to seconds; 0 means two seconds. It does so for ever.
	RestartAfter time.Duration
}

var (
	_ container.Runner  = (*Runner)(nil)
	_ container.Freezer = (*Runner)(nil)
)

func (r *Runner) shepherd() *container.Shepherd {
	return container.ShepherdAt(cmp.Or(r.Socket, "/var/run/shepherd/socket"))
}

// groupFile is where the control group of a unit is written down.
func groupFile(u container.Unit) string { return filepath.Join(u.Dir, "unit.json") }

// Start registers a service and starts it.
func (r *Runner) Start(ctx context.Context, u container.Unit) error {
	s, there, err := r.find(ctx, u)
	if err != nil {
		return err
	}
	if there && s.Status != "stopped" {
		return fmt.Errorf("start %s: %w", u.Name, container.ErrRunning)
	}
	err = r.Stop(ctx, u) // one that is stopped would start with its old description
	if err == nil {
		err = r.start(ctx, u)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", u.Name, err), r.Stop(context.WithoutCancel(ctx), u))
	}
	return nil
}

func (r *Runner) start(ctx context.Context, u container.Unit) error {
	if _, err := exec.LookPath(u.Command[0]); err != nil {
		return err // the shell would only say so in the log
	}
	group, err := cgroup.New(u.Name, cgroup.Limits(u.Limits))
	if err != nil && u.Limits != (container.Limits{}) {
		return err
	}
	if err := group.Save(groupFile(u)); err != nil {
		return errors.Join(err, group.Remove(ctx))
	}
	log, err := os.OpenFile(u.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	log.Close()
	if err := r.eval(ctx, r.registration(u, group)); err != nil {
		return err
	}
	started, _, err := r.shepherd().Do(ctx, "start", u.Name)
	if err == nil && !sexp.True(started) {
		err = errors.New("shepherd says that it does not start")
	}
	return err
}

// eval evaluates an expression in shepherd.
func (r *Runner) eval(ctx context.Context, expression sexp.Value) error {
	_, _, err := r.shepherd().Do(ctx, "eval", "root", expression.String())
	return err
}

func call(procedure string, arguments ...sexp.Value) sexp.Value {
	return sexp.L(append([]sexp.Value{sexp.Symbol(procedure)}, arguments...)...)
}

// registration is
//
//	(begin (register-services (list (service '(NAME) #:start … #:stop … …))) #t)
//
// whose value, unlike that of registering, can be written.
func (r *Runner) registration(u container.Unit, group *cgroup.Group) sexp.Value {
	start := call("make-forkexec-constructor", sexp.Quote(sexp.Strings(command(u, group)...)),
		sexp.Keyword("directory"), sexp.String("/"),
		sexp.Keyword("environment-variables"), sexp.Quote(sexp.Strings(u.Environment...)))
	stop := call("make-kill-destructor", sexp.Keyword("grace-period"), seconds(u.StopTimeout))
	service := call("service", sexp.Quote(sexp.L(sexp.Symbol(u.Name))),
		sexp.Keyword("documentation"), sexp.String("Guix System container "+strings.TrimPrefix(u.Name, container.UnitPrefix)),
		sexp.Keyword("start"), start, sexp.Keyword("stop"), stop,
		sexp.Keyword("respawn?"), sexp.Bool(true),
		sexp.Keyword("respawn-delay"), seconds(cmp.Or(r.RestartAfter, 2*time.Second)),
		// Never too often: it is not to be given up, only not to be hurried.
		sexp.Keyword("respawn-limit"), sexp.Quote(sexp.Cons(sexp.Int(math.MaxInt32), sexp.Int(1))))
	return call("begin", call("register-services", call("list", service)), sexp.Bool(true))
}

func seconds(d time.Duration) sexp.Value { return sexp.Int(int64(math.Ceil(d.Seconds()))) }

// enter is what runs before the launcher, each time: it kills what is left in the control
// group of an earlier run, whose launcher alone may have ended, joins, and appends to the log.
const enter = `exec >>"$1" 2>&1 && shift || exit 1
while [ "$1" != -- ]; do
  while read -r pid <"$1/cgroup.procs"; do kill -9 "$pid" 2>/dev/null; done
  echo 0 >"$1/cgroup.procs" || exit 1
  shift
done
shift
exec "$@"`

// command is the launcher's, inside the control group.
func command(u container.Unit, group *cgroup.Group) []string {
	all := []string{"/bin/sh", "-c", enter, "sh", u.Log}
	if group != nil {
		for _, dir := range group.Dirs {
			all = append(all, dir.Path)
		}
	}
	return append(append(all, "--"), u.Command...)
}

// Stop kills the unit's processes and unloads its service.
func (r *Runner) Stop(ctx context.Context, u container.Unit) error {
	group, err := cgroup.Load(groupFile(u))
	if err != nil {
		return err
	}
	_, there, err := r.find(ctx, u)
	if err != nil {
		return err
	}
	if there {
		if err := r.unload(ctx, u, group); err != nil {
			return fmt.Errorf("stop %s: %w", u.Name, err)
		}
	}
	if err := errors.Join(group.Kill(), group.Remove(ctx)); err != nil {
		return fmt.Errorf("stop %s: %w", u.Name, err)
	}
	if err := os.Remove(groupFile(u)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// unload makes shepherd forget the service. It is disabled first, lest what is killed be
// started again.
func (r *Runner) unload(ctx context.Context, u container.Unit, group *cgroup.Group) error {
	if _, _, err := r.shepherd().Do(ctx, "disable", u.Name); err != nil {
		return err
	}
	state, err := r.State(ctx, u)
	if err != nil {
		return err
	}
	if pid := state.Launcher.PID; pid != 0 {
		syscall.Kill(pid, syscall.SIGKILL) // shepherd is its parent, and reaps it when it has told
	}
	if err := group.Kill(); err != nil {
		return err
	}
	if err := r.settled(ctx, "stop", u.Name); err != nil {
		return err
	}
	return r.settled(ctx, "unload", "root", u.Name)
}

// settled has shepherd do what stops a service whose process was killed. When shepherd has reaped it, and
// not told the service yet, stopping it fails, for there is no such process; a moment later it does not.
func (r *Runner) settled(ctx context.Context, action, service string, args ...string) error {
	for attempt := 1; ; attempt++ {
		_, _, err := r.shepherd().Do(ctx, action, service, args...)
		var refused *container.CommandError
		if attempt == 5 || !errors.As(err, &refused) || refused.Kind != "action-exception" {
			return err
		}
		select {
		case <-time.After(time.Duration(attempt) * 50 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// find returns the service of a unit, if there is one.
func (r *Runner) find(ctx context.Context, u container.Unit) (s container.Service, there bool, err error) {
	all, err := r.shepherd().Services(ctx)
	if err != nil {
		return s, false, err
	}
	for _, s := range all {
		if s.Name() == u.Name {
			return s, true, nil
		}
	}
	return s, false, nil
}

// State asks shepherd for the service. It remembers the last few restarts only.
func (r *Runner) State(ctx context.Context, u container.Unit) (container.UnitState, error) {
	s, there, err := r.find(ctx, u)
	if err != nil || !there {
		return container.UnitState{}, err
	}
	group, err := cgroup.Load(groupFile(u))
	if err != nil {
		return container.UnitState{}, err
	}
	events := group.Events()
	state := container.UnitState{Restarts: len(s.Respawns), Held: group != nil, Killed: events.Killed, Refused: events.Refused}
	if s.PID != 0 {
		state.Launcher, err = container.FindProcess(s.PID)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // shepherd is about to notice
	}
	if state.Launcher == (container.Process{}) && len(s.Exits) > 0 {
		state.Ended = ended(syscall.WaitStatus(s.Exits[len(s.Exits)-1].Status))
	}
	return state, err
}

func ended(status syscall.WaitStatus) string {
	if status.Signaled() {
		return fmt.Sprintf("signal %d", status.Signal())
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// Units returns the services that begin with [container.UnitPrefix], whatever their state.
func (r *Runner) Units(ctx context.Context) ([]string, error) {
	all, err := r.shepherd().Services(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range all {
		if strings.HasPrefix(s.Name(), container.UnitPrefix) {
			names = append(names, s.Name())
		}
	}
	return names, nil
}

// Freeze stops the unit's processes by its control group.
func (r *Runner) Freeze(ctx context.Context, u container.Unit) error {
	group, err := cgroup.Load(groupFile(u))
	if err != nil {
		return err
	}
	if err := group.Freeze(ctx); err != nil {
		return errors.Join(fmt.Errorf("freeze %s: %w", u.Name, err), group.Thaw())
	}
	return nil
}

// Thaw lets them go on.
func (r *Runner) Thaw(u container.Unit) error {
	group, err := cgroup.Load(groupFile(u))
	if err != nil {
		return err
	}
	return group.Thaw()
}
