package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Each letter is a check, one second apart: "." passes, "x" fails.
func TestSchedule(t *testing.T) {
	schedule := Schedule{StartPeriod: 5 * time.Second, Interval: time.Second, Window: 2 * time.Second, Threshold: 3}
	for _, c := range []struct {
		name, checks string
		healthy      bool
		after        int // checks, at which it is decided
	}{
		{"well at once", "...", true, 3},
		{"failures in the start period do not count", "xxxxx...", true, 8},
		{"never well", "xxxxxxxx", false, 8},
		{"once well the start period is over", ".xxx", false, 4},
		{"a failure starts the window again", ".x..x...", true, 8},
		{"flapping ends", "..x..x..x", false, 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				probe := probeFunc(func() error {
					if n++; c.checks[n-1] == 'x' {
						return errors.New("not well")
					}
					return nil
				})
				a := &awaiting{probes: Probes{probe}, memory: make([]any, 1), schedule: schedule.withDefaults(), begin: time.Now()}
				for {
					done, err := a.check(t.Context(), &Instance{d: new(Deployment)})
					if done || err != nil {
						if done != c.healthy || n != c.after {
							t.Errorf("after %d checks: healthy %v, error %v", n, done, err)
						}
						return
					}
					time.Sleep(time.Second) // in synctest
				}
			})
		})
	}
}

// A service that dies while others still come up has not got worse; one that dies afterwards has.
func TestScheduleForgetsTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := Service{Provides: []string{"web"}, Status: "running", Enabled: true}
		services := changingProbe(func(memory any) (any, error) {
			return judgeServices([]Service{web}, []Service{web}, memory)
		})
		up := errors.New("not up")
		other := probeFunc(func() error { return up })
		a := &awaiting{probes: Probes{services, other}, memory: make([]any, 2), schedule: Schedule{StartPeriod: time.Minute, Threshold: 1}.withDefaults(), begin: time.Now()}
		if _, err := a.check(t.Context(), &Instance{d: new(Deployment)}); err != nil {
			t.Fatal(err)
		}
		web.Respawns = append(web.Respawns, time.Now())
		up = nil
		if _, err := a.check(t.Context(), &Instance{d: new(Deployment)}); err != nil || !a.started {
			t.Fatalf("a respawn in the start period counts: %v", err)
		}
		web.Respawns = append(web.Respawns, time.Now())
		if _, err := a.check(t.Context(), &Instance{d: new(Deployment)}); err == nil || !strings.Contains(err.Error(), "1 respawn since it was well") {
			t.Errorf("a respawn after it does not: %v", err)
		}
	})
}

// A changingProbe is a probe that calls a function with its memory.
type changingProbe func(memory any) (any, error)

func (f changingProbe) String() string { return "of a test" }
func (f changingProbe) Check(_ context.Context, _ *Instance, memory any) (any, error) {
	return f(memory)
}

// A patient probe passes until the other one says something, a regular expression, and is that one from then on. It takes the
// place of a start period that ends before a slow machine has come that far.
type patient struct {
	Probe
	says *regexp.Regexp

	begin time.Time
	said  bool
}

func (p *patient) Check(ctx context.Context, in *Instance, memory any) (any, error) {
	if p.begin.IsZero() {
		p.begin = time.Now()
	}
	memory, err := p.Probe.Check(ctx, in, memory)
	switch p.said = p.said || err != nil && p.says.MatchString(err.Error()); {
	case p.said:
		return memory, err
	case time.Since(p.begin) > 2*time.Minute:
		return memory, fmt.Errorf("not %q within two minutes, but %v", p.says, err)
	}
	return memory, nil
}

// failing has a deployment fail as soon as a probe says that.
func failing(d *Deployment, p Probe, says string) {
	d.Probes, d.Schedule.Window = Probes{&patient{Probe: p, says: regexp.MustCompile(says)}}, time.Hour
}

func TestProbeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := ctxProbe(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		a := &awaiting{probes: Probes{hangs}, memory: make([]any, 1), schedule: Schedule{Threshold: 1}.withDefaults()}
		begin := time.Now()
		_, err := a.check(t.Context(), &Instance{d: new(Deployment)})
		var unhealthy *UnhealthyError
		if !errors.As(err, &unhealthy) || !strings.Contains(err.Error(), "no answer within 5s") {
			t.Errorf("error %v", err)
		}
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// A ctxProbe is a probe that calls a function with its context.
type ctxProbe func(ctx context.Context) error

func (f ctxProbe) String() string { return "of a test" }
func (f ctxProbe) Check(ctx context.Context, _ *Instance, _ any) (any, error) {
	return nil, f(ctx)
}

func TestHTTPProbe(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/sick":
			http.Error(w, "database is locked", http.StatusInternalServerError)
		case "/slow":
			<-r.Context().Done()
		default:
			w.Header().Set("X-Version", "web 1.2.3, commit 89abcdef01")
			w.Write([]byte("version 0123abc"))
		}
	}))
	defer server.Close()
	in := &Instance{Generation: &Generation{Channels: []Channel{{Name: "web", Commit: "89abcdef0123456789abcdef0123456789abcdef"}}}}
	for _, c := range []struct {
		probe HTTP
		fails string
	}{
		{HTTP{URL: server.URL}, ""},
		{HTTP{URL: server.URL, Status: 200, Contains: "0123"}, ""},
		{HTTP{URL: server.URL, Contains: "4567"}, `does not contain "4567": version 0123abc`},
		{HTTP{URL: server.URL + "/moved"}, "status 302, want 200 to 299"},
		{HTTP{URL: server.URL + "/moved", Status: 302}, ""},
		{HTTP{URL: server.URL + "/sick"}, "status 500, want 200 to 299: database is locked"},
		{HTTP{URL: server.URL + "/slow"}, "deadline exceeded"},
		{HTTP{URL: "gopher://x"}, "unsupported protocol"},
		{HTTP{URL: server.URL, Within: time.Minute}, ""},
		{HTTP{URL: server.URL, Within: time.Nanosecond}, "which is over the budget of 1ns"},
		{HTTP{URL: server.URL, Version: "0123abc"}, ""},
		{HTTP{URL: server.URL, Version: "0123"}, `version "0123" is not served: the body says "version 0123abc"`},
		{HTTP{URL: server.URL, Version: "1.2.3", Header: "X-Version"}, ""},
		{HTTP{URL: server.URL, Version: "1.2", Header: "X-Version"}, `header X-Version says "web 1.2.3, commit 89abcdef01"`},
		{HTTP{URL: server.URL, Version: "1.2.3", Header: "X-Other"}, `header X-Other says ""`},
		{HTTP{URL: server.URL, VersionOf: "web", Header: "X-Version"}, ""},
		{HTTP{URL: server.URL, VersionOf: "web"}, "of channel web is not served: the body says"},
		{HTTP{URL: server.URL, VersionOf: "other"}, `no channel "other"`},
	} {
		patience := time.Minute
		if strings.HasSuffix(c.probe.URL, "/slow") {
			patience = 50 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := c.probe.Check(ctx, in, nil)
		cancel()
		if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%v: error %v, want %q", c.probe, err, c.fails)
		}
	}
}

func TestTCPProbe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := TCP{Address: l.Addr().String()}
	if _, err := p.Check(t.Context(), nil, nil); err != nil {
		t.Error(err)
	}
	l.Close()
	if _, err := p.Check(t.Context(), nil, nil); err == nil {
		t.Error("nobody listens, and nothing is missed")
	}
}

func TestProbesAreKept(t *testing.T) {
	probes := Probes{Alive{}, AllServices{Except: []string{"ntpd"}}, Services{Names: []string{"web"}},
		HTTP{URL: "http://localhost/", Status: 204, Contains: "x", Within: time.Second, VersionOf: "web", Inside: true},
		TCP{Address: "localhost:80"}, Unix{"/run/x"}, Command{[]string{"true"}}, TLS{Address: "a:1", ValidFor: time.Hour}, DNS{Name: "a"}}
	custom := probeFunc(func() error { return nil })
	text, err := json.Marshal(append(probes[:len(probes):len(probes)], custom))
	if err != nil {
		t.Fatal(err)
	}
	var got Probes
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(probes, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Without its only probe a generation must not be judged by all services instead.
	if text, err = json.Marshal(Probes{custom}); err != nil || string(text) != `[{"kind":"process","probe":{}}]` {
		t.Errorf("%s, %v", text, err)
	}
	if err := json.Unmarshal([]byte(`[{"kind":"tea leaves"}]`), &got); err == nil || !strings.Contains(err.Error(), "tea leaves") {
		t.Errorf("error %v", err)
	}
}

func TestServicesProbe(t *testing.T) {
	in := &Instance{d: testDeployment(t)}
	serve := func(file string) {
		l, err := net.Listen("unix", in.d.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go answer(l, testdata(t, file))
	}
	if _, err := (AllServices{}).Check(t.Context(), in, nil); err == nil {
		t.Error("there is no shepherd, and nothing is missed")
	}
	serve("status-trouble.sexp")
	for _, c := range []struct {
		probe Probe
		fails string
	}{
		{Services{[]string{"http", "setup"}}, ""},
		{Services{[]string{"nope"}}, "shepherd has no service nope"},
		{Services{[]string{"flappy"}}, "service flappy was given up after 4 respawns"},
		{AllServices{}, "service bad is stopped"},
		{AllServices{Except: strings.Fields("bad badshot flappy orphan idle thrower")}, ""},
	} {
		_, err := c.probe.Check(t.Context(), in, nil)
		if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%v: error %v, want %q", c.probe, err, c.fails)
		}
	}
}

// Before shepherd has read its configuration it has one service, which runs.
func TestServicesProbeTooEarly(t *testing.T) {
	in := &Instance{d: testDeployment(t)}
	l, err := net.Listen("unix", in.d.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go answer(l, []byte(`(reply (version 0) (result (((service (version 0) (provides (root shepherd))
		(requires ()) (enabled? #t) (status running))))) (error #f) (messages ()))`))
	if _, err := (AllServices{}).Check(t.Context(), in, nil); err == nil {
		t.Error("nothing is missed")
	}
}
