package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/container"
)

func (d *driver) superviseCommand() *cobra.Command {
	var how container.Supervision
	c := d.on("supervise NAME", "Keep the container running, until told to end: then stop it", cobra.ExactArgs(1),
		func(c *cobra.Command, dep *container.Deployment, _ []string) error {
			dep.Logger = slog.New(slog.NewTextHandler(d.stderr, nil))
			return dep.Supervise(c.Context(), how)
		})
	c.Long = `Keep the container of a deployment running, until told to end by SIGTERM or Ctrl-C: then stop it,
in order. It is started when it ends or has not survived the machine, with the checks and
probes of "start"; logs that have grown are put aside. A supervisor that is killed leaves the
container running, for the next one to find.

"apply", "promote", "rollback" and "start" leave a supervisor behind when there is none, so this is for
starting containers with the machine, those too that the file has systemd or the Shepherd run. As a
service of systemd:

  [Service]
  ExecStart=guixci-deploy supervise NAME --state /var/lib/guixci
  KillMode=process
  TimeoutStopSec=2min
  Restart=on-failure

and of the Shepherd:

  (service '(NAME)
    #:start (make-forkexec-constructor
             '("guixci-deploy" "supervise" "NAME" "--state" "/var/lib/guixci"))
    #:stop (make-kill-destructor #:grace-period 120)
    #:respawn? #t)`
	c.Flags().DurationVar(&how.RestartAfter, "restart-after", 0, "wait before the first restart; it doubles each time (default 1s)")
	c.Flags().DurationVar(&how.RestartAtMost, "restart-at-most", 0, "longest wait before a restart (default 1m)")
	c.Flags().Int64Var(&how.LogSize, "log-size", 0, "put the log aside when it has so many bytes (default 16777216)")
	c.Flags().IntVar(&how.LogCount, "log-count", 0, "keep so many old logs (default 4)")
	c.Flags().BoolVar(&how.UntilStopped, "until-stopped", false, `end when the container is stopped by "stop"`)
	return c
}

// supervise leaves a supervisor behind for a container that runs and that no service
// manager looks after: this program, in a session of its own.
func (d *driver) supervise(dep *container.Deployment, name string) error {
	in, err := dep.Running()
	if err != nil || in.Generation.Environment.Runner != "" {
		return nil // there is nothing to supervise
	}
	if there, err := dep.Supervised(); there || err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dep.Dir, "supervisor.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	state, err := d.stateDir()
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(program, "supervise", name, "--until-stopped", "--state", state, "--environment", d.environment)
	cmd.Args[0] = os.Args[0]
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	return cmd.Process.Release() // it outlives this process
}

// supervised adds to the end of a verb that a supervisor takes over.
func (d *driver) supervised(dep *container.Deployment, name string, err error) error {
	return errors.Join(err, d.supervise(dep, name))
}
