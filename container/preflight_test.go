package container

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// wantRefusal checks that both Plan and Apply refuse for that reason alone, and that nothing
// has been touched.
func wantRefusal(t *testing.T, d *Deployment, script, check, says string) {
	t.Helper()
	before, _ := d.Running()
	p, err := d.Plan(t.Context(), Revision{Script: script})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Refusals) != 1 || p.Refusals[0].Check != check || !strings.Contains(p.Refusals[0].Reason, says) {
		t.Errorf("plan: %+v, want %s: %q", p.Refusals, check, says)
	}
	_, err = d.Apply(t.Context(), Revision{Script: script})
	wantOutcome(t, err, Refused)
	var refusal *RefusalError
	if !errors.As(err, &refusal) || refusal.Check != check || !strings.Contains(err.Error(), says) {
		t.Errorf("apply: %v, want %s: %q", err, check, says)
	}
	after, _ := d.Running()
	if before != nil && (after == nil || after.Process != before.Process) {
		t.Error("what ran was touched")
	}
}

func TestPreflightMounts(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "a=b"), 0o700); err != nil {
		t.Fatal(err)
	}
	defer listenIn(t, dir).Close()
	for _, c := range []struct {
		name, says string
		mount      Mount
	}{
		{"missing", "does not exist", Mount{Source: filepath.Join(dir, "data")}},
		{"file alone", "is a file", Mount{Source: file}},
		{"socket alone", "is a socket", Mount{Source: filepath.Join(dir, "socket")}},
		{"at /tmp", "empties that directory", Mount{Source: dir, Target: "/tmp/"}},
		{"equals sign", "equals sign", Mount{Source: filepath.Join(dir, "a=b")}},
		{"relative", "not an absolute", Mount{Source: "data"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := testDeployment(t)
			d.Shares = []Mount{c.mount}
			wantRefusal(t, d, script(t, d, "works", "status-works.sexp"), "mount", c.says)
		})
	}
	t.Run("two in one place", func(t *testing.T) {
		d := testDeployment(t)
		d.Shares = []Mount{{Source: dir, Target: "/x"}}
		d.Exposes = []Mount{{Source: t.TempDir(), Target: "/x"}}
		wantRefusal(t, d, script(t, d, "works", "status-works.sexp"), "mount", "hide the other")
	})
	t.Run("two of one name", func(t *testing.T) {
		d := testDeployment(t)
		d.Shares = []Mount{{Source: dir, Target: "/x"}, {Source: t.TempDir(), Target: "/y"}}
		mustApply(t, d, script(t, d, "works", "status-works.sexp")) // they need none
		d.Shares[0].Name = "data"
		d.Exposes = []Mount{{Name: "data", Source: t.TempDir(), Target: "/z"}}
		wantRefusal(t, d, script(t, d, "works", "status-works.sexp"), "mount", `both called "data"`)
	})
}

func TestPreflightScript(t *testing.T) {
	d := testDeployment(t)
	name := filepath.Join(t.TempDir(), "run-container")
	wantRefusal(t, d, name, "script", "no such file")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, d, name, "script", "older Guix")
}

func TestPreflightPort(t *testing.T) {
	port := guixtest.FreePort(t)
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	d := testDeployment(t)
	d.Environment.Ports = []int{port}
	wantRefusal(t, d, script(t, d, "works", "status-works.sexp"), "port", strconv.Itoa(port)+" cannot be used")

	// a port of the generation to be replaced becomes free
	l.Close()
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	if l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	two := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	checkRuns(t, d, two)
}

func TestPreflightState(t *testing.T) {
	state := t.TempDir()
	other := testDeployment(t)
	other.Shares = []Mount{{Source: state, Target: "/state"}}
	mustApply(t, other, script(t, other, "works", "status-works.sexp"))
	mustApply(t, other, script(t, other, "works", "status-works.sexp")) // itself is no obstacle

	inner := filepath.Join(state, "inner")
	if err := os.Mkdir(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(state, link); err != nil {
		t.Fatal(err)
	}
	d := testDeployment(t)
	for _, source := range []string{state, inner, link, filepath.Dir(state)} {
		d.Shares = []Mount{{Source: source, Target: "/data"}}
		wantRefusal(t, d, script(t, d, "works", "status-works.sexp"), "state", "destroy what they keep")
	}
	d.Shares, d.Exposes = nil, []Mount{{Source: state}} // looking on is harmless
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
}

func TestPreflightDisk(t *testing.T) {
	d := testDeployment(t)
	d.MinFree = 1 << 60
	works := script(t, d, "works", "status-works.sexp")
	p, err := d.Plan(t.Context(), Revision{Script: works})
	if err != nil || len(p.Refusals) == 0 || p.Refusals[0].Check != "disk" || !strings.Contains(p.Refusals[0].Reason, "less than 1 EiB") {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = d.Apply(t.Context(), Revision{Script: works})
	wantOutcome(t, err, Refused)
}

// All that is wrong is said at once, and nothing twice.
func TestPreflightTellsAll(t *testing.T) {
	c := closures{}
	d := testDeployment(t)
	d.Closures = c
	works := script(t, d, "works", "status-works.sexp")
	service := filepath.Join(t.TempDir(), "abc-shepherd-code.scm")
	mustWrite(t, service, `(system* "git" "clone" "https://example.org/code")`)
	c[works] = append(c[c.system(t, "")], Item{service, 10})
	missing := filepath.Join(t.TempDir(), "missing")
	d.Shares = []Mount{{Source: missing, Target: "/a", Owner: "keeper"}, {Source: missing, Target: "/b", Owner: "nobody-knows"}}
	d.Environment.Required = []string{"A"}
	p, err := d.Plan(t.Context(), Revision{Script: works})
	if err != nil {
		t.Fatal(err)
	}
	var checks []string
	for _, r := range p.Refusals {
		checks = append(checks, r.Check)
	}
	if diff := cmp.Diff([]string{"environment", "mount", "mount", "fetch", "owner"}, checks); diff != "" {
		t.Errorf("%s\n%+v", diff, p.Refusals)
	}
	// What cannot be looked at is no reason to keep quiet about the rest.
	blind := *d
	blind.Closures = blindness{}
	_, err = blind.Apply(t.Context(), Revision{Script: works})
	wantOutcome(t, err, Refused)
	blind.Environment.Required, blind.Shares = nil, nil
	_, err = blind.Apply(t.Context(), Revision{Script: works})
	wantOutcome(t, err, NotTried)
}

// blindness knows no closure.
type blindness struct{}

func (blindness) Closure(context.Context, string) ([]Item, error) {
	return nil, errors.New("the daemon does not run")
}

// An account gets another number since one before it is new: what it has written would
// be somebody else's.
func TestPreflightIDs(t *testing.T) {
	c := closures{}
	d := testDeployment(t)
	d.Closures = c
	state := t.TempDir()
	d.Shares = []Mount{{Source: state, Target: "/state"}}
	foreseen := func(extra string) string {
		name := script(t, d, "works", "status-works.sexp")
		c[name] = c[c.system(t, extra)]
		return name
	}
	const newcomer = `(quasiquote ("web" #f "web" () "" "/var" #f (unquote "nologin") #f #t))`
	one, two := foreseen(""), foreseen(newcomer)
	first := mustApply(t, d, one)
	if err := d.Stop(t.Context()); err != nil { // the stand-in's accounts are this machine's
		t.Fatal(err)
	}
	held := make(holders)
	held.add(IDs{"keeper": 999}, false)
	before := shifts{users: held.shifted(IDs{"keeper": 998}, nil)}
	if err := before.check(t.Context(), d.Shares[0]); err != nil {
		t.Errorf("nothing is kept yet: %v", err)
	}
	mine := shifts{users: map[int]string{os.Getuid(): before.users[999]}}
	if err := mine.check(t.Context(), d.Shares[0]); err == nil || !strings.Contains(err.Error(), "fixed number") {
		t.Errorf("error %v", err)
	}

	p, err := d.Plan(t.Context(), Revision{Script: two})
	if err != nil || len(p.Refusals) > 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	want := []Line{{Kind: OfStore, Name: "item", Old: one, New: two},
		{Kind: OfFile, Name: "activate-service.scm", Old: c[one][0].Path, New: c[two][0].Path}, {Kind: OfUser, Name: "keeper", Old: "999", New: "998"}, {Kind: OfUser, Name: "web", New: "999"}}
	if diff := cmp.Diff(want, p.Difference.Lines); diff != "" || p.Current.Number != first.Number {
		t.Error(diff)
	}

	d.Shares[0].Owner = "keeper"
	if os.Geteuid() == 0 { // only root can give files away
		kept := filepath.Join(state, "kept")
		if err := errors.Join(os.WriteFile(kept, nil, 0o600), os.Chown(state, 998, 0), os.Chown(kept, 999, 0)); err != nil {
			t.Fatal(err)
		}
		d.places = map[string]string{"mount " + d.Shares[0].Name: "d.scm:3:1"}
		wantRefusal(t, d, two, "ids", "d.scm:3:1: "+kept+" belongs to user 999, which is keeper, who would be 998")
		wantRefusal(t, d, one, "owner", fmt.Sprintf("d.scm:3:1: mount %q belongs to user 998", state))
		d.places = nil
	}
	d.Shares[0].Owner = "nobody-knows"
	wantRefusal(t, d, two, "owner", "no such account")
}

// An account is gone, at once or since long, and a new one gets its number, with what it has left behind. If it is the same
// by another name, that must be said; then one can go back, too.
func TestPreflightIDsOfTheGone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	c := closures{}
	d := testDeployment(t)
	d.Closures = c
	state := t.TempDir()
	kept := filepath.Join(state, "kept")
	d.Shares = []Mount{{Source: state, Target: "/state"}}
	system := func(accounts, groups string) string {
		name := script(t, d, "works", "status-works.sexp")
		c[name] = c[c.system(t, "")]
		file := c[name][0].Path
		text := strings.NewReplacer(`(quasiquote ("keeper" #f "keeper" () "" "/var" #f (unquote "nologin") #f #t))`, accounts,
			`(list "users" #f #f #t)`, groups).Replace(string(readFile(t, file)))
		mustWrite(t, file, text)
		return name
	}
	user := func(name string) string {
		return `(quasiquote ("` + name + `" #f "nogroup" () "" "/var" #f (unquote "nologin") #f #t))`
	}
	group := func(name string) string { return `(list "` + name + `" #f #f #t)` }
	apply := func(script string) {
		t.Helper()
		mustApply(t, d, script)
		if err := d.Stop(t.Context()); err != nil { // the stand-in's accounts are this machine's
			t.Fatal(err)
		}
	}
	one, none, two, also := system(user("keeper"), group("users")), system("", ""), system(user("newcomer"), group("users")), system(user("keeper"), group("others"))
	apply(one)
	mustWrite(t, kept, "secret")
	for _, c := range []struct {
		current, uid, gid int
		script, says      string
	}{
		{1, 999, 0, two, "belongs to user 999, which is keeper, and would be newcomer"},
		{1, 0, 995, also, "belongs to group 995, which is users, and would be others"},
		{2, 999, 0, two, "belongs to user 999, which was keeper, and would be newcomer"},
		{2, 0, 995, also, "belongs to group 995, which was users, and would be others"},
	} {
		if g, err := d.Current(); err == nil && g.Number < c.current {
			apply(none)
		}
		if err := os.Chown(kept, c.uid, c.gid); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, d, c.script, "ids", kept+" "+c.says)
	}

	d.Renamed = []Renaming{{"keeper", "newcomer"}}
	if err := os.Chown(kept, 999, 0); err != nil {
		t.Fatal(err)
	}
	apply(two)
	d.Renamed = nil // who goes back may have no file
	wantRefusal(t, d, system(user("third"), group("users")), "ids", "is newcomer, and would be third")
	if g, err := d.RollBack(t.Context(), 1, Revision{}); err != nil || g.Script != one {
		t.Errorf("%+v, %v", g, err)
	}
}

// One file after very many others, and others that are too deep to be looked at by their names.
func TestPreflightIDsOfMany(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	state := mountTmpfs(t, "64M")
	many, kept := filepath.Join(state, "many"), filepath.Join(state, "one")
	const keeper = 12345
	if err := errors.Join(os.Mkdir(many, 0o700), os.WriteFile(kept, nil, 0o600), os.Chown(kept, keeper, 0)); err != nil {
		t.Fatal(err)
	}
	for i := range 100_001 {
		if err := os.Symlink(".", filepath.Join(many, strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	moved := shifts{users: map[int]string{keeper: "is keeper, who would be 998"}}
	check := func(ctx context.Context, says string) {
		t.Helper()
		if err := moved.check(ctx, Mount{Source: state}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q", err, says)
		}
	}
	check(t.Context(), kept+" belongs to user 12345, which is keeper")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	check(ended, "context canceled")

	root, err := os.OpenRoot(state)
	if err == nil {
		err = errors.Join(root.MkdirAll(strings.Repeat("deep/", 1000), 0o700), root.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	check(t.Context(), "cannot be found out")
}

// In a user namespace that allows none below it, as a container may be, or none of another kind.
func TestPreflightNamespaces(t *testing.T) {
	shares := filepath.Join(t.TempDir(), "run-container")
	mustWrite(t, shares, "#:namespaces (if #t (delq (quote net) %namespaces)")
	if kind := os.Getenv("FORBIDDEN"); kind != "" {
		if err := os.WriteFile("/proc/sys/user/max_"+kind+"_namespaces", []byte("0"), 0); err != nil {
			t.Skipf("cannot forbid namespaces here: %v", err)
		}
		if err := checkNamespaces(""); err == nil || !strings.Contains(err.Error(), "forbids the namespaces") {
			t.Errorf("error %v", err)
		}
		if err := checkNamespaces(shares); (err == nil) != (kind == "net") {
			t.Errorf("with the network of the host: %v", err)
		}
		d := &Deployment{Name: "test", Dir: t.TempDir()}
		p, err := d.Plan(t.Context(), Revision{Script: shares})
		refused := err == nil && slices.ContainsFunc(p.Refusals, func(r Refusal) bool { return r.Check == "namespaces" })
		if err != nil || refused == (kind == "net") {
			t.Errorf("%+v, %v", p, err)
		}
		return
	}
	for _, script := range []string{"", shares} {
		if err := checkNamespaces(script); err != nil {
			t.Fatalf("allowed: %v", err)
		}
	}
	for _, kind := range []string{"user", "mnt", "pid", "ipc", "uts", "cgroup", "net"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPreflightNamespaces$", "-test.v")
		cmd.Env = append(os.Environ(), "FORBIDDEN="+kind)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%s: %v\n%s", kind, err, out)
		}
	}
}

// A plan changes nothing, says what would change, and that there is nothing to do.
func TestPlan(t *testing.T) {
	d := testDeployment(t)
	works := script(t, d, "works", "status-works.sexp")
	first := *d
	c, state := closures{}, t.TempDir()
	c[works] = c[c.system(t, "", Item{"/gnu/store/x-shepherd-web.scm", 10})]
	first.Closures = c
	first.Shares = []Mount{{Name: "state", Source: state, Target: "/srv"}}
	first.Environment = Environment{Name: "production", Settings: map[string]string{"B": "1"}}
	first.Probes = Probes{TCP{Address: "localhost:1"}}
	p, err := first.Plan(t.Context(), Revision{Script: works, Channels: []Channel{{Name: "guix", Commit: "c1"}}})
	if err != nil || p.Current != nil || p.Nothing || len(p.Refusals) > 0 {
		t.Errorf("%+v, %v", p, err)
	}
	var all strings.Builder
	p.WriteTo(&all)
	for _, line := range []string{"the first generation: " + works, "+ mount state: " + state + " at /srv, writable", "+ binding environment: production",
		"+ setting B: 1", "+ probe tcp localhost:1: ", "+ channel guix: c1", "+ service web: /gnu/store/x-shepherd-web.scm", "+ binding schedule: start period " + d.Schedule.StartPeriod.String()} {
		if !strings.Contains(all.String(), line) {
			t.Errorf("no %q in\n%s", line, &all)
		}
	}
	if entries, err := os.ReadDir(d.Dir); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
	mustApply(t, d, works)
	if p, err = d.Plan(t.Context(), Revision{Script: works}); err != nil || !p.Nothing {
		t.Errorf("%+v, %v", p, err)
	}
	d.Environment.Settings = map[string]string{"A": "1"}
	p, err = d.Plan(t.Context(), Revision{Script: works})
	var text strings.Builder
	p.WriteTo(&text)
	want := "replace generation 1 by " + works + "\n  the same store item\n+ setting A: 1\n"
	if diff := cmp.Diff(want, text.String()); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
