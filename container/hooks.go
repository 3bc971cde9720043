package container

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A Hook is a program of the host that is run at a moment of a switch. It learns what it is
// about from its environment:
//
//	GUIXCI_DEPLOYMENT, GUIXCI_ENVIRONMENT  their names
//	GUIXCI_GENERATION, GUIXCI_SCRIPT       what is switched to; its store item
//	GUIXCI_OLD_GENERATION, …               what is switched from, where there is something
//	GUIXCI_PORTS, GUIXCI_ADDRESS           where the container listens; the address of its own
//	                                       network, empty without one
//	GUIXCI_MOUNT_NAME                      where the mount NAME is on the host
//	GUIXCI_SETTING_NAME, GUIXCI_SECRET_NAME  the value of a setting; the file of a secret
//
// In the names of mounts and secrets what is not a letter or digit is "_", and letters are upper case.
// It succeeds by exit status 0. Whatever it has started ends with it.
type Hook struct {
	Command []string `json:"command"` // an absolute file name, and arguments
	// Timeout ends it; 0 means ten minutes.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Live hooks are run while the old generation still runs, which goes on if they fail.
	// The others may change state that both know of.
	Live bool `json:"live,omitempty"`
}

// A HookRun is a hook that was run.
type HookRun struct {
	Command string        `json:"command"`
	Took    time.Duration `json:"took"`
	Failed  string        `json:"failed,omitempty"` // how; empty if it did not
}

// A HookError is a hook that failed.
type HookError struct {
	Command []string
	Reason  string // such as "exit status 1"
	Output  string // its last lines
}

func (e *HookError) Error() string {
	text := fmt.Sprintf("hook %q: %s", strings.Join(e.Command, " "), e.Reason)
	if e.Output == "" {
		return text
	}
	return text + "; its last output:\n  " + strings.ReplaceAll(e.Output, "\n", "\n  ")
}

const defaultHookTimeout = 10 * time.Minute

var errHookTimeout = errors.New("it did not end in time")

// readHook reads a hook, such as (pre-switch PROGRAM ARGUMENT… FIELD…).
func (d *Deployment) readHook(f form) (Hook, error) {
	var h Hook
	for len(h.Command) < len(f.args) {
		argument, ok := f.args[len(h.Command)].(sexp.String)
		if !ok {
			break
		}
		h.Command = append(h.Command, string(argument))
	}
	if len(h.Command) == 0 {
		return h, f.errorf("names no program")
	}
	if err := h.check(); err != nil {
		return h, f.errorAt(0, "%v", err)
	}
	d.places["hook "+h.String()] = f.place()
	err := f.fields(len(h.Command), table{"timeout": toDuration(&h.Timeout), "live?": toBool(&h.Live)})
	return h, err
}

func (h Hook) String() string { return strings.Join(h.Command, " ") }

func (h Hook) check() error {
	if len(h.Command) == 0 || !filepath.IsAbs(h.Command[0]) {
		return fmt.Errorf("hook %q is not an absolute file name", h)
	}
	return nil
}

// checkProgram returns why a hook cannot be run.
func (h Hook) checkProgram() error {
	if err := h.check(); err != nil {
		return err
	}
	info, err := os.Stat(h.Command[0])
	if err != nil {
		return fmt.Errorf("hook: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("hook %q cannot be executed", h.Command[0])
	}
	return nil
}

// runHooks runs those hooks that are live, or those that are not, and stops at the first
// that fails.
func (d *Deployment) runHooks(ctx context.Context, old, next *Generation, live bool) error {
	for _, h := range next.Switch.Hooks {
		if h.Live != live {
			continue
		}
		if err := d.runHook(ctx, h, next, hookEnvironment(d.Name, old, next)); err != nil {
			return err
		}
	}
	return nil
}

// runHook runs a hook until it and all it has started have ended.
func (d *Deployment) runHook(ctx context.Context, h Hook, g *Generation, environment []string) error {
	begin := time.Now()
	d.log().Info("running hook", "command", h.Command)
	err := d.superviseHook(ctx, h, g, environment)
	run := HookRun{Command: h.String(), Took: time.Since(begin)}
	if err != nil {
		run.Failed, _, _ = strings.Cut(err.Error(), "\n")
	}
	g.switched().Hooks = append(g.switched().Hooks, run)
	return err
}

// superviseHook lets the supervisor hold the hook, so that it is found and killed
// even if this process is killed.
func (d *Deployment) superviseHook(ctx context.Context, h Hook, g *Generation, environment []string) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cmp.Or(h.Timeout, defaultHookTimeout), errHookTimeout)
	defer cancel()
	u := d.hookUnit(g.Number)
	u.Command, u.Environment = h.Command, environment
	var start int64
	if info, err := os.Stat(u.Log); err == nil {
		start = info.Size()
	}
	if err := os.MkdirAll(u.Dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stopHook(context.WithoutCancel(ctx), g.Number)) }()
	if err := ownSupervisor.Start(ctx, u); err != nil {
		return err
	}
	state, err := ownSupervisor.State(ctx, u)
	if err == nil {
		err = state.Launcher.wait(ctx)
	}
	if err != nil {
		return &HookError{h.Command, err.Error(), lastLines(u.Log, start)}
	}
	if state, err = ownSupervisor.State(ctx, u); err != nil {
		return err
	}
	if state.Ended != "" {
		return &HookError{h.Command, state.Ended, lastLines(u.Log, start)}
	}
	return nil
}

// hookUnit is what the hooks of a generation are to the supervisor, one at a time.
func (d *Deployment) hookUnit(number int) Unit {
	dir := d.generationPath(number, "hook")
	place := sha256.Sum256([]byte(dir))
	return Unit{
		Name: fmt.Sprintf("%s%s-hook-%d-%x", UnitPrefix, notInName.ReplaceAllString(d.Name, "_"), number, place[:3]),
		Dir:  dir, Log: d.generationPath(number, "hooks.log"),
	}
}

// stopHook ends what is left of a hook.
func (d *Deployment) stopHook(ctx context.Context, number int) error {
	u := d.hookUnit(number)
	err := ownSupervisor.Stop(ctx, u)
	if err == nil {
		err = os.RemoveAll(u.Dir)
	}
	return err
}

// stopHooks ends hooks that somebody who was killed has left behind.
func (d *Deployment) stopHooks(ctx context.Context) error {
	found, err := d.generationsWith("hook")
	for _, number := range found {
		err = errors.Join(err, d.stopHook(ctx, number))
	}
	return err
}

// hookEnvironment tells a hook what it is about. old may be nil.
func hookEnvironment(name string, old, next *Generation) []string {
	environment := append(os.Environ(), "GUIXCI_DEPLOYMENT="+name, "GUIXCI_ENVIRONMENT="+next.Environment.Name)
	environment = append(environment, next.variables("GUIXCI_")...)
	if old != nil {
		environment = append(environment, old.variables("GUIXCI_OLD_")...)
	}
	e := next.Environment
	for _, m := range slices.Concat(next.Shares, next.Exposes) {
		if m.Name != "" {
			environment = append(environment, "GUIXCI_MOUNT_"+variable(m.Name)+"="+m.Source)
		}
	}
	for setting, value := range e.Settings {
		environment = append(environment, "GUIXCI_SETTING_"+setting+"="+value)
	}
	for _, s := range e.Secrets {
		environment = append(environment, "GUIXCI_SECRET_"+variable(s.Name)+"="+s.File)
	}
	return environment
}

// variables tell which generation it is and where it listens.
func (g *Generation) variables(prefix string) []string {
	var ports []string
	for _, port := range g.Environment.Ports {
		ports = append(ports, strconv.Itoa(port))
	}
	address := ""
	if n := g.Environment.Network; n.isPrivate() {
		address = n.Address.String()
	}
	return []string{
		prefix + "ADDRESS=" + address,
		prefix + "GENERATION=" + strconv.Itoa(g.Number), prefix + "SCRIPT=" + g.Script,
		prefix + "PORTS=" + strings.Join(ports, " "),
	}
}

// variable makes a name one of an environment variable.
func variable(name string) string {
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return '_'
		}
		return unicode.ToUpper(r)
	}, name)
}
