package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A Shepherd is a running shepherd, process 1 of a container or any other, that
// can be asked for its services. Each command is a connection of its own, so
// methods may be called concurrently and there is nothing to close.
type Shepherd struct {
	// Dial connects to its socket.
	Dial func(ctx context.Context) (net.Conn, error)
}

// ShepherdAt returns the shepherd that listens on a socket of this machine.
func ShepherdAt(socket string) *Shepherd {
	return &Shepherd{Dial: func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", socket)
	}}
}

// shepherdIn returns the shepherd inside a container that listens on the first of
// sockets that is there.
func shepherdIn(p Process, sockets ...string) *Shepherd {
	return &Shepherd{Dial: func(ctx context.Context) (net.Conn, error) {
		var errs []error
		for _, socket := range sockets {
			conn, err := dialInRoot(ctx, p, socket)
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}}
}

// A CommandError is a command that shepherd understood and could not do.
type CommandError struct {
	Service, Action string
	// Kind is shepherd's name for the condition, service-not-found,
	// action-not-found or action-exception among others.
	Kind string
	// Condition is all of it, as shepherd wrote it.
	Condition sexp.Value
}

// ExitCode returns the status a program should end with: there is nothing of that name, or it went wrong.
func (e *CommandError) ExitCode() int {
	if e.Kind == "service-not-found" || e.Kind == "action-not-found" {
		return Refused.ExitCode()
	}
	return red
}

func (e *CommandError) Error() string {
	switch e.Kind {
	case "service-not-found":
		return fmt.Sprintf("herd %s %s: there is no such service", e.Action, e.Service)
	case "action-not-found":
		return fmt.Sprintf("herd %s %s: the service has no such action", e.Action, e.Service)
	}
	return fmt.Sprintf("herd %s %s: %v", e.Action, e.Service, e.Condition)
}

// Do performs an action on a service, like "herd ACTION SERVICE ARG…", and
// returns the action's result, whose form depends on the action, and
// what it printed. A refusal by shepherd is a *[CommandError].
// It ends when ctx does; shepherd may then carry out the command all the same.
func (s *Shepherd) Do(ctx context.Context, action, service string, args ...string) (sexp.Value, []string, error) {
	conn, err := s.Dial(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to shepherd: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	reply, err := exchange(conn, command(action, service, args))
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("herd %s %s: %w", action, service, err)
	}
	return decodeReply(reply, action, service)
}

// command returns what read-command of (shepherd comm) matches:
// these fields, in this order.
func command(action, service string, args []string) sexp.Value {
	return sexp.L(sexp.Symbol("shepherd-command"),
		sexp.L(sexp.Symbol("version"), sexp.Int(0)),
		sexp.L(sexp.Symbol("action"), sexp.Symbol(action)),
		sexp.L(sexp.Symbol("service"), sexp.Symbol(service)),
		sexp.L(sexp.Symbol("arguments"), sexp.Strings(args...)),
		sexp.L(sexp.Symbol("directory"), sexp.String("/")))
}

func exchange(conn net.Conn, command sexp.Value) (sexp.Value, error) {
	if _, err := io.WriteString(conn, command.String()+"\n"); err != nil {
		return nil, err
	}
	reply, err := sexp.NewReader(conn).Next()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("shepherd closed the connection without a reply")
	}
	return reply, err
}

// decodeReply takes (reply (version 0) (result R) (error E) (messages (M …))) apart.
func decodeReply(reply sexp.Value, action, service string) (sexp.Value, []string, error) {
	if _, ok := sexp.Tagged(reply, "reply"); !ok {
		return nil, nil, fmt.Errorf("herd %s %s: not a reply: %.80s", action, service, reply)
	}
	messages := fieldTexts(reply, "messages")
	if condition, ok := sexp.Field(reply, "error"); ok && sexp.True(condition) {
		e := &CommandError{Service: service, Action: action, Condition: condition}
		if items, ok := sexp.Items(condition); ok && len(items) > 2 {
			e.Kind, _ = sexp.Text(items[2]) // (error (version 0) KIND …)
		}
		return nil, messages, e
	}
	result, ok := sexp.Field(reply, "result")
	if !ok {
		return nil, messages, fmt.Errorf("herd %s %s: reply without a result", action, service)
	}
	return result, messages, nil
}

// Services returns all services, as "herd status" sees them.
func (s *Shepherd) Services(ctx context.Context) ([]Service, error) {
	result, _, err := s.Do(ctx, "status", "root")
	if err != nil {
		return nil, err
	}
	// Any action but start and stop answers a list of one result.
	outer, ok := sexp.Items(result)
	if !ok || len(outer) != 1 {
		return nil, fmt.Errorf("herd status: not a list of one result: %.80s", result)
	}
	items, ok := sexp.Items(outer[0])
	if !ok {
		return nil, fmt.Errorf("herd status: not a list of services: %.80s", outer[0])
	}
	services := make([]Service, 0, len(items))
	for _, item := range items {
		service, err := parseService(item)
		if err != nil {
			return nil, fmt.Errorf("herd status: %w", err)
		}
		services = append(services, service)
	}
	return services, nil
}
