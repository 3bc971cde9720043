package guixci

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/sexp"
)

func TestEventJSON(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const head = `"time":"2026-01-02T03:04:05Z","specification":"s"`
	tests := []struct {
		event Event
		want  string
	}{
		{Event{Kind: Authenticated}, `{"event":"authenticate",` + head + `,"commits":0}`},
		{Event{Kind: Pulled, Verdict: &Verdict{Green: true, Profile: "/gnu/store/p", Channels: []ChannelVerdict{{"guix", "c0", "green"}}}},
			`{"event":"pull",` + head + `,"verdict":{"green":true,"profile":"/gnu/store/p","channels":[{"name":"guix","commit":"c0","result":"green"}]}}`},
		{Event{Kind: Evaluated, Job: &inferior.Job{Name: "hello.x86_64-linux", System: "x86_64-linux", Package: "hello", Version: "2.12",
			Derivation: "/gnu/store/d.drv", Outputs: map[string]string{"out": "/gnu/store/o"}, Location: inferior.Location{File: "a.scm", Line: 7}}},
			`{"event":"job",` + head + `,"job":{"name":"hello.x86_64-linux","system":"x86_64-linux","package":"hello","version":"2.12",` +
				`"location":"a.scm:7","outputs":{"out":"/gnu/store/o"},"derivation":"/gnu/store/d.drv"}}`},
		{Event{Kind: Evaluated, Job: &inferior.Job{Name: "bad.x86_64-linux", System: "x86_64-linux", Package: "bad",
			Err: &inferior.Exception{Key: "misc-error", Args: []sexp.Value{sexp.String("no such thing")}}}},
			`{"event":"job",` + head + `,"job":{"name":"bad.x86_64-linux","system":"x86_64-linux","package":"bad","error":"misc-error: no such thing"}}`},
		{Event{Kind: Enumerated}, `{"event":"evaluation",` + head + `}`},
		{Event{Kind: Built, Build: &build.Event{Kind: build.Started, Derivation: "/gnu/store/d.drv", Result: build.Result{Started: at, Log: "d.log"}}},
			`{"event":"build",` + head + `,"build":{"kind":"started","derivation":"/gnu/store/d.drv","started":"2026-01-02T03:04:05Z","log":"d.log"}}`},
		{Event{Kind: Built, Build: &build.Event{Kind: build.JobDone, Derivation: "/gnu/store/d.drv", Job: build.Job{Name: "hello.x86_64-linux"},
			Result: build.Result{Cause: build.DependencyFailed, Culprit: "/gnu/store/e.drv", Stopped: at}}},
			`{"event":"build",` + head + `,"build":{"kind":"job","derivation":"/gnu/store/d.drv","job":"hello.x86_64-linux",` +
				`"cause":"dependency failed","culprit":"/gnu/store/e.drv","stopped":"2026-01-02T03:04:05Z"}}`},
	}
	for _, test := range tests {
		test.event.Time, test.event.Specification = at, "s"
		got, err := json.Marshal(test.event)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.event.Kind, diff)
		}
	}
}
