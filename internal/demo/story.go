package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/samples"
	"github.com/genenetwork/guixci/substitute"
)

// A story is the demo under way.
type story struct {
	o        Options
	cleanups []func(context.Context) error // run last first

	samples  *samples.Set
	pipeline *guixci.Pipeline
	spec     guixci.Specification
	events   func(guixci.Event) // of the step under way; may be nil

	lock    *channel.Lock  // of the first commit
	running chan runResult // the run that evaluate began and build ends
	report  *guixci.Report // of the newest run
	server  string         // URL of the substitute server
	web     string         // URL of the container's service
	port    string
}

type runResult struct {
	report *guixci.Report
	err    error
}

func (s *story) steps() []step {
	return []step{
		{"guix", s.guix}, {"lock", s.resolve}, {"authenticate", s.authenticate}, {"pull", s.pull},
		{"evaluate", s.evaluate}, {"build", s.build}, {"substitutes", s.substitutes},
		{"container", s.container}, {"breakage", s.breakage}, {"repair", s.repair},
		{"upgrade", s.upgrade}, {"again", s.again},
	}
}

func (s *story) path(elem ...string) string {
	return filepath.Join(append([]string{s.o.State}, elem...)...)
}

func (s *story) cleanup(f func(context.Context) error) { s.cleanups = append(s.cleanups, f) }

// end undoes what the steps started, whatever became of them. It takes the time it
// needs even when the run was interrupted.
func (s *story) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		errs = append(errs, s.cleanups[i](ctx))
	}
	return errors.Join(errs...)
}

// showAndWait says how to look at what is up, and waits to be told to end.
func (s *story) showAndWait(ctx context.Context) {
	s.o.Progress.Line("\nThe container and the server stay up until Ctrl-C. Look at them with")
	inside := ""
	if guixbox.Inside() {
		inside = "go run ./internal/guixbox/cmd/guixbox exec -- "
	}
	s.o.Progress.Line("  curl %s", s.web)
	s.o.Progress.Line("  curl %s/nix-cache-info", s.server)
	if in, err := s.deployment("").Running(); err == nil && in != nil {
		s.o.Progress.Line("  %snsenter -a -t %d /run/current-system/profile/bin/herd status", inside, in.Process.PID)
	}
	<-ctx.Done()
}

// open starts over in the state directory: samples, pipeline, server.
func (s *story) open(ctx context.Context) error {
	if err := s.reset(ctx); err != nil {
		return err
	}
	var err error
	// Another salt makes other packages, so that each demo really builds.
	if s.samples, err = samples.Make(s.path("samples"), rand.Text()); err != nil {
		return err
	}
	if err := s.samples.WriteChannels(s.path("channels.scm")); err != nil {
		return err
	}
	s.pipeline, err = guixci.Open(s.path("state"), guixci.Options{
		Slots: 2, Publish: true, Logger: s.o.Logger, Log: s.o.Progress,
		Notify: func(e guixci.Event) {
			s.detail(e)
			if s.events != nil {
				s.events(e)
			}
		},
	})
	if err != nil {
		return err
	}
	s.cleanup(func(context.Context) error { return s.pipeline.Close() })
	s.spec, err = s.specification()
	if err != nil {
		return err
	}
	return s.serve()
}

// reset stops what an earlier demo left running, because it was killed, and
// removes what it wrote.
func (s *story) reset(ctx context.Context) error {
	if _, err := os.Stat(s.path("state", "deployments", deploymentName)); err == nil {
		d := &container.Deployment{Name: deploymentName, Dir: s.path("state", "deployments", deploymentName)}
		if err := d.Stop(ctx); err != nil {
			return fmt.Errorf("stop the container of an earlier demo: %w", err)
		}
	}
	for _, name := range []string{"samples", "state", "channels.scm", "daemon", "environment"} {
		if err := os.RemoveAll(s.path(name)); err != nil {
			return fmt.Errorf("start over in %s: %w", s.o.State, err)
		}
	}
	return nil
}

// specification reads the channels back from the file, as a user's would be.
func (s *story) specification() (guixci.Specification, error) {
	name := s.path("channels.scm")
	f, err := os.Open(name)
	if err != nil {
		return guixci.Specification{}, err
	}
	defer f.Close()
	list, err := channel.ReadList(name, f)
	return guixci.Specification{
		Name: "sample", Channels: list,
		// Some packages are there to fail; the project does not need them.
		Green: record.Policy{Jobs: []string{"sample-project." + system(), "sample-hello." + system()}},
	}, err
}

// serve offers the store to guix-daemons.
func (s *story) serve() error {
	handler, err := s.pipeline.Handler()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("serve substitutes: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(substitute.QuickACK(l)) }()
	s.cleanup(func(context.Context) error {
		err := server.Close()
		<-ended
		return err
	})
	s.server = "http://" + l.Addr().String()
	return nil
}

// detail shows an event of the pipeline while it lasts.
func (s *story) detail(e guixci.Event) {
	switch {
	case e.Job != nil:
		s.o.Progress.Detail("%s", e.Job.Name)
	case e.Build != nil:
		s.o.Progress.Detail("%s %s", e.Build.Kind, substitute.StorePath(e.Build.Derivation).Name())
	}
}

// output runs a program and returns what it prints, or an error with what it complained of.
func output(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.Output()
	if err == nil {
		return string(out), nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%v: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), fmt.Errorf("run %s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
}
