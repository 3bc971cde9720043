package specification_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/specification"
	"github.com/genenetwork/guixci/inferior/sexp"
)

// everything uses all fields and all that is understood without running it.
const everything = `(use-modules (cuirass specification))
;; Two of ours.
(cons* (specification
        (name "my-project")
        (build '(channels my-channel other))
        (channels (cons (channel
                         (name 'my-channel)
                         (url "https://example.org/my-channel.git")
                         (introduction
                          (make-channel-introduction
                           "0000000000000000000000000000000000000001"
                           (openpgp-fingerprint "0000 0000 0000 0000 0000  0000 0000 0000 0000 0002"))))
                        %default-channels))
        (build-outputs (list (build-output (job "image.*") (type "image") (path "disk"))))
        (notifications (list (email (from "ci@example.org") (to "us@example.org") (server "sendmail:///bin/sendmail"))
                             (mastodon)))
        (period 300)
        (priority 2)
        (systems '("x86_64-linux" "aarch64-linux"))
        (properties '((pull-request . 7)))
        (green '("a.x86_64-linux" "b.x86_64-linux"))
        (timeout 7200)
        (max-silent-time 600)
        (sessions 2)
        (session-memory 1000000000))
       (list (specification
              (name 'guix-modules)
              (build '(custom (my jobs)))
              (is-active? #f))))
`

func wantEverything() []specification.Specification {
	guix := channel.DefaultGuix()
	return []specification.Specification{{
		Name:  "my-project",
		Build: specification.Channels("my-channel", "other"),
		Channels: channel.List{{Name: "my-channel", URL: "https://example.org/my-channel.git", Branch: "master",
			Introduction: &channel.Introduction{Commit: channel.Commit(strings.Repeat("0", 39) + "1"), Signer: channel.Fingerprint{19: 2}}}, guix},
		Outputs:       []specification.BuildOutput{{Job: "image.*", Type: "image", Output: "out", Path: "disk"}},
		Notifications: []specification.Notification{{Type: "email", From: "ci@example.org", To: "us@example.org", Server: "sendmail:///bin/sendmail"}, {Type: "mastodon"}},
		Period:        5 * time.Minute, Priority: 2, Systems: []string{"x86_64-linux", "aarch64-linux"}, Properties: "((pull-request . 7))",
		Green:   record.Policy{Jobs: []string{"a.x86_64-linux", "b.x86_64-linux"}},
		Timeout: 2 * time.Hour, MaxSilent: 10 * time.Minute, Sessions: 2, SessionMemory: 1e9,
	}, {
		Name: "guix-modules", Build: specification.Build{Mode: "custom", Arguments: []string{"(my jobs)"}},
		Channels: channel.List{guix}, Priority: 9, Inactive: true,
	}}
}

func TestRead(t *testing.T) {
	got, err := specification.Read("specs.scm", strings.NewReader(everything))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantEverything(), got); diff != "" {
		t.Errorf("specifications (-want +got):\n%s", diff)
	}
}

func TestDefaults(t *testing.T) {
	want := specification.Specification{Name: "x", Build: specification.Build{Mode: "all"}, Channels: channel.List{channel.DefaultGuix()}, Priority: 9}
	for _, text := range []string{`(list (specification (name "x")))`, `[{"name": "x"}]`, `{"name": "x"}`,
		`[{"name": "x", "build": "all", "channels": [{"name":"guix","url":"https://git.guix.gnu.org/guix.git","branch":"master",
		"introduction":{"commit":"9edb3f66fd807b096b48283debdcddccfea34bad","signer":"BBB0 2DDF 2CEA F6A8 0D1D  E643 A2A0 6DF2 A33A 54FA"}}],
		"build-outputs": [], "notifications": [], "period": 0, "priority": 9, "systems": []}]`} {
		got, err := specification.Read("f", strings.NewReader(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := cmp.Diff([]specification.Specification{want}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

// What is wrong is told with its place.
func TestErrors(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "f:1:1: the file does not end in a list of specifications"},
		{"(list (specification\n  (name \"x\")\n", "f:3:1: "},
		{"(list (specification))", "f:1:7: the specification lacks a name"},
		{"(list (specification (name \"x\")\n  (nmae \"y\")))", `f:2:9: a specification has no field "nmae"`},
		{"(list (specification (name \"x\")\n  (name \"y\")))", "f:2:3: field name is given twice"},
		{"(list (specification (name \"x\")\n  (priority 10)))", `f:2:13: specification "x": its priority is 10`},
		{"(list (specification (name \"x\")\n  (priority \"1\")))", `f:2:13: "1" is not an integer`},
		{"(list (specification (name \"x\")\n  (period -5)))", `f:2:11: -5 is not a number of seconds`},
		{"(list (specification (name \"x y\")))", `f:1:28: specification "x y": its name`},
		{"(list (specification (name \"x\") (systems '(\"a\"\n 5))))", `f:2:2: 5 is not a string`},
		{"(list (specification (name \"x\") (build 'al)))", `f:1:41: read build mode: "al" is none of Cuirass's`},
		{"(list (specification (name \"x\") (build '(packages))))", "f:1:41: read build mode: (packages) names nothing"},
		{"(list (specification (name \"x\") (build '(custom 5))))", `f:1:40: specification "x": "5" is not the name of a module`},
		{"(list (specification (name \"x\")\n  (channels '())))", `f:2:13: specification "x": it has no channels`},
		{"(list (specification (name \"x\")\n  (channels (list (channel (name 'y) (url \"u\"))))))", "f:2:13: specification \"x\": 'guix' channel is lacking"},
		{"(list (specification (name \"x\")\n  (channels (list (channel (name 'y))))))", "f:2:19: channel y lacks a url"},
		{"(list (specification (name \"x\"))\n (specification (name \"x\")))", `f:2:23: specification "x": there is another one`},
		{"(list (specification (name \"x\") (build-outputs (list (build-output (job \"j\"))))))", "f:1:54: the build-output lacks type"},
		{"(list (specification (name \"x\") (notifications (list (email (form \"j\"))))))", `f:1:61: email has no field "form"`},
		// Programs.
		{"(define x 1)\n(list (specification (name \"x\")))", "f:1:1: (define x 1) is not plain data"},
		{"(map f '())", "f:1:1: (map f '()) is not plain data"},
		{"(list (specification\n (name (string-append \"x\" \"y\"))))", "f:2:8: (string-append"},
		// JSON.
		{"[{\"name\": \"x\",\n  \"priority\": \"high\"}]", `f:2:20: field "priority" is a string, and must be a number`},
		{"[{\"name\": \"x\",\n  \"systems\": 5}]", `f:2:14: field "systems" is a number, and must be an array`},
		{"[{\"name\": \"x\",\n  \"period\" : -5}]", "f:2:14: -5 is not a number of seconds"},
		{"[{\"name\": \"x\",\n  \"channels\": [\n{\"nmae\": \"y\"}]}]", `f:3:2: there is no field "nmae"`},
		{"[{\"name\": \"x\",\n  \"channels\": [\n{\"name\": \"y\"}]}]", "f:2:15: channel 1 lacks a name, a url"},
		{"[{\"name\": \"x\",\n  \"colour\": 5}]", `f:2:3: there is no field "colour"`},
		{"[{\"name\": \"x\",\n  priority: 5}]", "f:2:3: invalid character"},
		{"[{\"name\": \"x\"},\n {\"name\": \"y\", \"priority\": 11}]", `f:2:28: specification "y": its priority is 11`},
		{"[{\"name\": \"x\"}] []", "f:1:17: more text"},
		{"[{\"name\": \"x\"}", "f:1:"},
	}
	for _, test := range tests {
		_, err := specification.Read("f", strings.NewReader(test.text))
		var syntax *sexp.SyntaxError
		var wrong *specification.Error
		var program *channel.NotDataError
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s\nerror %v\nwant  %s", test.text, err, test.want)
		} else if !errors.As(err, &syntax) && !errors.As(err, &wrong) && !errors.As(err, &program) {
			t.Errorf("%s: error of type %T", test.text, err)
		}
	}
}

func TestInherit(t *testing.T) {
	got, err := specification.Read("f", strings.NewReader(
		`(list (specification (inherit (specification (name "x") (priority 3) (green '("j")))) (name "y") (green 'all)))`))
	if err != nil {
		t.Fatal(err)
	}
	if s := got[0]; s.Name != "y" || s.Priority != 3 || s.Green.Jobs != nil {
		t.Errorf("%+v", s)
	}
}

// sameBothWays writes specifications as Scheme and as JSON, and reads them again.
func sameBothWays(t *testing.T, specs []specification.Specification) {
	t.Helper()
	var scheme bytes.Buffer
	if err := specification.Write(&scheme, specs...); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(specs)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{scheme.String(), string(text)} {
		got, err := specification.Read("again", strings.NewReader(text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if diff := cmp.Diff(specs, got); diff != "" {
			t.Errorf("written and read again (-want +got):\n%s\n%s", diff, text)
		}
	}
}

func TestBothWays(t *testing.T) {
	sameBothWays(t, wantEverything())
	list := channel.List{{Name: "guix", URL: "u", Branch: "b", Commit: "v1.0"}}
	for _, build := range []specification.Build{
		{}, specification.Channels(), specification.Channels("x"), {Mode: "all"}, {Mode: "guix"},
		{Mode: "packages", Arguments: []string{"hello", "guile@3.0"}},
		{Mode: "manifests", Arguments: []string{"a b/manifest.scm"}},
		{Mode: "custom", Arguments: []string{"(a b)", "(c)"}},
	} {
		sameBothWays(t, []specification.Specification{{Name: "x", Channels: list, Build: build}})
		again, err := specification.ParseBuild(build.String())
		if diff := cmp.Diff(build, again); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", build, err, diff)
		}
	}
	if _, err := specification.ParseBuild("my-channel"); err == nil || !strings.Contains(err.Error(), "(channels NAME)") {
		t.Errorf("a channel in place of a mode: %v", err)
	}
}

// What can be read is the same after it was written.
func FuzzRead(f *testing.F) {
	f.Add(everything)
	text, err := json.Marshal(wantEverything())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(`(list (specification (name 'x) (build '(packages a "b")) (channels (list (channel (inherit %default-guix-channel) (branch #f) (commit "c"))))))`)
	f.Add(`{"name":"x","build":{"channels":[]},"systems":["s"],"channels":[{"name":"guix","url":"u"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		specs, err := specification.Read("f", strings.NewReader(text))
		if err == nil && len(specs) > 0 {
			sameBothWays(t, specs)
		}
	})
}

func TestCheck(t *testing.T) {
	list := channel.List{{Name: "mine"}, {Name: "guix"}}
	tests := []struct {
		spec specification.Specification
		want string // part of the error; empty if there is none
	}{
		{specification.Specification{Name: "genenetwork", Channels: list}, ""},
		{specification.Specification{Name: "a.b_c-1", Channels: list, Priority: 9}, ""},
		{specification.Specification{Channels: list}, `specification "": its name`},
		{specification.Specification{Name: "../x", Channels: list}, `specification "../x": its name`},
		{specification.Specification{Name: "a/b", Channels: list}, "its name"},
		{specification.Specification{Name: "a b", Channels: list}, "its name"},
		{specification.Specification{Name: "empty"}, `specification "empty": it has no channels`},
		{specification.Specification{Name: "mine", Channels: list[:1]}, "'guix' channel is lacking"},
		{specification.Specification{Name: "mine", Channels: list, Priority: 10}, "priority is 10"},
		{specification.Specification{Name: "mine", Channels: list, Priority: -1}, "priority is -1"},
		{specification.Specification{Name: "mine", Channels: list, Timeout: time.Millisecond}, "timeout is 1ms"},
		{specification.Specification{Name: "mine", Channels: list, Build: specification.Build{Mode: "al"}}, "none of Cuirass's"},
		{specification.Specification{Name: "mine", Channels: list, Build: specification.Build{Mode: "packages"}}, "nothing to build"},
		{specification.Specification{Name: "mine", Channels: list, Sessions: -1}, "sessions are -1"},
		{specification.Specification{Name: "mine", Channels: list, Properties: "("}, "properties"},
	}
	for _, test := range tests {
		err := test.spec.Check()
		var wrong *specification.Error
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%q: %v", test.spec.Name, err)
		case test.want != "" && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%q: %v, want %q", test.spec.Name, err, test.want)
		}
	}
	if err := (specification.Specification{Name: "mine", Channels: list[:1]}).Check(); !errors.Is(err, channel.ErrNoGuix) {
		t.Errorf("%v does not wrap ErrNoGuix", err)
	}
}
