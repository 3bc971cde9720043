// Package avahi announces services on the local network by way of Avahi, as avahi-publish and
// (guix avahi) do:
//
//	err := avahi.Publish(ctx, avahi.Service{Name: "guix-publish-host", Type: "_guix_publish._tcp", Port: 8080}, logger)
//
// A responder of our own would not do: where Avahi runs, and there it has to for "guix discover", two of them on one
// machine get in each other's way.
package avahi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/godbus/dbus/v5"
)

// A Service is what others on the network find.
type Service struct {
	// Name is for people. If there is another service of that name, Avahi's idea of another name is used.
	Name string
	Type string // like "_http._tcp"
	Port uint16
}

const (
	avahi     = "org.freedesktop.Avahi"
	server    = avahi + ".Server"
	group     = avahi + ".EntryGroup"
	ownership = "org.freedesktop.DBus.NameOwnerChanged"

	serverRunning    = 2
	groupEstablished = 2
	groupCollision   = 3
	groupFailure     = 4

	// unspecified stands for all interfaces, and all protocols.
	unspecified = int32(-1)
)

// reconnectAfter is how long to wait for a bus that is not there.
const reconnectAfter = 10 * time.Second

// Publish announces s on all interfaces until ctx ends. It waits for Avahi to be there, and announces s again whenever
// Avahi has been started again. logger hears of that.
func Publish(ctx context.Context, s Service, logger *slog.Logger) {
	for said := ""; ctx.Err() == nil; {
		err := publish(ctx, s, logger)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			logger.WarnContext(ctx, "not advertised until the system's message bus is there", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconnectAfter):
		}
	}
}

// publish announces s for as long as a connection to the bus lasts. Avahi withdraws the service when it ends.
func publish(ctx context.Context, s Service, logger *slog.Logger) error {
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer bus.Close()
	events := make(chan *dbus.Signal, 64)
	bus.Signal(events)
	for _, options := range [][]dbus.MatchOption{
		{dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, avahi)},
		{dbus.WithMatchSender(avahi), dbus.WithMatchInterface(server), dbus.WithMatchMember("StateChanged")},
		{dbus.WithMatchSender(avahi), dbus.WithMatchInterface(group), dbus.WithMatchMember("StateChanged")},
	} {
		if err := bus.AddMatchSignalContext(ctx, options...); err != nil {
			return err
		}
	}
	p := &publisher{bus: bus, service: s, logger: logger}
	for p.announce(ctx); ; {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return errors.New("connection to the message bus is lost")
			}
			p.handle(ctx, e)
		}
	}
}

// A publisher keeps a service announced over one connection.
type publisher struct {
	bus     *dbus.Conn
	service Service
	logger  *slog.Logger

	entries dbus.ObjectPath // what Avahi has of us, "" for nothing
}

// handle reacts to what has happened to Avahi.
func (p *publisher) handle(ctx context.Context, e *dbus.Signal) {
	if len(e.Body) == 0 { // anybody can send us anything
		return
	}
	switch e.Name {
	case ownership:
		p.entries = ""
		if owner, ok := e.Body[len(e.Body)-1].(string); ok && owner != "" {
			p.announce(ctx)
		}
	case server + ".StateChanged":
		if state, ok := e.Body[0].(int32); ok && state == serverRunning {
			p.announce(ctx)
		}
	case group + ".StateChanged":
		state, ok := e.Body[0].(int32)
		if ok && e.Path == p.entries {
			p.changed(ctx, state, fmt.Sprint(e.Body[1:]...))
		}
	}
}

// changed reacts to what has become of the announcement.
func (p *publisher) changed(ctx context.Context, state int32, why string) {
	switch state {
	case groupEstablished:
		p.logger.InfoContext(ctx, "advertised on the local network", "name", p.service.Name, "port", p.service.Port)
	case groupCollision: // on the network
		if err := p.rename(ctx); err != nil {
			p.logger.ErrorContext(ctx, "advertise", "name", p.service.Name, "error", err)
			return
		}
		p.announce(ctx)
	case groupFailure:
		p.logger.ErrorContext(ctx, "advertise", "name", p.service.Name, "error", why)
	}
}

func (p *publisher) call(ctx context.Context, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	return p.bus.Object(avahi, path).CallWithContext(ctx, method, 0, args...)
}

// announce tells Avahi of the service, in place of what it was told before. If Avahi is not ready, it will say when it is.
func (p *publisher) announce(ctx context.Context) {
	err := p.tell(ctx)
	if err != nil && ctx.Err() == nil {
		p.logger.WarnContext(ctx, "not advertised until Avahi is there", "error", err)
	}
}

// rename has Avahi choose another name.
func (p *publisher) rename(ctx context.Context) error {
	return p.call(ctx, "/", server+".GetAlternativeServiceName", p.service.Name).Store(&p.service.Name)
}

func (p *publisher) tell(ctx context.Context) error {
	var state int32
	if err := p.call(ctx, "/", server+".GetState").Store(&state); err != nil || state != serverRunning {
		return err
	}
	if p.entries != "" {
		p.call(ctx, p.entries, group+".Free") // if it is gone, all the better
		p.entries = ""
	}
	if err := p.call(ctx, "/", server+".EntryGroupNew").Store(&p.entries); err != nil {
		return err
	}
	err := p.add(ctx)
	for range renames {
		var e dbus.Error
		if !errors.As(err, &e) || e.Name != avahi+".CollisionError" { // on this machine
			break
		}
		if err = p.rename(ctx); err == nil {
			err = p.add(ctx)
		}
	}
	if err != nil {
		return err
	}
	return p.call(ctx, p.entries, group+".Commit").Err
}

// renames is how many services of the same name there may be on a machine.
const renames = 20

func (p *publisher) add(ctx context.Context) error {
	const flags, domain, host = uint32(0), "", "" // Avahi's own
	return p.call(ctx, p.entries, group+".AddService", unspecified, unspecified, flags,
		p.service.Name, p.service.Type, domain, host, p.service.Port, [][]byte{}).Err
}
