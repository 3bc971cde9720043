package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// preflight returns why the generation must not be tried. Everything here
// is something that run-container accepts and that then ends badly.
func (d *Deployment) preflight(g *Generation) error {
	var errs []error
	if !d.unprivileged && os.Geteuid() != 0 {
		errs = append(errs, errors.New("only root can give a container its range of users: run as root"))
	}
	errs = append(errs, checkScript(g.Script), g.Environment.check())
	targets := make(map[string]string)
	if e := g.Environment; !e.isEmpty() {
		targets[filepath.Clean(e.mount("").Target)] = "the environment's files"
	}
	for _, m := range append(append([]Mount(nil), g.Shares...), g.Exposes...) {
		errs = append(errs, checkMount(m))
		target := filepath.Clean(m.target())
		if other, ok := targets[target]; ok {
			errs = append(errs, fmt.Errorf("mounts of %q and %q are both at %q: one would hide the other", other, m.Source, target))
		}
		targets[target] = m.Source
	}
	return errors.Join(errs...)
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
	return nil
}

// emptied are the directories whose contents a Guix System deletes when it boots,
// and those it mounts itself.
var emptied = []string{"/", "/tmp", "/run", "/var/run", "/proc", "/sys", "/dev"}

func checkMount(m Mount) error {
	for _, name := range []string{m.Source, m.target()} {
		if !filepath.IsAbs(name) {
			return fmt.Errorf("mount %q is not an absolute file name", name)
		}
		if strings.Contains(name, "=") {
			return fmt.Errorf("mount %q has an equals sign in its name, at which run-container would cut it", name)
		}
	}
	if _, err := os.Stat(m.Source); err != nil {
		// The script leaves such a mount out without a word, the service writes to
		// memory instead, and all is lost when the container stops.
		return fmt.Errorf("mount source does not exist: %w", err)
	}
	for _, name := range emptied {
		if filepath.Clean(m.target()) == name {
			return fmt.Errorf("mount %q at %q: the system empties or hides that directory when it boots", m.Source, name)
		}
	}
	return nil
}

// rejected returns the generation of the same script that was given up, nil for none.
func (d *Deployment) rejected(script string) (*Generation, error) {
	all, err := d.Generations()
	if err != nil {
		return nil, err
	}
	var found *Generation
	for _, g := range all {
		if g.Script == script {
			found = g // the last attempt is what counts
		}
	}
	if found == nil || found.Rejected == "" {
		return nil, nil
	}
	return found, nil
}
