package container

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// c1 → c2 → c3
func descends(_ context.Context, old, new Channel) (bool, error) {
	return old.Commit < new.Commit, nil
}

func TestPromote(t *testing.T) {
	ci, production := testDeployment(t), testDeployment(t)
	ci.Environment.Name, production.Environment.Name = "cd", "production"
	deploy := func(commit string) *Generation {
		t.Helper()
		g, err := ci.Apply(t.Context(), Revision{Script: script(t, ci, "works", "status-works.sexp"),
			Lock: commit, Channels: []Channel{{Name: "guix", Commit: commit}}})
		if err != nil {
			t.Fatal(err)
		}
		awaitSocket(t, ci.socket, ci)
		return g
	}
	p := Promotion{From: ci, Descends: descends, Who: "bob"}
	// The stand-in's socket is part of its script, so production uses the same.
	promote := func() *Generation {
		t.Helper()
		g, err := production.Promote(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		awaitSocket(t, ci.socket, production)
		return g
	}
	refused := func() *Error {
		t.Helper()
		_, err := production.Promote(t.Context(), p)
		return wantOutcome(t, err, Refused)
	}
	refused() // nothing has been confirmed

	two := deploy("c2")
	if err := ci.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused() // it does not run
	if _, err := ci.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitSocket(t, ci.socket, ci)
	production.Probes = Probes{Alive{}}
	itself := p
	itself.From = production
	_, err := production.Promote(t.Context(), itself)
	wantOutcome(t, err, Refused)
	g := promote()
	if g.Script != two.Script || g.Lock != "c2" {
		t.Errorf("generation %+v", g)
	}
	difference, err := Diff(t.Context(), nil, two, g)
	if err != nil || !difference.OnlyBindings() || len(difference.Lines) != 2 || // the environment's name, and its probe
		difference.Lines[1].Kind != OfProbe {
		t.Errorf("%+v, %v", difference, err)
	}

	deploy("c1")
	var downgrade *DowngradeError
	if err := refused(); !errors.As(err, &downgrade) || downgrade.Channels[0] != "guix" {
		t.Errorf("error %v", err)
	}
	p.AllowDowngrade = true
	promote()
	history, err := production.History()
	if err != nil || !strings.Contains(history[len(history)-1].Why, "downgrade of guix allowed") {
		t.Errorf("%+v, %v", history, err)
	}
	p.AllowDowngrade = false
	deploy("c3")
	promote()

	// What is unwell there, as its probes did not ask, or cannot be asked, is good for nobody.
	for reply, why := range map[string]string{"status-dies.sexp": "test is unwell: service", "not-found.sexp": "test may be unwell: its shepherd cannot be asked"} {
		applyUnasked(t, ci, reply)
		if err := refused(); !strings.Contains(err.Error(), why) {
			t.Errorf("error %v, want %s", err, why)
		}
	}

	// What was rejected here is promoted again when that is asked for.
	deploy("c4")
	production.Probes, production.Schedule.StartPeriod = Probes{probeFunc(func() error { return errors.New("not here") })}, 1
	_, err = production.Promote(t.Context(), p)
	wantOutcome(t, err, RolledBack)
	awaitSocket(t, ci.socket, production)
	var rejected *RejectedError
	if err := refused(); !errors.As(err, &rejected) || strings.Contains(err.Error(), "--") {
		t.Errorf("error %v", err)
	}
	p.Force = true
	_, err = production.Promote(t.Context(), p)
	wantOutcome(t, err, RolledBack)
}

// awaitSocket waits until it is what runs of a deployment that has the socket: a stand-in takes it from another one, in its
// own time.
func awaitSocket(t *testing.T, socket string, d *Deployment) {
	t.Helper()
	in, err := d.Running()
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		defer conn.Close()
		raw, err := conn.(*net.UnixConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var listener *unix.Ucred
		raw.Control(func(fd uintptr) { listener, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
		return err == nil && int(listener.Pid) == in.Process.PID
	})
}

// applyUnasked applies a script whose shepherd tells, to who asks for it, that services are unwell, or nothing. It returns the script.
func applyUnasked(t *testing.T, d *Deployment, reply string) string {
	t.Helper()
	probes := d.Probes
	defer func() { d.Probes = probes }()
	d.Probes = Probes{Alive{}}
	works := script(t, d, "works", reply)
	mustApply(t, d, works)
	awaitSocket(t, d.socket, d)
	return works
}
