package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A RefusalError is something that run-container accepts and that then ends badly.
type RefusalError struct {
	Check string // a word: script, mount, environment, probe, runner, port, network, state, ids, owner, fetch, disk, hook, snapshot, namespaces, privilege, follows
	Err   error
}

func (e *RefusalError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *RefusalError) Unwrap() error { return e.Err }

// ExitCode returns the status a program should end with.
func (e *RefusalError) ExitCode() int { return Refused.ExitCode() }

// preflight returns why the generation must not be tried in the place of what there is,
// each reason being a *[RefusalError].
func (d *Deployment) preflight(ctx context.Context, g *Generation, was standing) error {
	var all refusals
	refuse := all.add
	if !d.unprivileged {
		refuse("privilege", checkPrivilege())
		refuse("namespaces", checkNamespaces(g.Script))
	}
	refuse("script", checkScript(g.Script))
	places := d.checkPlaces(g.Environment)
	if g.Number != 0 { // not running is worse than what is only to be feared
		d.complain("trust the places of secrets", places)
		places = nil
	}
	refuse("environment", errors.Join(d.checkEnvironment(g.Environment), places))
	refuse("runner", d.placing("runner", d.checkRunner(ctx, g)))
	for _, m := range g.Shares {
		refuse("mount", d.placing("mount "+m.Name, checkMount(m, true)))
	}
	for _, m := range g.Exposes {
		refuse("mount", d.placing("mount "+m.Name, checkMount(m, false)))
	}
	refuse("mount", d.checkEnvironmentMount(g))
	refuse("mount", checkTargets(g))
	refuse("port", d.placing("ports", checkPorts(g, was)))
	refuse("network", d.placing("network", checkNetwork(g, was)))
	refuse("state", d.checkState(g))
	refuse("state", d.checkConcurrent(g, was))
	all = append(all, d.checkWay(g)...)
	if restart := g.Number != 0; restart { // not running is worse than running out of space
		d.complain("find the space there should be", d.checkDisk(g))
	} else {
		refuse("disk", d.checkDisk(g))
	}
	if checkScript(g.Script) != nil {
		return errors.Join(all...) // there may be nothing to read
	}
	switch err := d.checkSystem(ctx, g, was, refuse); {
	case err != nil && len(all) > 0: // it is refused anyway
		d.complain("look at the system in the script", err)
	case err != nil:
		return err
	}
	return errors.Join(all...)
}

// refusals are errors, each a *[RefusalError].
type refusals []error

func (r *refusals) add(check string, err error) {
	if err != nil {
		*r = append(*r, &RefusalError{check, err})
	}
}

// checkWay returns why the generation cannot be probed, or switched to, in the way it is to be.
func (d *Deployment) checkWay(g *Generation) refusals {
	var all refusals
	for _, p := range g.Probes {
		all.add("probe", d.placing("probe "+p.String(), g.checkReferences(p)))
	}
	all.add("hook", d.placing("side-by-side", checkBeside(g)))
	all.add("hook", d.checkSwitch(g))
	if g.Number == 0 { // starting one again takes no snapshot
		all.add("snapshot", d.checkSnapshot(g))
	}
	return all
}

// placing adds where the deployment file has what an error is about, if it is known.
func (d *Deployment) placing(what string, err error) error {
	if place, ok := d.places[what]; ok && err != nil {
		return fmt.Errorf("%s: %w", place, err)
	}
	return err
}

// checkRunner asks what is to run the container for anything at all.
func (d *Deployment) checkRunner(ctx context.Context, g *Generation) error {
	runner, err := d.runner(g)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, runnerTimeout)
	defer cancel()
	if _, err := runner.Units(ctx); err != nil {
		return fmt.Errorf("runner %q does not answer: %w", g.Environment.Runner, err)
	}
	return nil
}

func checkPrivilege() error {
	if os.Geteuid() != 0 {
		return errors.New("only root can give a container its range of users: run as root")
	}
	return nil
}

func checkScript(name string) error {
	if !filepath.IsAbs(name) {
		return fmt.Errorf("script %q is not an absolute file name", name)
	}
	info, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("script: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("script %q cannot be executed", name)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("script: %w", err)
	}
	if !strings.Contains(string(text), "pid-file") {
		return fmt.Errorf("script %q has no option --pid-file: it is of an older Guix, build it with a current one", name)
	}
	return nil
}

// emptied are the directories whose contents a Guix System deletes when it boots,
// and those where it must have its own; filled are those that it must be able to write to.
var (
	emptied = []string{"/", "/tmp", "/run", "/var/run", "/proc", "/sys", "/dev"}
	filled  = []string{"/etc", "/var", "/gnu"}
)

func checkMount(m Mount, writable bool) error {
	if err := checkNames(m); err != nil {
		return err
	}
	info, err := os.Stat(m.Source)
	if err != nil {
		// The script leaves such a mount out without a word, the service writes to
		// memory instead, and all is lost when the container stops.
		return fmt.Errorf("mount source does not exist: %w", err)
	}
	if !info.IsDir() {
		// The mount is of what the name means now: a file that is replaced by renaming, as
		// most are, and a socket that is bound again stay the old ones inside.
		return fmt.Errorf("mount %q is a %s, not a directory: the container would go on seeing the old one when it is replaced; mount the directory it is in",
			m.Source, kindOfFile(info))
	}
	return checkTarget(m, writable)
}

// checkEnvironmentMount is checkMount for the directory of settings and secrets, which is there only when it is mounted.
func (d *Deployment) checkEnvironmentMount(g *Generation) error {
	if g.Environment.isEmpty() {
		return nil
	}
	m := g.Environment.mount(d.generationPath(g.Number, "run"))
	err := checkNames(m)
	if err == nil {
		err = checkTarget(m, false)
	}
	if err != nil {
		return d.placing("target", fmt.Errorf("the environment's files: %w", err))
	}
	return nil
}

func checkNames(m Mount) error {
	for _, name := range []string{m.Source, m.target()} {
		if !filepath.IsAbs(name) {
			return fmt.Errorf("mount %q is not an absolute file name", name)
		}
	}
	if strings.Contains(m.Source, "=") {
		return fmt.Errorf("mount %q has an equals sign in its name, at which run-container would cut it", m.Source)
	}
	return nil
}

func checkTarget(m Mount, writable bool) error {
	target := filepath.Clean(m.target())
	switch {
	case slices.Contains(emptied, target):
		return fmt.Errorf("mount %q at %q: the system empties that directory when it boots, or needs what it puts there itself", m.Source, target)
	case isIn(target, "/gnu/store"):
		return fmt.Errorf("mount %q at %q: the store is mounted over it", m.Source, target)
	case !writable && slices.Contains(filled, target):
		return fmt.Errorf("mount %q at %q: the system cannot boot when it may not write there", m.Source, target)
	}
	return nil
}

func kindOfFile(info os.FileInfo) string {
	if info.Mode()&os.ModeSocket != 0 {
		return "socket"
	}
	return "file"
}

// checkTargets looks for mounts in the same place, or of the same name.
func checkTargets(g *Generation) error {
	targets, named := make(map[string]string), make(map[string]string)
	if e := g.Environment; !e.isEmpty() {
		targets[filepath.Clean(e.mount("").Target)] = "the environment's files"
	}
	var errs []error
	for _, m := range append(append([]Mount(nil), g.Shares...), g.Exposes...) {
		target := filepath.Clean(m.target())
		if other, ok := targets[target]; ok {
			errs = append(errs, fmt.Errorf("mounts of %q and %q are both at %q: one would hide the other", other, m.Source, target))
		}
		targets[target] = m.Source
		if other, ok := named[m.Name]; ok && m.Name != "" {
			errs = append(errs, fmt.Errorf("mounts of %q and %q are both called %q: hooks, snapshots and differences would take one for the other", other, m.Source, m.Name))
		}
		named[m.Name] = m.Source
	}
	return errors.Join(errs...)
}

// timed returns a copy of g without what has no part in whether it comes up.
func (g *Generation) timed() *Generation {
	copied := *g
	copied.Handling.Keep, copied.Handling.MayFetch, copied.Handling.Renamed, copied.Handling.MinFree = Retention{}, nil, nil, 0
	return &copied
}

// rejected returns the generation of the same script in the same environment, probed and switched
// in the same way and with as much time for it, that was given up, nil for none. It may have been for what was wrong with a probe or a hook.
func (d *Deployment) rejected(like *Generation) (*Generation, error) {
	all, err := d.Generations()
	if err != nil {
		return nil, err
	}
	var found *Generation
	for _, g := range all {
		if like.like(g) && like.onSideOf(g).timed().sameWay(g.timed()) {
			found = g // the last attempt is what counts
		}
	}
	if found == nil || found.Rejected == "" {
		return nil, nil
	}
	return found, nil
}
