package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// applyUnchecked is what Apply does of a script, without the preflight. On error the generation before
// has been started again, if it was stopped.
func applyUnchecked(t *testing.T, d *Deployment, script string) (*Generation, error) {
	t.Helper()
	was, err := d.settle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := d.next(Revision{Script: script}, was)
	if err := d.create(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if g.beside(was) {
		return g, d.sideBySide(t.Context(), was, g)
	}
	if err = d.replace(t.Context(), was, g, 0); err != nil {
		if outcome, e := d.restore(t.Context(), was, g); e != nil || outcome != RolledBack {
			t.Fatalf("%v: %v", outcome, e)
		}
	}
	return g, err
}

// A mute is a runner that does not answer.
type mute struct{ Supervisor }

var errMute = errors.New("nobody there")

func (*mute) Start(context.Context, Unit) error       { return errMute }
func (*mute) Units(context.Context) ([]string, error) { return nil, errMute }

// What is found out only when the old container has been stopped: it was, for nothing.
func TestRealLateRefusals(t *testing.T) {
	t.Parallel()
	scripts := samples(t)
	small, dir := mountTmpfs(t, "16M"), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	mustWrite(t, at("plain"), "pid-file")
	mustWrite(t, at("key"), "secret")
	mustWrite(t, at("another's"), "secret")
	if err := errors.Join(os.Chown(at("another's"), 65534, 65534), unix.Mkfifo(at("pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	d, _ := realDeployment(t)
	d.Dir, d.MinFree, d.Probes = filepath.Join(small, "deployment"), 1, Probes{Alive{}}
	one := mustApply(t, d, scripts["one"])

	secret := func(all ...Secret) func(e *Deployment) {
		return func(e *Deployment) { e.Environment.Secrets = all }
	}
	setting := func(name, value string) func(e *Deployment) {
		return func(e *Deployment) { e.Environment.Settings[name] = value }
	}
	network := func(n Network) func(e *Deployment) {
		return func(e *Deployment) { e.Environment.Network = n }
	}
	hook := func(name string) func(e *Deployment) {
		return func(e *Deployment) { e.Switch.Hooks = []Hook{{Command: []string{name}}} }
	}
	snapshot := func(name string) func(e *Deployment) {
		return func(e *Deployment) { e.Switch.Snapshot = []string{name} }
	}
	nothing := func(*Deployment) {}
	v4, v6 := freeAddress(t), netip.MustParseAddr("fd6f::1")
	for _, c := range []struct {
		check, says, script string
		change              func(e *Deployment)
	}{
		{"script", "is not an absolute file name", "run-container", nothing},
		{"script", "no such file", "/gnu/store/nonexistent-run-container", nothing},
		{"script", "cannot be executed", at("plain"), nothing},
		{"script", "cannot be executed", dir, nothing},
		{"environment", "a name consists of", scripts["two"], setting("A; reboot #", "1")},
		{"environment", "holds a null character", scripts["two"], setting("A", "1\x002")},
		{"environment", "unknown format", scripts["two"], func(e *Deployment) { e.Environment.Format = "yaml" }},
		{"environment", "two secrets are called", scripts["two"], secret(Secret{Name: "key", File: at("key")}, Secret{Name: "key", File: at("key")})},
		{"environment", "not a name for a file", scripts["two"], secret(Secret{Name: "../key", File: at("key")})},
		{"environment", "is not an absolute file name", scripts["two"], secret(Secret{Name: "key", File: "key"})},
		{"environment", "no such file", scripts["two"], secret(Secret{Name: "key", File: at("nothing")})},
		{"environment", "is not a regular file", scripts["two"], secret(Secret{Name: "key", File: at("pipe")})},
		{"environment", "is in the store", scripts["two"], secret(Secret{Name: "key", File: scripts["two"]})},
		{"environment", "belongs to user 65534", scripts["two"], secret(Secret{Name: "key", File: at("another's")})},
		{"runner", `there is no runner "manager" here`, scripts["two"], func(e *Deployment) { e.Environment.Runner = "manager" }},
		{"runner", "does not answer: nobody there", scripts["two"], func(e *Deployment) {
			e.Environment.Runner, e.Runners = "manager", map[string]Runner{"manager": new(mute)}
		}},
		{"network", "an address and another one", scripts["own two"], network(Network{Address: v4})},
		{"network", "an address and another one", scripts["own two"], network(Network{Gateway: v4})},
		{"network", "an address and another one", scripts["own two"], network(Network{Address: v4, Gateway: v6})},
		{"network", "an address and another one", scripts["own two"], network(Network{Address: v6, Gateway: v4})},
		{"hook", "is not an absolute file name", scripts["two"], hook("migrate")},
		{"hook", "no such file", scripts["two"], hook(at("nothing"))},
		{"hook", "cannot be executed", scripts["two"], hook(at("plain"))},
		{"hook", "no such file", scripts["two"], func(e *Deployment) { e.Switch.Traffic = &Hook{Command: []string{at("nothing")}} }},
		{"snapshot", "there is no writable mount of that name", scripts["two"], snapshot("data")},
		{"snapshot", "is mounted", scripts["two"], func(e *Deployment) {
			if err := os.Mkdir(at("state"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(small, at("state"), "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unmount(t, at("state")) })
			e.Shares = append(e.Shares, Mount{Name: "more", Source: dir, Target: "/srv/more"})
			snapshot("more")(e)
		}},
		{"snapshot", "a snapshot needs", scripts["two"], func(e *Deployment) {
			mustWrite(t, filepath.Join(d.Shares[0].Source, "large"), strings.Repeat("x", 20<<20))
			snapshot("state")(e)
		}},
	} {
		t.Run(c.says, func(t *testing.T) {
			before := checkRuns(t, d, one)
			e := *d
			e.Environment.Settings = maps.Clone(d.Environment.Settings)
			c.change(&e)
			_, err := applyUnchecked(t, &e, c.script)
			if err == nil {
				t.Error("it is no failure")
			}
			// A launcher that cannot be started is found out before; what is wrong with the rest, only then.
			if untouched := c.check == "script" || c.check == "runner"; before.Alive() != untouched {
				t.Errorf("the old container runs on: %v; %v", !untouched, err)
			}
			checkRuns(t, d, one)
			wantRefusal(t, &e, c.script, c.check, c.says)
		})
	}
}

// A duel is a generation that runs, and another one that is not to be put beside it as it is.
type duel struct {
	*Deployment
	one    *Instance
	script string // of the other one
	hooked string // the file to which the hook writes where it sends clients
}

func (d *duel) clients(t *testing.T) string {
	return strings.TrimSpace(string(readFile(t, d.hooked)))
}

// mustFollow puts the other one beside the first without the preflight, and returns what runs then.
func (d *duel) mustFollow(t *testing.T) *Instance {
	t.Helper()
	g, err := applyUnchecked(t, d.Deployment, d.script)
	if err != nil {
		t.Fatal(err)
	}
	return checkRuns(t, d.Deployment, g)
}

// wantFailure has it fail.
func (d *duel) wantFailure(t *testing.T, says string) {
	t.Helper()
	if _, err := applyUnchecked(t, d.Deployment, d.script); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("error %v, want %q", err, says)
	}
}

// staysBehind shows that clients go on asking the old one.
func (d *duel) staysBehind(t *testing.T) {
	before := d.clients(t)
	awaitWeb(t, d.mustFollow(t))
	if after := d.clients(t); after != before || !strings.HasSuffix(webText(after), "one") {
		t.Errorf("clients were at %s and are at %s: %s", before, after, webText(after))
	}
}

// hidesBehind shows that the new one is taken for well because the old one answers.
func (d *duel) hidesBehind(t *testing.T) {
	d.Probes = Probes{HTTP{URL: "http://127.0.0.1:${PORT}/"}}
	two := d.mustFollow(t)
	eventually(t, func() error {
		var guilty *ServiceError
		if _, err := (Services{[]string{"web"}}).Check(t.Context(), two, nil); !errors.As(err, &guilty) || guilty.Service.Status != "stopped" {
			return fmt.Errorf("service web of the new one: %v", err)
		}
		return nil
	})
}

// isNowhere shows that clients are sent to no port.
func (d *duel) isNowhere(t *testing.T) {
	d.mustFollow(t)
	if where := d.clients(t); !strings.HasSuffix(where, ":") {
		t.Errorf("clients go to %s", where)
	}
}

// Two generations side by side that get into each other's way, or clients into none.
func TestRealSideBySideRefusals(t *testing.T) {
	t.Parallel()
	scripts := samples(t)
	for _, c := range []struct {
		name, says string
		private    bool
		change     func(d *Deployment)
		shows      func(d *duel, t *testing.T)
	}{
		{"no hook", "side by side takes ports, other ports, and a hook", false,
			func(d *Deployment) { d.Switch.Traffic = nil }, (*duel).staysBehind},
		{"no other ports", "side by side takes ports, other ports, and a hook", false,
			func(d *Deployment) { d.Switch.Alternate = Alternate{} }, (*duel).hidesBehind},
		{"no ports", "side by side takes ports, other ports, and a hook", false,
			func(d *Deployment) { d.Environment.Ports = nil }, (*duel).isNowhere},
		{"no hook for a network", "takes ports, another address, and a hook", true,
			func(d *Deployment) { d.Switch.Traffic = nil }, (*duel).staysBehind},
		{"no other address", "takes ports, another address, and a hook", true,
			func(d *Deployment) { d.Switch.Alternate = Alternate{} },
			func(d *duel, t *testing.T) { d.wantFailure(t, "connect the container to network invalid IP") }},
		{"no ports of a network", "takes ports, another address, and a hook", true,
			func(d *Deployment) { d.Environment.Ports = nil }, (*duel).isNowhere},
		{"same port", "cannot be the other port of itself", false,
			func(d *Deployment) { d.Switch.Alternate = Alternate{Ports: d.Environment.Ports} }, (*duel).hidesBehind},
		{"same address", "cannot be the other one of", true,
			func(d *Deployment) { d.Switch.Alternate.Address = d.Environment.Network.Address },
			func(d *duel, t *testing.T) { d.wantFailure(t, "file exists") }},
		{"another kind of address", "cannot be the other one of", true,
			func(d *Deployment) { d.Switch.Alternate.Address = netip.MustParseAddr("fd6f::1") },
			func(d *duel, t *testing.T) { d.wantFailure(t, "not the same IP family") }},
		{"address without a network", "another address is for a container with a network of its own", false,
			func(d *Deployment) { d.Switch.Alternate.Address = freeAddress(t) },
			func(d *duel, t *testing.T) {
				two := d.mustFollow(t)
				awaitWeb(t, two)
				address := net.JoinHostPort(d.Switch.Alternate.Address.String(), two.Generation.Environment.Settings["PORT"])
				wantLost(t, address, "two")
			}},
		// What runs beside is on the other side of its ports, where the setting is empty and not what it was: absent.
		{"setting without a value", `setting "NEW" needs a value both here and on the other ports`, false,
			func(d *Deployment) { d.Switch.Alternate.Settings["NEW"] = "1" },
			func(d *duel, t *testing.T) {
				two := d.mustFollow(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if err := d.endStandby(ctx, standing{current: two.Generation, running: two, beside: d.one}); err != nil {
					t.Fatal(err)
				}
				err := d.RunBeside(ctx, two.Generation.Number, Beside{}, func(in *Instance) {
					if got := inside(t, in, "/bin/sh", "-c", `. /etc/guixci/settings; echo "${NEW-absent}"`); got != "" {
						t.Errorf("the setting is %q", got)
					}
					cancel()
				})
				if err != nil {
					t.Error(err)
				}
			}},
		// The state that a migration has damaged does not come back.
		{"snapshot", "the old generation goes on", false,
			func(d *Deployment) {
				d.Switch.Snapshot = []string{"state"}
				d.Switch.Hooks = []Hook{{Command: []string{"/bin/sh", "-c", `echo damaged > "$GUIXCI_MOUNT_STATE/starts"; exit 3`}}}
			},
			func(d *duel, t *testing.T) {
				d.wantFailure(t, "exit status 3")
				if text := readFile(t, filepath.Join(d.Shares[0].Source, "starts")); string(text) != "damaged\n" {
					t.Errorf("the state has %q", text)
				}
			}},
		{"state of both", "would be written to by the old generation and the new one", false,
			func(d *Deployment) { d.Shares[0].Concurrent = false },
			func(d *duel, t *testing.T) {
				d.mustFollow(t)
				eventually(t, func() error {
					if checkJournal(numbers(t, d.Deployment)) == nil {
						return errors.New("two containers count in one journal, and it is intact")
					}
					return nil
				})
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, _ := realDeployment(t)
			other := &duel{Deployment: d, script: scripts["two"], hooked: filepath.Join(t.TempDir(), "target")}
			setBeside(d, other.hooked, guixtest.FreePort(t), guixtest.FreePort(t))
			d.Switch.Traffic.Command = []string{"/bin/sh", "-c", `echo "${GUIXCI_ADDRESS:-127.0.0.1}:$GUIXCI_PORTS" > "$0"`, other.hooked}
			d.Shares[0].Concurrent = true
			script := scripts["one"]
			if c.private {
				script, other.script = scripts["own one"], scripts["own two"]
				d.Environment.Network, d.Environment.Settings["LISTEN"] = Network{freeAddress(t), freeAddress(t)}, "0.0.0.0"
				d.Switch.Alternate = Alternate{Address: freeAddress(t)}
			}
			other.one = checkRuns(t, d, mustApply(t, d, script))
			awaitWeb(t, other.one)

			c.change(d)
			p, err := d.Plan(t.Context(), Revision{Script: other.script})
			if err != nil || !slices.ContainsFunc(p.Refusals, func(r Refusal) bool { return strings.Contains(r.Reason, c.says) }) {
				t.Errorf("plan %+v, %v", p, err)
			}
			_, err = d.Apply(t.Context(), Revision{Script: other.script})
			wantOutcome(t, err, Refused)
			c.shows(other, t)
		})
	}
}
