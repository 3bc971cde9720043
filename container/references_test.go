package container

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProbesReferToSettings(t *testing.T) {
	e := Environment{Settings: map[string]string{"PORT": "81"}, Network: Network{Address: netip.MustParseAddr("10.77.0.2")}}
	all := Probes{HTTP{URL: "http://${ADDRESS}:${PORT}/$PORT?cost=$1"}, TCP{Address: "${HOST}:${PORT}"}, TLS{Address: "${ADDRESS}:${PORT}"},
		DNS{Name: "${PORT}.example.org"}, Alive{}}
	want := Probes{HTTP{URL: "http://10.77.0.2:81/$PORT?cost=$1"}, TCP{Address: "${HOST}:81"}, TLS{Address: "10.77.0.2:81"},
		DNS{Name: "81.example.org"}, Alive{}}
	if diff := cmp.Diff(want, all.expand(e)); diff != "" {
		t.Error(diff)
	}
}

// What would fail for ever is not tried: neither from scratch, nor by what runs.
func TestProbesThatCannotPass(t *testing.T) {
	d := testDeployment(t)
	works := script(t, d, "works", "status-works.sexp")
	good := d.Probes
	d.Environment.Settings = map[string]string{"PORT": "81", "HOST": "localhost"}
	for range 2 {
		for says, p := range map[string]Probe{
			"there is no setting for ${PROT}: there are HOST, PORT": HTTP{URL: "http://${HOST}:${PROT}/"},
			"there is no setting for ${ADDRESS}":                    TCP{Address: "${ADDRESS}:81"},
			"there is no setting for ${NAME}":                       DNS{Name: "${NAME}"},
			`no channel "gn"`:                                       HTTP{URL: "http://localhost/", VersionOf: "gn"},
		} {
			d.Probes = Probes{p}
			wantRefusal(t, d, works, "probe", says)
		}
		d.Probes = good
		mustApply(t, d, works)
	}
}

// What was rejected may have been rejected for a mistake in a probe, a hook, or the schedule.
func TestRejectedForTheWay(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 { // well once, which ends the start period
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	flag := filepath.Join(t.TempDir(), "flag")
	mistakes := map[string]func(d *Deployment){
		"probe": func(d *Deployment) { d.Probes = Probes{HTTP{URL: server.URL}} },
		"hook":  func(d *Deployment) { d.Switch.Hooks = []Hook{{Command: []string{"/bin/false"}}} },
		"schedule": func(d *Deployment) {
			d.Schedule.StartPeriod = 1
			d.Probes = Probes{probeFunc(func() error { _, err := os.Stat(flag); return err })}
		},
	}
	for name, mistake := range mistakes {
		t.Run(name, func(t *testing.T) {
			d := testDeployment(t)
			works := script(t, d, "works", "status-works.sexp")
			bad := *d
			mistake(&bad)
			_, err := bad.Apply(t.Context(), Revision{Script: works})
			wantOutcome(t, err, Kept)
			_, err = bad.Apply(t.Context(), Revision{Script: works})
			wantOutcome(t, err, Refused)
			if !strings.Contains(err.Error(), "tried again only when asked for") {
				t.Errorf("error %v", err)
			}
			if p, err := d.Plan(t.Context(), Revision{Script: works}); err != nil || len(p.Refusals) > 0 {
				t.Errorf("%+v, %v", p, err)
			}
			checkRuns(t, d, mustApply(t, d, works))
			if err := d.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			bad.Environment.Settings = map[string]string{"A": "1"} // something else again
			if p, err := bad.Plan(t.Context(), Revision{Script: works}); err != nil || len(p.Refusals) > 0 {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
}
