package avahi

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// startBus starts a message bus, on which anybody may do anything, as the system's.
func startBus(t *testing.T) {
	t.Helper()
	guixtest.Require(t)
	dir := t.TempDir()
	address := "unix:path=" + filepath.Join(dir, "bus")
	config := filepath.Join(dir, "bus.conf")
	text := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>` + address + `</listen>
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/></policy>
</busconfig>
`
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--print-address")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, address) {
		t.Fatalf("bus at %q, %v", line, err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
}

// A standIn takes Avahi's place on the bus. It knows the methods that are called, by the types of their arguments.
type standIn struct {
	t     *testing.T
	bus   *dbus.Conn
	told  chan Service // of each announcement
	freed chan bool

	mu    sync.Mutex // guards what follows
	taken string     // a name that is there already
	added Service
}

func connectStandIn(t *testing.T) *standIn {
	t.Helper()
	bus, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	s := &standIn{t: t, bus: bus, told: make(chan Service, 10), freed: make(chan bool, 10)}
	if err := bus.Export(standInServer{s}, "/", server); err != nil {
		t.Fatal(err)
	}
	if err := bus.Export(standInGroup{s}, entries, group); err != nil {
		t.Fatal(err)
	}
	return s
}

const entries = "/Client1/EntryGroup1"

// appear makes the stand-in be Avahi.
func (s *standIn) appear() {
	s.t.Helper()
	if reply, err := s.bus.RequestName(avahi, 0); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		s.t.Fatalf("reply %v, %v", reply, err)
	}
}

// wants waits for the announcement of a service.
func (s *standIn) wants(want Service) {
	s.t.Helper()
	late := time.After(3 * time.Minute)
	for {
		select {
		case got := <-s.told:
			if got == want {
				return
			}
			s.t.Logf("told of %v", got) // twice, perhaps: when we appear, and when it asks
		case <-late:
			s.t.Fatalf("not told of %v", want)
		}
	}
}

type standInServer struct{ *standIn }

func (s standInServer) GetState() (int32, *dbus.Error) { return serverRunning, nil }

func (s standInServer) EntryGroupNew() (dbus.ObjectPath, *dbus.Error) { return entries, nil }

func (s standInServer) GetAlternativeServiceName(name string) (string, *dbus.Error) {
	return name + " #2", nil
}

type standInGroup struct{ *standIn }

func (s standInGroup) AddService(iface, protocol int32, flags uint32, name, kind, domain, host string, port uint16, txt [][]byte) *dbus.Error {
	if iface != -1 || protocol != -1 || flags != 0 || domain != "" || host != "" || len(txt) != 0 {
		s.t.Errorf("interface %d, protocol %d, flags %d, domain %q, host %q, text %q", iface, protocol, flags, domain, host, txt)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == s.taken {
		return dbus.NewError(avahi+".CollisionError", []any{"Local name collision"})
	}
	s.added = Service{name, kind, port}
	return nil
}

func (s standInGroup) Commit() *dbus.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told <- s.added
	return nil
}

func (s standInGroup) Free() *dbus.Error {
	s.freed <- true
	return nil
}

// A service is announced when Avahi appears, or appears again, or becomes ready; under another name if somebody has it.
// It ends with the publisher's connection, which is how Avahi knows.
func TestPublish(t *testing.T) {
	startBus(t)
	s := connectStandIn(t)
	gone := make(chan *dbus.Signal, 64)
	s.bus.Signal(gone)
	if err := s.bus.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged")); err != nil {
		t.Fatal(err)
	}
	service := Service{Name: "guix-publish-here", Type: "_guix_publish._tcp", Port: 8080}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func(service Service) {
		defer close(ended)
		Publish(ctx, service, slog.New(slog.DiscardHandler))
	}(service)
	s.appear()
	s.wants(service)

	emit := func(path dbus.ObjectPath, name string, state int32) {
		t.Helper()
		if err := s.bus.Emit(path, name, state, ""); err != nil {
			t.Fatal(err)
		}
	}
	for len(s.freed) > 0 {
		<-s.freed
	}
	emit("/", server+".StateChanged", serverRunning) // after its host has got another name, for example
	s.wants(service)
	if !<-s.freed {
		t.Error("what was announced before is still there")
	}

	if _, err := s.bus.ReleaseName(avahi); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.taken = service.Name
	s.mu.Unlock()
	s.appear()
	service.Name += " #2"
	s.wants(service)

	emit(entries, group+".StateChanged", groupCollision)
	service.Name += " #2"
	s.wants(service)

	cancel()
	<-ended
	late := time.After(3 * time.Minute)
	for {
		select {
		case e := <-gone:
			if e.Name != ownership {
				continue
			}
			if name, owner := e.Body[0].(string), e.Body[2].(string); owner == "" && strings.HasPrefix(name, ":") {
				return // the only other one on this bus
			}
		case <-late:
			t.Fatal("the publisher is still connected")
		}
	}
}
