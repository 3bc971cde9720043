package container

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// Each of these tests first runs a real container as run-container would have it, to show
// what comes of that, and then that the preflight refuses it.

// inside runs a command in the container and returns what it prints.
func inside(t *testing.T, in *Instance, command ...string) string {
	t.Helper()
	var out bytes.Buffer
	status, err := enter(t.Context(), in.Process, Stdio{Out: &out, Err: &out}, command...)
	if err != nil || status != 0 {
		t.Errorf("%q: status %d, %v: %s", command, status, err, &out)
	}
	return strings.TrimSpace(out.String())
}

// stopNow stops what was brought without the preflight, as if it had never been.
func stopNow(t *testing.T, d *Deployment) {
	t.Helper()
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mustWrite(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// One container with all the mounts that it should not have.
func TestRealMountRefusals(t *testing.T) {
	t.Parallel()
	script := samples(t)["one"]
	d, _ := realDeployment(t)
	host, tmp, under, settings := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	at := func(name string) string { return filepath.Join(host, name) }
	mustWrite(t, at("settings"), "old")
	mustWrite(t, filepath.Join(tmp, "precious"), "data")
	mustWrite(t, filepath.Join(under, "hidden"), "data")
	mustWrite(t, filepath.Join(settings, "own"), "data")
	database := listenIn(t, host)
	if err := os.Mkdir(at("a=b"), 0o700); err != nil {
		t.Fatal(err)
	}
	good := d.Shares[0]
	bad := map[string]Mount{
		"does not exist":          {Source: at("data"), Target: "/srv/data"},
		"is a file":               {Source: at("settings"), Target: "/srv/settings"},
		"is a socket":             {Source: at("socket"), Target: "/srv/socket"},
		"empties that directory":  {Source: tmp, Target: "/tmp"},
		"has an equals sign":      {Source: at("a=b"), Target: "/srv/equals"},
		"is not an absolute":      {Source: "data", Target: "/srv/relative"},
		"would hide the other":    {Source: under, Target: "/srv/state"},
		"the environment's files": {Source: settings, Target: defaultTarget},
	}
	d.Shares = []Mount{bad["would hide the other"], good} // the first is mounted last
	for says, m := range bad {
		if says != "would hide the other" {
			d.Shares = append(d.Shares, m)
		}
	}
	d.Probes = Probes{Services{[]string{"counter"}}} // where the server listens is a setting, which is hidden
	in := mustBring(t, d, script)

	// What a service writes to a mount that is not there is gone when the container stops.
	inside(t, in, "/proc/1/exe", "-c", `(begin (mkdir "/srv/data") (call-with-output-file "/srv/data/row" (lambda (p) (display "x" p))))`)
	// A file that is replaced stays the old one.
	mustWrite(t, at(".settings"), "new")
	if err := os.Rename(at(".settings"), at("settings")); err != nil {
		t.Fatal(err)
	}
	if got := inside(t, in, "/bin/sh", "-c", "read x < /srv/settings || echo $x"); got != "old" {
		t.Errorf("the file that was replaced is %q", got)
	}
	// So does a socket that a restarted database has made again.
	checkProbe(t, in, Unix{"/srv/socket"}, "")
	database.Close()
	os.Remove(at("socket"))
	defer listenIn(t, host).Close()
	eventually(t, func() error { // what another test has just forked has the old socket open until it is executed
		_, err := Unix{"/srv/socket"}.Check(t.Context(), in, nil)
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			return fmt.Errorf("error %v, want a refused connection", err)
		}
		return nil
	})
	// What was in a directory mounted at /tmp is deleted.
	if _, err := os.Stat(filepath.Join(tmp, "precious")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was at /tmp is still there: %v", err)
	}
	// The names that cannot be said are not mounted, without a word.
	for _, name := range []string{"/srv/equals", "/srv/relative"} {
		if fd, err := openInRoot(in.Process, name, unix.O_PATH); err == nil {
			unix.Close(fd)
			t.Errorf("%s is mounted", name)
		}
	}
	// Of two mounts in one place one is not there.
	_, hidden := openInRoot(in.Process, "/srv/state/hidden", unix.O_PATH)
	_, starts := openInRoot(in.Process, "/srv/state/starts", unix.O_PATH)
	if _, err := os.Stat(filepath.Join(good.Source, "starts")); (hidden == nil) == (starts == nil && err == nil) {
		t.Errorf("both mounts are there: %v, %v, %v", hidden, starts, err)
	}
	// So it is with the files of the environment: nobody finds a setting.
	_, own := openInRoot(in.Process, defaultTarget+"/own", unix.O_PATH)
	_, given := openInRoot(in.Process, defaultTarget+"/settings", unix.O_PATH)
	if own != nil || given == nil {
		t.Errorf("the environment's files are there: %v, %v", own, given)
	}
	stopNow(t, d)
	if _, err := os.Stat(at("data")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data was kept: %v", err)
	}

	for says, m := range bad {
		d.Shares = []Mount{good, m}
		wantRefusal(t, d, script, "mount", says)
	}
}

// Directories of this machine where the system has its own: it comes up healthy, and either has that no longer, or
// deletes what was in them.
func TestRealHidingMountRefusals(t *testing.T) {
	t.Parallel()
	script := samples(t)["one"]
	d, _ := realDeployment(t)
	good := d.Shares[0]
	bad := make(map[string]Mount)
	for _, target := range []string{"/proc", "/sys", "/var/run"} {
		bad[target] = Mount{Source: t.TempDir(), Target: target}
		mustWrite(t, filepath.Join(bad[target].Source, "precious"), "data")
		d.Shares = append(d.Shares, bad[target])
	}
	in := mustBring(t, d, script)
	for _, name := range []string{"/proc/1", "/sys/class"} {
		if fd, err := openInRoot(in.Process, name, unix.O_PATH); err == nil {
			unix.Close(fd)
			t.Errorf("%s is there", name)
		}
	}
	if _, err := os.Stat(filepath.Join(bad["/var/run"].Source, "precious")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was at /var/run is still there: %v", err)
	}
	stopNow(t, d)
	for target, m := range bad {
		d.Shares = []Mount{good, m}
		wantRefusal(t, d, script, "mount", fmt.Sprintf("at %q: the system empties that directory when it boots, or needs", target))
	}
}

// Two mounts of one name, and probes that speak of what is not there: what ran has been stopped for nothing.
func TestRealNameRefusals(t *testing.T) {
	t.Parallel()
	scripts := samples(t)
	d, _ := realDeployment(t)
	one := mustApply(t, d, scripts["one"])
	fails := func(e *Deployment, says string) {
		t.Helper()
		if _, err := applyUnchecked(t, e, scripts["two"]); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q", err, says)
		}
		checkRuns(t, d, one)
	}
	// A container that is well is taken for one that is not.
	for _, c := range []struct {
		probe        Probe
		fails, wants string
	}{
		{HTTP{URL: "http://127.0.0.1:${PROT}/"}, "invalid port", "there is no setting for ${PROT}: there are PORT"},
		{TCP{Address: "127.0.0.1:${PROT}"}, "${PROT}", "there is no setting for ${PROT}"},
		{DNS{Name: "${NAME}"}, "look up ${NAME} in the container", "there is no setting for ${NAME}"},
		{HTTP{URL: "http://127.0.0.1:${PORT}/", VersionOf: "project"}, "no channel \"project\"", "no channel \"project\""},
	} {
		e := *d
		e.Probes, e.Schedule.StartPeriod = Probes{c.probe}, time.Second
		fails(&e, c.fails)
		wantRefusal(t, &e, scripts["two"], "probe", c.wants)
	}

	// Of two mounts of one name a snapshot has one, and a migration damages the other one.
	e, second := *d, t.TempDir()
	e.Shares = append(slices.Clone(d.Shares), Mount{Name: "state", Source: second, Target: "/srv/second"})
	e.Switch.Snapshot = []string{"state"}
	e.Switch.Hooks = []Hook{{Command: []string{"/bin/sh", "-c", `echo damaged > "$GUIXCI_MOUNT_STATE/data"; exit 3`}}}
	mustWrite(t, filepath.Join(second, "data"), "good\n")
	fails(&e, "exit status 3")
	if text := readFile(t, filepath.Join(second, "data")); string(text) != "damaged\n" {
		t.Errorf("the state has %q", text)
	}
	wantRefusal(t, &e, scripts["two"], "mount", `are both called "state"`)
}

// Settings and secrets that are handed over at a place where nobody finds them, or where nothing boots.
func TestRealTargetRefusals(t *testing.T) {
	t.Parallel()
	script := samples(t)["one"]
	d, _ := realDeployment(t)
	d.Probes = Probes{Services{[]string{"counter"}}} // the server needs its port
	dir, target := d.Dir, ""
	lost := func(t *testing.T, d *Deployment) {
		in := mustBring(t, d, script)
		if fd, err := openInRoot(in.Process, filepath.Join(target, "settings"), unix.O_PATH); err == nil {
			unix.Close(fd)
			t.Errorf("the settings are at %s", target)
		}
		stopNow(t, d)
	}
	ends := func(t *testing.T, d *Deployment) {
		if _, err := bringUnchecked(t, d, script); err == nil {
			t.Error("it boots")
		}
		stopNow(t, d)
	}
	mistaken := func(t *testing.T, d *Deployment) { // whatever its services take for the current directory
		in := mustBring(t, d, script)
		if got := inside(t, in, "/bin/sh", "-c", `cd /srv; test -e "$0" || echo lost`, target); got != "lost" {
			t.Errorf("%q", got)
		}
		stopNow(t, d)
	}
	for _, c := range []struct {
		dir, target, says string
		shows             func(t *testing.T, d *Deployment)
	}{
		{dir, "/gnu/store", "the store is mounted over it", lost},
		{dir, "/gnu/store/settings", "the store is mounted over it", lost},
		{filepath.Join(dir, "we=ird"), "", "has an equals sign", lost},
		{dir, "settings", "is not an absolute file name", mistaken},
		{dir, "/", "empties that directory", ends},
		{dir, "/run", "empties that directory", ends},
		{dir, "/dev", "empties that directory", ends},
		{dir, "/etc", "cannot boot when it may not write there", ends},
		{dir, "/var/", "cannot boot when it may not write there", ends},
		{dir, "/gnu", "cannot boot when it may not write there", ends},
	} {
		t.Run(c.says+" "+c.target, func(t *testing.T) {
			d.Dir, d.Environment.Target = c.dir, c.target
			target = d.Environment.mount("").Target
			c.shows(t, d)
			wantRefusal(t, d, script, "mount", c.says)
		})
	}
	// With nothing to hand over, it is a name like others; and so it is for where something is handed over.
	d.Dir, d.Environment.Settings = filepath.Join(dir, "we=ird"), nil
	mustApply(t, d, script)
	stopNow(t, d)
	d.Dir, d.Environment = dir, Environment{Target: "/a=b", Settings: map[string]string{"A": "1"}}
	in := checkRuns(t, d, mustApply(t, d, script))
	if got := inside(t, in, "/bin/sh", "-c", ". /a=b/settings; echo $A"); got != "1" {
		t.Errorf("%q", got)
	}
}

// A port in use, and mandatory settings that are not set.
func TestRealPortRefusal(t *testing.T) {
	t.Parallel()
	script := samples(t)["one"]
	d, url := realDeployment(t)
	d.Environment.Required = []string{"SERVER_URL"}
	l, err := net.Listen("tcp", strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/"))
	if err != nil {
		t.Fatal(err)
	}
	squatter := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "an old version") })}
	go squatter.Serve(l)
	defer squatter.Close()

	// It looks healthy, since somebody else answers; its own server does not run.
	d.Probes = Probes{HTTP{URL: url}}
	in := mustBring(t, d, script)
	checkProbe(t, in, HTTP{URL: url, Version: "one"}, `the body says "an old version"`)
	eventually(t, func() error { // once shepherd has come to it
		var guilty *ServiceError
		if _, err := (Services{[]string{"web"}}).Check(t.Context(), in, nil); !errors.As(err, &guilty) || guilty.Service.Status != "stopped" {
			return fmt.Errorf("service web on a port in use: %v", err)
		}
		return nil
	})
	// And what it cannot do without is simply not there.
	if got := inside(t, in, "/bin/sh", "-c", `. /etc/guixci/settings; echo "url: $SERVER_URL"`); got != "url:" {
		t.Errorf("settings: %q", got)
	}
	stopNow(t, d)

	wantRefusal(t, d, script, "environment", `"SERVER_URL" is not set`)
	d.Environment.Required = nil
	d.Environment.Ports = []int{l.Addr().(*net.TCPAddr).Port}
	wantRefusal(t, d, script, "port", "cannot be used")
}

// numbers returns the lines of the counter's journal; the last may not be whole.
func numbers(t *testing.T, d *Deployment) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.Shares[0].Source, "journal"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	return strings.Fields(string(text))
}

// checkJournal returns the first number that does not follow the one before it.
func checkJournal(lines []string) error {
	for i, line := range lines {
		if line != strconv.Itoa(i+1) {
			return fmt.Errorf("line %d of the journal is %q", i+1, line)
		}
	}
	return nil
}

// eventually waits until what returns nil.
func eventually(t *testing.T, what func() error) {
	t.Helper()
	deadline := time.After(plenty)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := what()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// wantFailing checks that a script, without the preflight, fails for that reason, a regular expression, which its services give
// sooner or later.
func wantFailing(t *testing.T, d *Deployment, script, says string) {
	t.Helper()
	e := *d
	failing(&e, AllServices{}, says)
	if _, err := bringUnchecked(t, &e, script); err == nil || !regexp.MustCompile(says).MatchString(err.Error()) {
		t.Errorf("error %v", err)
	}
	stopNow(t, d)
}

// wantsQuarrel waits until two containers have counted in the journal of one.
func wantsQuarrel(t *testing.T, d *Deployment) {
	t.Helper()
	eventually(t, func() error {
		if checkJournal(numbers(t, d)) == nil {
			return errors.New("two containers count in one journal, and it is intact")
		}
		return nil
	})
}

// Two containers that keep their state in one place.
func TestRealStateRefusal(t *testing.T) {
	t.Parallel()
	script := samples(t)["one"]
	d, _ := realDeployment(t)
	other, _ := realDeployment(t)
	other.Shares[0].Source = d.Shares[0].Source
	mustBring(t, d, script)
	mustBring(t, other, script)
	wantsQuarrel(t, d)
	stopNow(t, other)
	wantRefusal(t, other, script, "state", "destroy what they keep")

	// By whatever name it is called, and however much of it is meant.
	state := d.Shares[0].Source
	inner, link := filepath.Join(state, "inner"), filepath.Join(t.TempDir(), "link")
	bound := t.TempDir()
	if err := errors.Join(os.Mkdir(inner, 0o700), os.Symlink(state, link), unix.Mount(state, bound, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	defer unmount(t, bound)
	for _, source := range []string{inner, link, filepath.Dir(state), bound, filepath.Dir(bound)} {
		other.Shares[0].Source = source
		wantRefusal(t, other, script, "state", "destroy what they keep")
	}
	other.Shares, other.Exposes = nil, append(boxMounts(), Mount{Source: state, Target: "/srv/looked-at"})
	if p, err := other.Plan(t.Context(), Revision{Script: script}); err != nil || len(p.Refusals) > 0 { // looking on is harmless
		t.Errorf("%+v, %v", p, err)
	}

	// Nor is itself in its own way, even with nothing that was started beside its first process.
	in, err := d.Running()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(in.Launcher.signal(unix.SIGKILL), in.Launcher.wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	if p, err := d.Plan(t.Context(), Revision{Script: samples(t)["two"]}); err != nil || len(p.Refusals) > 0 {
		t.Errorf("%+v, %v", p, err)
	}
	other.Shares, other.Exposes = []Mount{{Source: state, Target: "/srv/state"}}, boxMounts()
	wantRefusal(t, other, script, "state", "destroy what they keep") // and in that of others it is as before
}

// Containers that nobody started with the options of run-container: one by a script of another name, as people
// have them in /usr/local/bin, one whose mount was built into it.
func TestRealStateRefusalOfOthers(t *testing.T) {
	t.Parallel()
	script := samples(t)["one"]
	link := filepath.Join(t.TempDir(), "gn-container")
	if err := os.Symlink(script, link); err != nil {
		t.Fatal(err)
	}
	for name, launcher := range map[string]func(state string) []string{
		"another name": func(state string) []string { return []string{link, "--share=" + state + "=/srv/state"} },
		"built in": func(state string) []string {
			mapping := sexp.L(sexp.L(sexp.Symbol("@"), sexp.L(sexp.Symbol("gnu"), sexp.Symbol("system"), sexp.Symbol("file-systems")),
				sexp.Symbol("specification->file-system-mapping")), sexp.String(state+"=/srv/state"), sexp.Bool(true))
			built, err := guixBuild("build", "--load-path=testdata", "--expression="+sampleExpression("one", "works", false,
				sexp.Keyword("mappings"), sexp.L(sexp.Symbol("list"), mapping)).String())
			if err != nil || len(built) != 1 {
				t.Fatal(built, err)
			}
			return built
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := realDeployment(t)
			runByHand(t, launcher(d.Shares[0].Source))
			eventually(t, func() error {
				if len(numbers(t, d)) == 0 {
					return errors.New("the stranger does not count")
				}
				return nil
			})
			mustBring(t, d, script)
			wantsQuarrel(t, d)
			stopNow(t, d)
			wantRefusal(t, d, script, "state", "destroy what they keep")
		})
	}
}

// runByHand runs a run-container until the end of the test. It returns once that has a container, and starts it again
// if it hangs before, as any may, see prelude.
func runByHand(t *testing.T, launcher []string) Process {
	t.Helper()
	for {
		p, end := startByHand(t, launcher)
		if !hangs(t, p) {
			t.Cleanup(end)
			return p
		}
		end()
	}
}

// hangs reports whether a launcher's child waits in vain, and false once it is a container.
func hangs(t *testing.T, launcher Process) (hung bool) {
	t.Helper()
	var seen time.Time
	await(t, func() bool {
		for _, first := range launcher.children() {
			switch {
			case hasOwnRoot(first.PID, mountsOf(strconv.Itoa(first.PID))):
				return true
			case first.waitsInVain() == "":
				seen = time.Time{}
			case seen.IsZero():
				seen = time.Now()
			default:
				hung = time.Since(seen) > lookForDeadlock
			}
		}
		return hung || !launcher.Alive()
	})
	return hung
}

// startByHand starts it, and returns what ends it.
func startByHand(t *testing.T, launcher []string) (p Process, end func()) {
	t.Helper()
	settings := t.TempDir()
	mustWrite(t, filepath.Join(settings, "settings"), fmt.Sprintf("PORT='%d'\n", guixtest.FreePort(t)))
	for _, m := range append(boxMounts(), Mount{Source: settings + "=" + defaultTarget}) {
		launcher = append(launcher, "--expose="+m.Source)
	}
	cmd := exec.Command(launcher[0], launcher[1:]...)
	cmd.Dir, cmd.Env = "/", launcherEnvironment(t.TempDir())
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := FindProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p, func() {
		for _, first := range p.children() {
			if err := first.signal(unix.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		cmd.Wait()
	}
}

// An account gets the number of another one, and with it its files.
func TestRealIDsRefusal(t *testing.T) {
	t.Parallel()
	built := samples(t)
	d, _ := realDeployment(t)
	d.Closures = guixClosures{}
	system, err := ReadSystem(t.Context(), d.Closures, built["keeper"])
	if err != nil {
		t.Fatal(err)
	}
	keeper := system.Users["keeper"]

	// Owned by root, the state cannot be kept.
	wantFailing(t, d, built["keeper"], "service keeper .*respawn")
	d.Shares[0].Owner = "keeper"
	wantRefusal(t, d, built["keeper"], "owner", fmt.Sprintf("should to keeper, who is user %d", keeper))
	d.Shares[0].Owner = "kepper" // whose state it is to be is not noticed
	wantRefusal(t, d, built["keeper"], "owner", "the system has no such account")
	d.Shares[0].Owner = "keeper"

	if err := os.Chown(d.Shares[0].Source, keeper, 0); err != nil {
		t.Fatal(err)
	}
	mustApply(t, d, built["keeper"])
	stopNow(t, d)
	d.Shares[0].Owner = ""
	// With another account before it, the keeper cannot open its own file, and the newcomer can.
	wantFailing(t, d, built["keeper second"], "service keeper .*respawn")
	system, err = ReadSystem(t.Context(), d.Closures, built["keeper second"])
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(d.Shares[0].Source, "kept"), &st); err != nil || int(st.Uid) != system.Users["newcomer"] {
		t.Errorf("the file belongs to %d, the newcomer is %d: %v", st.Uid, system.Users["newcomer"], err)
	}
	wantRefusal(t, d, built["keeper second"], "ids", "which is keeper, who would be")

	// With another one in its place, that reads and overwrites its file.
	kept := filepath.Join(d.Shares[0].Source, "kept")
	mustWrite(t, kept, "secret of keeper")
	if err := os.Chown(kept, keeper, 0); err != nil {
		t.Fatal(err)
	}
	mustBring(t, d, built["newcomer"])
	eventually(t, func() error {
		if text := string(readFile(t, kept)); text != "private" {
			return fmt.Errorf("the file of keeper holds %q", text)
		}
		return nil
	})
	stopNow(t, d)
	wantRefusal(t, d, built["newcomer"], "ids", fmt.Sprintf("belongs to user %d, which is keeper, and would be newcomer", keeper))
	d.Renamed = []Renaming{{"keeper", "newcomer"}}
	mustApply(t, d, built["newcomer"])
}

// mountTmpfs returns a directory of that size that is a file system of its own.
func mountTmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// unmount waits until nobody uses what is there: who listens to a container, and writes its log, ends a little later than it.
func unmount(t *testing.T, dir string) {
	t.Helper()
	eventually(t, func() error { return unix.Unmount(dir, 0) })
}

// fill leaves no space.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return func() { os.Remove(name) }
}

// A disk is full, that of the services' state or our own.
func TestRealDiskRefusal(t *testing.T) {
	t.Parallel()
	script := samples(t)["one"]
	d, _ := realDeployment(t)
	full := mountTmpfs(t, "1M")
	state := d.Shares[0].Source
	d.Shares[0].Source = full
	empty := fill(t, full)
	wantFailing(t, d, script, "service counter .*respawn")
	wantRefusal(t, d, script, "disk", full)

	empty()
	d.Shares[0].Source, d.Dir = state, filepath.Join(full, "deployment")
	empty = fill(t, full)
	g := d.generation(Revision{Script: script})
	if err := errors.Join(d.prepare(), d.create(t.Context(), g)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v", err)
	}
	p, err := d.Plan(t.Context(), Revision{Script: script})
	if err != nil || len(p.Refusals) != 1 || p.Refusals[0].Check != "disk" || !strings.Contains(p.Refusals[0].Reason, "disk of state directory") {
		t.Errorf("%+v, %v", p, err)
	}
	empty()
}

// The disk of the store is full: that of a guix-daemon of its own, which can add nothing to it.
func TestRealStoreDiskRefusal(t *testing.T) {
	t.Parallel()
	text := readFile(t, samples(t)["one"])
	d, _ := realDeployment(t)
	disk := mountTmpfs(t, "4M")
	store, socket := filepath.Join(disk, "store"), filepath.Join(disk, "socket")
	environment := append(os.Environ(), "HOME="+disk, "NIX_STORE_DIR="+store, "NIX_STATE_DIR="+filepath.Join(disk, "var"),
		"NIX_LOG_DIR="+filepath.Join(disk, "log"), "GUIX_DAEMON_SOCKET="+socket)
	daemon := exec.Command("guix-daemon", "--disable-chroot", "--build-users-group=guixbuild", "--listen="+socket)
	daemon.Env = environment
	if err := errors.Join(os.Mkdir(store, 0o755), daemon.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() { daemon.Process.Kill(); daemon.Wait() }()
	eventually(t, func() error { _, err := os.Stat(socket); return err })
	add := func(text string) ([]byte, error) {
		name := filepath.Join(t.TempDir(), "item")
		mustWrite(t, name, text)
		cmd := exec.CommandContext(t.Context(), "guix", "download", "file://"+name)
		cmd.Env = environment
		return cmd.CombinedOutput()
	}
	if out, err := add("one"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script := filepath.Join(store, "run-container")
	if err := os.WriteFile(script, text, 0o755); err != nil {
		t.Fatal(err)
	}
	d.MinFree = 1 << 20
	if p, err := d.Plan(t.Context(), Revision{Script: script}); err != nil || len(p.Refusals) > 0 {
		t.Errorf("%+v, %v", p, err)
	}
	defer fill(t, disk)()
	if out, err := add("two"); err == nil || !strings.Contains(string(out), "No space left on device") {
		t.Errorf("%v\n%s", err, out)
	}
	wantRefusal(t, d, script, "disk", "disk of store")
}

// A service that clones its code when it starts: one store item is two programs.
func TestRealFetchRefusal(t *testing.T) {
	t.Parallel()
	script := samples(t)["fetches"]
	d, _ := realDeployment(t)
	d.Closures = guixClosures{}
	upstream := filepath.Join(d.Shares[0].Source, "upstream")
	release := func(version string) {
		t.Helper()
		text := "echo " + version + " > /srv/state/version\nexec /proc/1/exe -c '(sleep 1000000)'\n"
		if err := os.MkdirAll(upstream, 0o700); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, filepath.Join(upstream, "run"), text)
		for _, args := range [][]string{{"init", "-q"}, {"add", "run"}, {"-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", version}} {
			cmd := exec.Command("git", append([]string{"-C", upstream}, args...)...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("git %q: %v\n%s", args, err, out)
			}
		}
	}
	runs := func() string {
		t.Helper()
		name := filepath.Join(d.Shares[0].Source, "version")
		os.Remove(name)
		mustBring(t, d, script)
		var version []byte
		eventually(t, func() (err error) { version, err = os.ReadFile(name); return err })
		stopNow(t, d)
		return strings.TrimSpace(string(version))
	}
	release("1")
	first := runs()
	release("2")
	if second := runs(); first != "1" || second != "2" {
		t.Errorf("the same store item ran versions %q and %q", first, second)
	}
	wantRefusal(t, d, script, "fetch", "service code fetches code when it starts (git clone in /gnu/store/")
	d.MayFetch = []string{"code"}
	if p, err := d.Plan(t.Context(), Revision{Script: script}); err != nil || len(p.Refusals) > 0 {
		t.Errorf("%+v, %v", p, err)
	}
	d.MayFetch = nil
	if p, err := d.Plan(t.Context(), Revision{Script: samples(t)["told"]}); err != nil || len(p.Refusals) > 0 {
		t.Errorf("others are refused: %+v, %v", p, err)
	}
}

// A launcher without the right to do what it is for.
func TestRealPrivilegeRefusals(t *testing.T) {
	t.Parallel()
	script := samples(t)["one"]
	temporary, err := os.MkdirTemp("", "guixci")
	if err := errors.Join(err, os.Chmod(temporary, 0o777)); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temporary)
	launch := func(says string, attributes *syscall.SysProcAttr, command ...string) {
		t.Helper()
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir, cmd.SysProcAttr = "/", attributes
		cmd.Env = append(os.Environ(), "TMPDIR="+temporary, "GUILE_AUTO_COMPILE=0")
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), says) {
			t.Errorf("%q: %v, want %q\n%s", command, err, says, out)
		}
	}
	launch("Operation not permitted", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}, script)
	mapped := []syscall.SysProcIDMap{{HostID: 0, Size: 65536}}
	launch("In procedure clone", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: mapped, GidMappings: mapped},
		"/bin/sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces && exec "+script)

	// Both are refused: that the kernel forbids namespaces in TestPreflightNamespaces.
	binary := filepath.Join(temporary, "test")
	text, err := os.ReadFile(os.Args[0])
	if err := errors.Join(err, os.WriteFile(binary, text, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), "STANDIN=planner", "DIR=/", "SCRIPT="+script)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "\nprivilege: only root can") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A script of a Guix that did not know --pid-file, and a secret that anybody may read.
func TestRealScriptAndSecretRefusals(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(samples(t)["one"])
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "run-container")
	if err := os.WriteFile(old, bytes.ReplaceAll(text, []byte("pid-file"), []byte("old-file")), 0o700); err != nil {
		t.Fatal(err)
	}
	d, _ := realDeployment(t)
	var launch *LaunchError
	if _, err := bringUnchecked(t, d, old); !errors.As(err, &launch) {
		t.Errorf("error %v", err)
	}
	stopNow(t, d)
	wantRefusal(t, d, old, "script", "older Guix")

	// Somebody else on the host reads the secret.
	secrets, err := os.MkdirTemp("", "guixci")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(secrets)
	name := filepath.Join(secrets, "key")
	mustWrite(t, name, "secret")
	if err := errors.Join(os.Chmod(secrets, 0o755), os.Chmod(name, 0o644)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat", name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.Output(); err != nil || !slices.Equal(out, []byte("secret")) {
		t.Errorf("%q, %v", out, err)
	}
	d.Environment.Secrets = []Secret{{Name: "key", File: name}}
	wantRefusal(t, d, samples(t)["one"], "environment", "others than its owner may use it")

	// Or has the container be given another one, that nobody but root may read.
	another := writeSecret(t, "another secret", 0o600)
	if err := errors.Join(os.Chmod(secrets, 0o777), os.Chmod(name, 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("ln", "-sf", another, name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	if text := readFile(t, name); string(text) != "another secret" {
		t.Errorf("the secret is %q", text)
	}
	wantRefusal(t, d, samples(t)["one"], "environment", "could put another file in its place")
}
