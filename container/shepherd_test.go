package container

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/google/go-cmp/cmp"
)

func testdata(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// saying returns a shepherd that gives one reply to whatever it is told,
// and where what it was told can be read.
func saying(reply string) (*Shepherd, chan string) {
	told := make(chan string, 1)
	return &Shepherd{Dial: func(context.Context) (net.Conn, error) {
		ours, its := net.Pipe()
		go func() {
			command, err := sexp.NewReader(its).Next()
			if err == nil {
				told <- command.String()
			}
			// What follows the command need not be read: shepherd does not either.
			go its.Read(make([]byte, 10))
			its.Write([]byte(reply))
			its.Close()
		}()
		return ours, nil
	}}, told
}

func TestServices(t *testing.T) {
	s, told := saying(string(testdata(t, "status-trouble.sexp")))
	services, err := s.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := `(shepherd-command (version 0) (action status) (service root) (arguments ()) (directory "/"))`
	if got := <-told; got != want {
		t.Errorf("told %s", got)
	}
	web, _ := find(services, "http")
	start := time.Unix(1795377593, 0)
	if diff := cmp.Diff(Service{
		Provides: []string{"web", "http"}, Status: "running", Enabled: true, PID: 15751,
		Changes: []Change{{"starting", start}, {"running", start}},
	}, web); diff != "" {
		t.Errorf("service web (-want +got):\n%s", diff)
	}
	root, _ := find(services, "root")
	if last := root.Messages[len(root.Messages)-1]; last.Text != "Service bad could not be started." {
		t.Errorf("last message of root: %+v", last)
	}
	if diff := cmp.Diff([]string{"/tmp/log"}, root.LogFiles); diff != "" {
		t.Error(diff)
	}
	var names []string
	for _, s := range services {
		names = append(names, s.Name())
	}
	if diff := cmp.Diff(strings.Fields("root web setup bad badshot flappy orphan idle disabled thrower"), names); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
}

func TestDo(t *testing.T) {
	for _, c := range []struct{ action, service, reply, want, fails string }{
		{"stop", "web", "stop-web.sexp", "(web)", ""},
		{"start", "bad", "start-bad.sexp", "#f", ""},
		{"status", "nope", "not-found.sexp", "", "herd status nope: there is no such service"},
		{"frob", "root", "no-action.sexp", "", "herd frob root: the service has no such action"},
		{"start", "thrower", "start-thrower.sexp", "", "herd start thrower: (error (version 0) action-exception"},
	} {
		s, _ := saying(string(testdata(t, c.reply)))
		result, messages, err := s.Do(t.Context(), c.action, c.service)
		if c.fails != "" {
			var refused *CommandError
			if !errors.As(err, &refused) || !strings.HasPrefix(err.Error(), c.fails) {
				t.Errorf("%s %s: error %v", c.action, c.service, err)
			}
			continue
		}
		if err != nil || result.String() != c.want {
			t.Errorf("%s %s: %v, %v", c.action, c.service, result, err)
		}
		if c.service == "bad" && len(messages) != 4 {
			t.Errorf("messages %q", messages)
		}
	}
}

// A name is a symbol, whatever is in it: it cannot add a second command.
func TestDoQuotes(t *testing.T) {
	s, told := saying("(reply (version 0) (result (#t)) (error #f) (messages ()))")
	if _, _, err := s.Do(t.Context(), "status", `x) (y "`, `a"b`); err != nil {
		t.Fatal(err)
	}
	v, err := sexp.Parse(<-told)
	if err != nil {
		t.Fatal(err)
	}
	if name, _ := sexp.Field(v, "service"); name != sexp.Symbol(`x) (y "`) {
		t.Errorf("service %v", name)
	}
	if args := fieldTexts(v, "arguments"); len(args) != 1 || args[0] != `a"b` {
		t.Errorf("arguments %q", args)
	}
}

func TestBadReplies(t *testing.T) {
	for reply, says := range map[string]string{
		"":                                  "without a reply",
		"(reply (version 0) (result":        "unexpected end",
		"#t":                                "not a reply",
		"(reply (version 0))":               "without a result",
		"(reply (result #f) (error #f))":    "not a list of one result",
		"(reply (result (#f)) (error #f))":  "not a list of services",
		"(reply (result ((x))) (error #f))": "not a service",
		"(reply (result (((service)))))":    "without a name",
		"(reply (result (((service (provides (x)))))))": "service x without a status",
	} {
		s, _ := saying(reply)
		_, err := s.Services(t.Context())
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: error %v", reply, err)
		}
	}
}

// A shepherd that does not answer is given up with the context.
func TestDoGivesUp(t *testing.T) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	s := &Shepherd{Dial: func(context.Context) (net.Conn, error) {
		ours, its := net.Pipe()
		go func() {
			sexp.NewReader(its).Next()
			cancel(why)
		}()
		return ours, nil
	}}
	if _, err := s.Services(ctx); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
}

func FuzzParseReply(f *testing.F) {
	for _, name := range []string{"status-trouble.sexp", "status-web.sexp", "not-found.sexp"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, reply string) {
		v, err := sexp.Parse(reply)
		if err != nil {
			return
		}
		if result, _, err := decodeReply(v, "status", "root"); err == nil {
			if s, err := parseService(result); err == nil && (s.Name() == "" && s.Provides[0] != "" || s.Status == "") {
				t.Errorf("accepted %+v", s)
			}
		}
	})
}
