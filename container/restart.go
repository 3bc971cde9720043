package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// RestartService stops a service of the running container, with all that require it, and
// starts them again. It may take as long as the generation gives all services to stop, Handling.StopTimeout, and to come up,
// Schedule.StartPeriod. The error says, with a *[ServiceError] each, which do not come up, or have not by
// then; shepherd goes on with those that it is starting, and the others stay stopped. If ctx ends, or this process is killed, what
// was stopped is started by [Deployment.Start], by a supervisor, or the next time a service is restarted.
func (d *Deployment) RestartService(ctx context.Context, name string) error {
	if err := d.restartService(ctx, name); err != nil {
		return fmt.Errorf("restart %s of %s: %w", name, d.Name, err)
	}
	return nil
}

func (d *Deployment) restartService(ctx context.Context, name string) error {
	lease, err := d.acquire("", "restart "+name)
	if err != nil {
		return err
	}
	defer lease.Release()
	in, err := d.Running()
	if err != nil {
		return err
	}
	d.complain("write the ledger", d.finishLedger())
	d.finishRestart(ctx, Revision{}, in)
	services, err := in.services(ctx)
	if err != nil {
		return err
	}
	service, ok := find(services, name)
	switch {
	case !ok:
		return &CommandError{Service: name, Action: "restart", Kind: "service-not-found"}
	case service.provides("root"):
		return decline("that is shepherd itself, with which the container ends; stop and start the deployment")
	}
	err = in.restart(ctx, service, services)
	detail := service.Name()
	if err != nil {
		detail = err.Error()
	}
	d.note(Revision{}, in.Generation, WasRestarted, detail)
	return err
}

// restart stops a service and starts what it has stopped. If stopping fails, which need not mean that nothing was stopped, what
// was is started all the same.
func (in *Instance) restart(ctx context.Context, service Service, before []Service) error {
	names := affected(service, before)
	in.d.complain("write down what is going to be restarted", writeJSON(in.restartingFile(), names))
	defer func() {
		if ctx.Err() == nil { // else it is as if this process were killed
			os.Remove(in.restartingFile())
		}
	}()
	done, complaint := in.stopService(ctx, names)
	if !done {
		return complaint
	}
	_, err := in.startStopped(ctx, names)
	return errors.Join(complaint, err)
}

// startStopped starts those of the services that do not run, and returns which.
func (in *Instance) startStopped(ctx context.Context, names []string) ([]string, error) {
	now, err := in.services(ctx)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		s, ok := find(now, name)
		return ok && s.Status == "running"
	})
	return names, in.startServices(ctx, names)
}

// restartingFile is there while services are restarted, and names them.
func (in *Instance) restartingFile() string { return filepath.Join(in.runDir(), "restarting") }

// finishRestart starts what somebody who was killed has stopped to start it again. The caller has the lease.
func (d *Deployment) finishRestart(ctx context.Context, rev Revision, in *Instance) {
	var names []string
	err := readJSON(in.restartingFile(), &names)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		names, err = in.startStopped(ctx, names)
	}
	if ctx.Err() != nil {
		return // somebody else does
	}
	d.complain("finish a restart", errors.Join(err, os.Remove(in.restartingFile())))
	if len(names) > 0 {
		detail := strings.Join(names, ", ") + ", found stopped after an interruption"
		if err != nil {
			detail += ": " + err.Error()
		}
		d.note(rev, in.Generation, WasRestarted, detail)
	}
}

// affected returns the names of what is stopped with a service: its own, and those of what runs and requires it.
func affected(service Service, all []Service) []string {
	names := []string{service.Name()}
	with := []Service{service}
	for i := 0; i < len(with); i++ {
		for _, s := range all {
			if s.Status == "running" && slices.ContainsFunc(s.Requires, with[i].provides) && !slices.Contains(names, s.Name()) {
				names, with = append(names, s.Name()), append(with, s)
			}
		}
	}
	return names
}

// errSlow is the end of waiting for a shepherd that answers only when a service is stopped, or started: this may
// be never.
var errSlow = errors.New("it takes too long")

// stopService stops the first service, and with it the others. It is done, if not well, when shepherd has answered.
func (in *Instance) stopService(ctx context.Context, names []string) (done bool, err error) {
	limit := in.handling().StopTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
	defer cancel()
	_, _, err = in.Shepherd().Do(ctx, "stop", names[0])
	if context.Cause(ctx) == errSlow {
		err = cmp.Or(in.slow(context.WithoutCancel(ctx), names, "stopping", limit), err)
	}
	return ctx.Err() == nil, err
}

// startServices starts services one after the other.
func (in *Instance) startServices(ctx context.Context, names []string) error {
	limit := in.Generation.Schedule.withDefaults().StartPeriod
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
	defer cancel()
	var errs []error
	for i, name := range names {
		started, _, err := in.Shepherd().Do(ctx, "start", name)
		if context.Cause(ctx) == errSlow {
			return errors.Join(append(errs, in.slow(context.WithoutCancel(ctx), names[i:], "starting", limit))...)
		}
		if err == nil && !sexp.True(started) {
			err = in.whyNot(ctx, name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// slow says what is still starting, or stopping, after the time there was, and which of those that were waited for have
// not come to it. It is nil if all have just come up.
func (in *Instance) slow(ctx context.Context, names []string, doing string, limit time.Duration) error {
	services, err := in.services(ctx)
	if err != nil {
		return fmt.Errorf("service %s is not done with %s after %v, and why cannot be asked: %w", names[0], doing, limit, err)
	}
	var errs []error
	for _, s := range services {
		switch {
		case s.Status == doing:
			errs = append(errs, &ServiceError{s, fmt.Sprintf("is still %s after %v", doing, limit), lastWords(services, s)})
		case slices.ContainsFunc(names, s.provides) && s.Status != "running":
			errs = append(errs, &ServiceError{Service: s, Problem: "is " + s.Status})
		}
	}
	return errors.Join(errs...)
}

// whyNot says why a service has just not started.
func (in *Instance) whyNot(ctx context.Context, name string) error {
	services, err := in.services(ctx)
	if err != nil {
		return fmt.Errorf("service %s does not start, and why cannot be asked: %w", name, err)
	}
	service, ok := find(services, name)
	if !ok { // it was a transient one
		return fmt.Errorf("service %s does not start: it has gone", name)
	}
	return &ServiceError{Service: service, Problem: "does not start, and is " + service.Status, Messages: lastWords(services, service)}
}
