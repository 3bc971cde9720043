package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// RestartService stops a service of the running container, with all that require it, and
// starts them again. It may take as long as the generation gives all services to stop, Handling.StopTimeout, and to come up,
// Schedule.StartPeriod. The error says, with a *[ServiceError] each, which do not come up, or have not by
// then; shepherd goes on with those that it is starting, and the others stay stopped.
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
	d.complain("write the ledger", d.finishLedger())
	err = in.restart(ctx, service.Name())
	detail := service.Name()
	if err != nil {
		detail = err.Error()
	}
	d.note(Revision{}, in.Generation, WasRestarted, detail)
	return err
}

func (in *Instance) restart(ctx context.Context, service string) error {
	names, err := in.stopService(ctx, service)
	if err != nil {
		return err
	}
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

// errSlow is the end of waiting for a shepherd that answers only when a service is stopped, or started: this may
// be never.
var errSlow = errors.New("it takes too long")

// stopService stops a service with all that require it, and returns their names, its own first.
func (in *Instance) stopService(ctx context.Context, name string) ([]string, error) {
	limit := in.handling().StopTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
	defer cancel()
	stopped, _, err := in.Shepherd().Do(ctx, "stop", name)
	if context.Cause(ctx) == errSlow {
		err = in.slow(context.WithoutCancel(ctx), []string{name}, "stopping", limit)
	}
	if err != nil {
		return nil, err
	}
	names := []string{name}
	items, _ := sexp.Items(stopped)
	for _, item := range items {
		if other, ok := sexp.Text(item); ok && other != name {
			names = append(names, other)
		}
	}
	return names, nil
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
