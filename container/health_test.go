package container

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func servicesOf(t *testing.T, file string) []Service {
	t.Helper()
	s, _ := saying(string(testdata(t, file)))
	services, err := s.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return services
}

func TestProblems(t *testing.T) {
	services := servicesOf(t, "status-trouble.sexp")
	got := make(map[string]string)
	for _, s := range expected(services, nil) {
		if problem := s.problem(services); problem != "" {
			got[s.Name()] = problem
		}
	}
	want := map[string]string{
		"bad":     "is stopped after 1 failure to start",
		"badshot": "failed",
		"flappy":  "was given up after 4 respawns",
		"idle":    "is stopped",
		"orphan":  "is stopped: it requires networking, which no service provides",
		"thrower": "is stopped after 1 failure to start",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	for _, s := range expected(services, []string{"idle", "http"}) {
		if s.Name() == "idle" || s.Name() == "web" || s.Name() == "disabled" {
			t.Errorf("%s counts", s.Name())
		}
	}
}

// What counts is what the probes ask for; without one of services, all.
func TestUnwell(t *testing.T) {
	services := servicesOf(t, "status-trouble.sexp")
	all := []string{"bad", "badshot", "flappy", "idle", "orphan", "thrower"}
	for _, c := range []struct {
		probes Probes
		want   []string
	}{
		{nil, all},
		{Probes{Alive{}, HTTP{}}, all},
		{Probes{AllServices{Except: []string{"idle", "bad"}}}, []string{"badshot", "flappy", "orphan", "thrower"}},
		{Probes{Services{[]string{"web", "idle", "gone"}}}, []string{"gone", "idle"}},
		{Probes{AllServices{}, Services{[]string{"idle", "gone"}}}, append([]string{"gone"}, all...)},
	} {
		var got []string
		for _, e := range c.probes.unwell(services) {
			got = append(got, e.Service.Name())
			if e.Service.Name() == "gone" && e.Problem != "is not known to shepherd" {
				t.Error(e)
			}
		}
		slices.Sort(got)
		if want := slices.Sorted(slices.Values(c.want)); !slices.Equal(got, want) {
			t.Errorf("%v: %q, want %q", c.probes, got, want)
		}
	}
}

func TestJudgeServices(t *testing.T) {
	services := servicesOf(t, "status-works.sexp")
	memory, err := judgeServices(services, expected(services, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := judgeServices(services, expected(services, nil), memory); err != nil {
		t.Error(err)
	}
	// It runs again, but was respawned since.
	i := slices.IndexFunc(services, func(s Service) bool { return s.provides("web") })
	services[i].Respawns = append(services[i].Respawns, time.Now(), time.Now())
	services[i].Messages = []Message{{time.Now(), "assertion failed"}}
	_, err = judgeServices(services, expected(services, nil), memory)
	if err == nil || !strings.Contains(err.Error(), "had 2 respawns since it was well") ||
		!strings.Contains(err.Error(), "assertion failed") {
		t.Errorf("error %v", err)
	}
	// A service that was never well is judged by what it is now.
	if _, err := judgeServices(services, expected(services, nil), nil); err != nil {
		t.Error(err)
	}
}

func TestRequirementNotRunning(t *testing.T) {
	services := []Service{
		{Provides: []string{"db"}, Status: "starting", Enabled: true},
		{Provides: []string{"web"}, Status: "stopped", Enabled: true, Requires: []string{"db"}},
	}
	if got := services[1].problem(services); got != "is stopped: it requires db, which is starting" {
		t.Error(got)
	}
}

func TestLastWords(t *testing.T) {
	services := servicesOf(t, "status-fails.sexp")
	broken, _ := find(services, "broken")
	words := strings.Join(lastWords(services, broken), "\n")
	for _, text := range []string{"Starting service broken...", "cannot read /etc/sample.conf: no such file", "Service broken failed to start."} {
		if !strings.Contains(words, text) {
			t.Errorf("does not say %q:\n%s", text, words)
		}
	}
	if strings.Contains(words, "Service web") {
		t.Errorf("speaks of others:\n%s", words)
	}
}
