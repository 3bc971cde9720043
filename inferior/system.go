package inferior

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// SystemOptions say which system container to build, and with which Guix.
type SystemOptions struct {
	// Guix is the program to run, usually [Profile.Guix]; empty means guix in PATH.
	Guix string
	// File is the configuration, which returns an operating-system; required.
	File string
	// LoadPath are directories with more modules, searched first.
	LoadPath []string
	// Network shares the host's network with the container.
	Network bool
	// Share and Expose are file systems of the host that the container
	// sees, read-write and read-only: SOURCE or SOURCE=TARGET.
	Share, Expose []string
	// SaveProvenance keeps the configuration and the channels inside the system.
	SaveProvenance bool
	// Root, if not empty, becomes a link to the result, registered as a root
	// of the garbage collector. It is ignored if only the derivation is wanted.
	Root string
	// Args are further options of guix system, such as --no-substitutes.
	Args []string
	// Env is the environment, as in [exec.Cmd]; nil means ours.
	Env []string
	// Log, if not nil, gets what guix prints, as it comes.
	Log io.Writer
	// StopTimeout is how long a cancelled guix may take to end by itself
	// after SIGTERM; 0 means 5 seconds.
	StopTimeout time.Duration
}

// SystemContainer builds a system container, security updates grafted in, as "guix system
// container" does, and returns the script that runs it, /gnu/store/…-run-container.
// If the configuration is to blame, or a build of what it needs, the error is a
// [*SystemError]. If ctx ends, guix and all its children are ended, and the error wraps the cause.
func SystemContainer(ctx context.Context, o SystemOptions) (script string, err error) {
	return o.run(ctx, "-run-container")
}

// SystemContainerDerivation returns the derivation of what [SystemContainer] builds,
// and builds no more than that takes.
func SystemContainerDerivation(ctx context.Context, o SystemOptions) (drv string, err error) {
	o.Args = append(o.Args[:len(o.Args):len(o.Args)], "--derivation")
	o.Root = ""
	return o.run(ctx, "-run-container.drv")
}

func (o SystemOptions) run(ctx context.Context, suffix string) (item string, err error) {
	guix, err := program(o.Guix)
	if err != nil {
		return "", fmt.Errorf("build system of %q: %w", o.File, err)
	}
	file, err := filepath.Abs(o.File)
	if err != nil {
		return "", fmt.Errorf("build system of %q: %w", o.File, err)
	}
	cmd := exec.Command(guix, o.arguments(file)...)
	if o.Guix != "" {
		cmd.Args[0] = o.Guix
	}
	cmd.Dir = "/"
	cmd.Env = environment(o.Env, "LC_ALL=C.UTF-8", "LANGUAGE=en")
	var out bytes.Buffer
	cmd.Stdout = &out
	child, err := startProcess(cmd, o.Log, 0)
	if err != nil {
		return "", fmt.Errorf("build system of %q: %w", o.File, err)
	}
	select {
	case <-child.exited:
	case <-ctx.Done():
		wait := o.StopTimeout
		if wait == 0 {
			wait = 5 * time.Second
		}
		child.terminate(wait)
		return "", fmt.Errorf("build system of %q: %w", o.File, context.Cause(ctx))
	}
	if child.err != nil {
		return "", diagnoseSystem(evidence{command: "guix system", messages: child.stderr.String(), status: child.status()}, o.File)
	}
	item = strings.TrimSpace(out.String())
	if !strings.HasPrefix(item, "/") || !strings.HasSuffix(item, suffix) || strings.ContainsAny(item, "\n ") {
		return "", fmt.Errorf("build system of %q: guix printed %.200q instead of a store item", o.File, item)
	}
	return item, nil
}

func (o SystemOptions) arguments(file string) []string {
	args := []string{"system", "container"}
	for _, d := range o.LoadPath {
		args = append(args, "--load-path="+d)
	}
	if o.Network {
		args = append(args, "--network")
	}
	for _, s := range o.Share {
		args = append(args, "--share="+s)
	}
	for _, s := range o.Expose {
		args = append(args, "--expose="+s)
	}
	if o.SaveProvenance {
		args = append(args, "--save-provenance")
	}
	if o.Root != "" {
		args = append(args, "--root="+o.Root)
	}
	return append(append(args, o.Args...), "--", file)
}
