package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"golang.org/x/sys/unix"
)

// realSamples are real containers of testdata/sample-system.scm: a server, a counter that keeps state, and
// a service that does as it is told. All they keep is on a small disk of its own. They are deployed by this process or by
// the real guixci-deploy, and supervised by what that leaves behind, or by nobody.
type realSamples struct {
	*testing.T
	scripts    []string // two store items, copied in turns
	program    string   // guixci-deploy
	disk       string
	name       string // of the deployment, without that of its environment
	common     string // of the deployment file, but for what changes
	derivation string // of a script that does not build
	promised   string // its file name if it did
	items      []madeItem
	changes    int

	guard   guard
	killing *time.Timer // of the supervisor
	killed  chan bool   // whether there was one, once killing has done that
}

// A madeItem is a store item of this test, and what it was made from.
type madeItem struct {
	script, derivation string
	deleted            bool
}

// A guard says who sees to it that the container runs.
type guard int

const (
	unguarded guard = iota // whoever works on the deployment next
	guarded                // the supervisor that guixci-deploy has left behind
	bereft                 // likewise, and it is killed at some instant
	reviving               // likewise, and after the round the container is killed, which that one starts again
	guards                 // their number
)

// TestRealSoak is the soak of .ci/soak-deploy.
func TestRealSoak(t *testing.T) {
	port := guixtest.FreePort(t)
	soakReal(t, port, []string{"told", "told too"}, fmt.Sprintf(`
 (mount "state" (source "STATE") (target "/srv/state") (writable? #t))
 (settings (PORT "%[1]d"))
 (probes (all-services) (http "http://127.0.0.1:%[1]d/"))`, port))
}

// TestRealSoakBeside is the same with containers that follow each other side by side, each with a network of its
// own, whose counters take turns in their state.
func TestRealSoakBeside(t *testing.T) {
	port, target := guixtest.FreePort(t), filepath.Join(t.TempDir(), "target")
	soakReal(t, port, []string{"own told", "own told too"}, fmt.Sprintf(`
 (mount "state" (source "STATE") (target "/srv/state") (writable? #t) (concurrent? #t))
 (settings (PORT "%[1]d") (LISTEN "0.0.0.0") (SHARED "yes"))
 (ports %[1]d)
 (network (address %[2]q) (gateway %[3]q))
 (side-by-side (address %[4]q) (stop-old? #t)
  (move-traffic "/bin/sh" "-c" "echo \"$GUIXCI_ADDRESS\" > \"$0\"" %[5]q))
 (probes (all-services) (http "http://${ADDRESS}:${PORT}/"))`,
		port, freeAddress(t), freeAddress(t), freeAddress(t), target))
}

// soakReal soaks what a deployment file says, but for what is said here. STATE is where the state is.
func soakReal(t *testing.T, port int, greetings []string, says string) {
	built := samples(t)
	r := &realSamples{T: t, program: os.Getenv("GUIXCI_TEST_DEPLOY"), name: fmt.Sprintf("sample-%d", port)}
	if r.program == "" {
		t.Skip("needs a guixci-deploy: run .ci/test or .ci/soak-deploy, or set GUIXCI_TEST_DEPLOY to the file name of one")
	}
	for _, greeting := range greetings {
		r.scripts = append(r.scripts, built[greeting])
	}
	t.Cleanup(r.deleteItems) // when the roots of the last of them are gone
	r.disk = mountTmpfs(t, "32M")
	state := filepath.Join(r.disk, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	r.common = strings.Replace(says, "STATE", state, 1) + `
 (schedule (start-period "2m") (interval "100ms") (window "300ms"))
 (start-timeout "2m")
 (free-space "4M")
 (keep (last 5))`
	for i, dir := range guixbox.Exposed() {
		r.common += fmt.Sprintf("\n (mount \"box%d\" (source %q))", i, dir)
	}
	r.derivation, r.promised = unbuildable(t)
	d := r.deployment(nil)
	t.Cleanup(func() { // before the disk goes
		tellState(t, d)
		if r.killing != nil {
			r.killing.Stop()
		}
		if err := d.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		eventually(t, func() error { return r.supervisedBy(0) })
		r.checkHost(&soak{T: t, d: d})
	})
	runSoak(t, d, r, 5*time.Second)
}

// file is a deployment file with some more settings.
func (r *realSamples) file(settings map[string]string) string {
	var more strings.Builder
	for name, value := range settings {
		fmt.Fprintf(&more, " (%s %q)", name, value)
	}
	return fmt.Sprintf("(deployment (script %q)%s\n (environment \"soak\" (settings%s)))\n", r.scripts[0], r.common, &more)
}

// deployment is what guixci-deploy makes of that.
func (r *realSamples) deployment(settings map[string]string) *Deployment {
	r.Helper()
	f, err := ReadFile("deployment.scm", strings.NewReader(r.file(settings)))
	if err != nil {
		r.Fatal(err)
	}
	d, err := f.Environment("soak")
	if err != nil {
		r.Fatal(err)
	}
	d.Name = r.name + "-soak"
	d.Dir = filepath.Join(r.disk, "guixci", "deployments", d.Name)
	d.Root, d.Closures = (&build.Roots{Pool: &usualDaemon}).Link, guixClosures{}
	d.Logger = slog.New(slog.NewTextHandler(r.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})) // of hundreds of deploys
	return d
}

// deploy is a run of the real program.
func (r *realSamples) deploy(verb string, flags ...string) *exec.Cmd {
	return exec.Command(r.program, append([]string{verb, r.name, "--environment=soak", "--state=" + filepath.Join(r.disk, "guixci")}, flags...)...)
}

var outputPath = regexp.MustCompile(`"(/gnu/store/[^"]*-run-container)"`)

// unbuildable returns the derivation of a system that does not build, and what it would build.
func unbuildable(t *testing.T) (derivation, output string) {
	t.Helper()
	built, err := guixBuild("build", "--load-path=testdata", "--derivations",
		"--expression="+sampleExpression("unbuildable", "unbuildable", false).String())
	if err != nil || len(built) != 1 {
		t.Fatalf("%q, %v", built, err)
	}
	found := outputPath.FindSubmatch(readFile(t, built[0]))
	if found == nil {
		t.Fatalf("no output in %s", built[0])
	}
	return built[0], string(found[1])
}

// item makes a store item that is like no other one: a copy of a run-container, or a text that may take its place.
func (r *realSamples) item(script, text string) string {
	r.Helper()
	c, err := store.Dial(context.Background(), "") // what it has made is a root as long as it is connected
	if err != nil {
		r.Fatal(err)
	}
	defer c.Close()
	made := storetest.New(r.T, c).Add(storetest.Spec{
		Name: "run-container", Sources: []store.StorePath{store.StorePath(script)},
		Env:    []store.EnvVar{{Name: "script", Value: script}, {Name: "text", Value: text}},
		Script: `if test -n "$text"; then echo "$text"; else cat "$script"; fi >"$out" && chmod 755 "$out"`,
	})
	if err := c.Build(context.Background(), []store.StorePath{made.Derivation}, store.BuildOptions{}, nil); err != nil {
		r.Fatal(err)
	}
	r.items = append(r.items, madeItem{script: string(made.Out()), derivation: string(made.Derivation)})
	return string(made.Out())
}

// change gives each revision a store item and settings of its own, so that none is one that was rejected.
func (r *realSamples) change(s *soak, behaviour string) (*Deployment, Revision) {
	r.changes++
	settings := map[string]string{"CHANGE": fmt.Sprint(r.changes)}
	script, text := r.scripts[r.changes%2], ""
	switch behaviour {
	case "launcher dies":
		text = wrapper(script, "echo 'cannot even start' >&2; exit 1")
	case "pid file lies":
		text = wrapper(script, `echo $PPID > "$file"; set -- "$@" --pid-file="$TMPDIR/true"; `+script+` "$@"`)
	case "service fails":
		settings["MODE"] = "fails"
	case "comes up late":
		settings["MODE"], settings["TAKES"] = "late", "1"
	case "comes up and dies":
		settings["MODE"], settings["TAKES"] = "dies", fmt.Sprintf("%.1f", s.random.Float64())
	case "probe flaps":
		settings["FLAPS"] = "2"
	}
	d := r.deployment(settings)
	switch behaviour {
	case "pid file lies":
		d.StartTimeout = 6 * time.Second
	case "container ends":
		d.Probes = append(d.Probes, killing{})
	case "service fails":
		d.Schedule.StartPeriod = 3 * time.Second
	case "comes up and dies":
		d.Schedule.StartPeriod, d.Schedule.Window = 10*time.Second, time.Hour
		d.StopTimeout = 6 * time.Second // shepherd would wait for one that has died before it was seen
	}
	return d, Revision{Script: r.item(script, text), Who: "soak", Why: behaviour}
}

// apply is a change that works, made by guixci-deploy.
func (r *realSamples) apply(s *soak) *exec.Cmd {
	r.changes++
	file := filepath.Join(r.TempDir(), "deployment.scm")
	if err := os.WriteFile(file, []byte(r.file(map[string]string{"CHANGE": fmt.Sprint(r.changes)})), 0o600); err != nil {
		s.Fatal(err)
	}
	return r.deploy("apply", "--file="+file, "--script="+r.item(r.scripts[r.changes%2], ""), "--who=soak", "--why=to be killed")
}

// killing is a probe that kills what it is to look at.
type killing struct{}

func (killing) String() string { return "killing" }
func (killing) Check(ctx context.Context, in *Instance, _ any) (any, error) {
	return nil, errors.Join(in.Process.signal(unix.SIGKILL), errors.New("killed"))
}

// wrapper is a script in the place of a run-container, which it needs. It has taken --pid-file out of its arguments.
func wrapper(script, text string) string {
	return "#!/bin/sh\n# in the place of " + script + `
for a; do shift; case $a in --pid-file=*) file=${a#--pid-file=};; *) set -- "$@" "$a";; esac; done
` + text
}

// deployer lets guixci-deploy make a change, and kills it.
func (r *realSamples) deployer(s *soak, after time.Duration) {
	cmd := r.apply(s)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if killed, err := runUntil(cmd, after, unix.SIGKILL); err != nil && !killed {
		s.Errorf("deployer: %v\n%s", err, &out)
	}
}

func (r *realSamples) faults() map[string]fault {
	return map[string]fault{
		"build fails":       r.buildFails,
		"comes up late":     r.comesUpLate,
		"comes up and dies": func(s *soak) bool { return s.fails("comes up and dies") },
		"probe flaps":       func(s *soak) bool { return s.fails("probe flaps") },
		"disk full":         r.diskFull,
		"interrupted":       r.interrupted,
		"two deployers":     r.two,
		"machine goes down": func(s *soak) bool { r.killSupervisor(s); return s.machineDown() },
		"machine reboots":   r.reboot,
		"garbage collected": r.garbage,
	}
}

// begin lets somebody, or nobody, supervise the round.
func (r *realSamples) begin(s *soak) {
	r.guard = guard(s.random.IntN(int(guards)))
	if r.guard == unguarded {
		r.killSupervisor(s)
		return
	}
	r.supervise(s)
	if r.guard == bereft {
		r.killed = make(chan bool, 1)
		r.killing = time.AfterFunc(s.instant(), func() { r.killed <- r.killSupervisor(s) })
	}
}

// start starts what ought to run as the guard of the round wants.
func (r *realSamples) start(s *soak) {
	s.Helper()
	switch r.guard {
	case unguarded:
		eventually(s.T, func() error { // a supervisor that guixci-deploy has left behind may be doing so
			_, err := s.d.Start(context.Background())
			return err
		})
	case bereft:
		if r.killing.Stop() {
			r.killed <- r.killSupervisor(s)
		}
		s.count("supervisor killed meanwhile", <-r.killed)
		r.supervise(s)
	case guarded:
		r.supervise(s)
	case reviving:
		r.supervise(s)
		r.revive(s)
	}
}

// supervise has guixci-deploy start what ought to run, and leave a supervisor behind if there is none.
func (r *realSamples) supervise(s *soak) {
	s.Helper()
	eventually(s.T, func() error {
		out, err := r.deploy("start").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("start: %v\n%s", err, out) // the supervisor may be doing so
		}
		return err
	})
	eventually(s.T, func() error { return r.supervisedBy(1) })
}

// revive kills the container, which the supervisor starts again.
func (r *realSamples) revive(s *soak) {
	s.Helper()
	in := s.running()
	victims := []Process{in.Process, in.Launcher}[:1+s.random.IntN(2)]
	for _, p := range victims {
		if err := errors.Join(p.signal(unix.SIGKILL), p.wait(context.Background())); err != nil {
			s.Error(err)
		}
	}
	eventually(s.T, func() error {
		now, err := s.d.Status(context.Background())
		if err == nil && (now.Running == nil || now.Running.Process == in.Process || now.Holder != nil) {
			err = fmt.Errorf("the container that was killed is not started again: %+v", now)
		}
		return err
	})
	last, err := s.d.lastEntered()
	if err != nil || last.Event != WasStarted || last.Who != "supervisor" {
		s.Errorf("the ledger ends with %+v, %v", last, err)
	}
	s.count("container killed, and supervised", true)
}

// supervisors returns those of the deployment.
func (r *realSamples) supervisors() []Process {
	var found []Process
	for _, pid := range pids() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		words := strings.Split(string(line), "\x00")
		if p, _, err := identify(pid); err == nil && len(words) > 2 && words[1] == "supervise" && words[2] == r.name {
			found = append(found, p)
		}
	}
	return found
}

// supervisedBy returns an error unless there are so many supervisors.
func (r *realSamples) supervisedBy(want int) error {
	if found := r.supervisors(); len(found) != want {
		return fmt.Errorf("supervisors %v, want %d", found, want)
	}
	return nil
}

// killSupervisor reports whether there was one.
func (r *realSamples) killSupervisor(s *soak) bool {
	found := r.supervisors()
	for _, p := range found {
		if err := errors.Join(p.signal(unix.SIGKILL), p.wait(context.Background())); err != nil {
			s.Error(err)
		}
	}
	return len(found) > 0
}

// interrupted: guixci-deploy is told to end by SIGTERM, and goes back. It may die of that, but not in the middle.
func (r *realSamples) interrupted(s *soak) bool {
	cmd := r.apply(s)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	interrupted, err := runUntil(cmd, s.instant(), unix.SIGTERM)
	last, errLast := s.d.lastEntered()
	status := cmd.ProcessState.ExitCode()
	if errLast != nil || err != nil && (!interrupted || status < 0 && last.Event == Began || status == RollbackFailed.ExitCode()) {
		s.Errorf("guixci-deploy: %v; the ledger ends with %+v, %v\n%s", err, last, errLast, &out)
	}
	before := s.good
	s.findGood()
	return s.good.Number == before.Number
}

func (r *realSamples) comesUpLate(s *soak) bool {
	s.deploys("comes up late")
	return s.good.Switched.Start > time.Second
}

// two deployers at once, one of them the real program: one is refused, or comes second.
func (r *realSamples) two(s *soak) bool {
	d, rev := r.change(s, "works")
	cmd := r.apply(s)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	if s.random.IntN(2) == 0 { // or else this process comes first
		eventually(s.T, func() error {
			if holder, err := s.d.Holder(); holder == nil {
				return fmt.Errorf("nobody holds the lease: %v", err)
			}
			return nil
		})
	}
	_, mine := d.Apply(context.Background(), rev)
	others := cmd.Wait()
	var busy *BusyError
	if mine != nil && !errors.As(mine, &busy) || others != nil && !strings.Contains(out.String(), "has been changing it") || mine != nil && others != nil {
		s.Errorf("one: %v; the other: %v\n%s", mine, others, &out)
	}
	s.findGood()
	return mine != nil || others != nil
}

// garbage: the collector deletes what was dropped, and nothing of what is kept.
func (r *realSamples) garbage(s *soak) bool {
	s.deploys("works")
	all, err := s.d.Generations()
	if err != nil {
		s.Fatal(err)
	}
	kept := make(map[string]bool)
	for i, g := range all {
		root, err := os.Readlink(s.d.generationPath(g.Number, "root"))
		if needed := g.Rejected == "" || i >= len(all)-s.d.Keep.Last; needed {
			kept[g.Script] = true
			if root != g.Script {
				s.Errorf("generation %d has the root %q, and is %s: %v", g.Number, root, g.Script, err)
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			s.Errorf("generation %d, which was rejected long ago, has the root %q: %v", g.Number, root, err)
		}
	}
	dropped := r.collect(s.T, kept)
	for _, item := range r.items {
		if kept[item.script] != fileExists(item.script) {
			s.Errorf("%s: kept %v", item.script, kept[item.script])
		}
		if !kept[item.script] {
			continue
		}
		out, err := exec.Command("guix", "gc", "--delete", item.script).CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("still alive")) {
			s.Errorf("guix gc --delete %s: %v\n%s", item.script, err, out)
		}
	}
	links, err := filepath.Glob("/var/guix/gcroots/auto/*")
	if err != nil || len(links) == 0 {
		s.Errorf("roots %q, %v", links, err)
	}
	for _, link := range links {
		root, _ := os.Readlink(link) // it may have just gone
		if strings.HasPrefix(root, s.d.Dir) && !kept[first(os.Readlink(root))] {
			s.Errorf("%s is a root", root)
		}
	}
	return dropped > 0
}

func first[T any](v T, _ error) T { return v }

func fileExists(name string) bool { return first(os.Lstat(name)) != nil }

// collect has the collector delete all items of this test but those that are kept, and returns their number.
func (r *realSamples) collect(t *testing.T, kept map[string]bool) int {
	t.Helper()
	args := []string{"gc", "--delete"}
	for i, item := range r.items {
		if !item.deleted && !kept[item.script] {
			r.items[i].deleted = true
			args = append(args, item.script, item.derivation)
		}
	}
	if len(args) == 2 {
		return 0
	}
	if out, err := exec.Command("guix", args...).CombinedOutput(); err != nil {
		t.Errorf("guix %q: %v\n%s", args, err, out)
	}
	return len(args)/2 - 1
}

func (r *realSamples) deleteItems() { r.collect(r.T, nil) }

// buildFails: there is a system, and it does not build. What it would be is refused, and nothing is touched.
func (r *realSamples) buildFails(s *soak) bool {
	before := s.running()
	if out, err := exec.Command("guix", "build", r.derivation).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("sample-unbuildable.drv' failed")) {
		s.Errorf("guix build: %v\n%s", err, out)
	}
	d, rev := r.change(s, "works")
	rev.Script = r.promised
	_, err := d.Apply(context.Background(), rev)
	wantOutcome(s.T, err, Refused)
	if after := s.running(); after.Process != before.Process {
		s.Error("what ran was touched")
	}
	return true
}

// diskFull: from some instant on nothing more can be written, neither by us nor by the services. When
// there is space again, things go on.
func (r *realSamples) diskFull(s *soak) bool {
	d, rev := r.change(s, "works")
	full := make(chan func())
	timer := time.AfterFunc(s.instant()/4, func() { full <- fill(s.T, r.disk) }) // else it has come up
	g, err := d.Apply(context.Background(), rev)
	if !timer.Stop() {
		(<-full)()
	}
	var e *Error
	switch {
	case err == nil:
		s.good = g
	case !errors.As(err, &e):
		s.Error(err)
	}
	return err != nil
}

// reboot: nothing is there any more but what is on disks, and pids mean other processes.
func (r *realSamples) reboot(s *soak) bool {
	all := s.instances()
	r.killSupervisor(s)
	down := s.machineDown()
	names := []string{s.d.path("running.json")}
	for _, in := range all {
		if err := os.RemoveAll(filepath.Join(in.runDir(), "tmp")); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
			s.Error(err)
		}
		if h, err := recall(in.unit()); err == nil {
			if err := h.Group.Remove(context.Background()); err != nil { // cgroups are of a boot
				s.Error(err)
			}
		}
		if err := in.disconnect(); err != nil { // so are links
			s.Error(err)
		}
		names = append(names, heldFile(in.unit()))
	}
	for _, name := range names {
		text := bytes.ReplaceAll(readFile(s.T, name), []byte(bootID()), []byte("of another boot"))
		if err := os.WriteFile(name, text, 0o600); err != nil {
			s.Fatal(err)
		}
	}
	return down
}

// check: all services are well, the state is whole, and nothing else of the deployment is on this machine.
func (r *realSamples) check(s *soak, in *Instance) {
	s.Helper()
	for _, p := range in.Generation.Probes.expand(in.Generation.Environment) {
		eventually(s.T, func() error { _, err := p.Check(context.Background(), in, nil); return err })
	}
	r.checkState(s)
	r.checkHost(s, s.instances()...)
	if n := len(r.supervisors()); n > 1 || n == 0 && r.guard != unguarded {
		s.Errorf("%d supervisors", n)
	}
}

// checkState: the counter goes on where it was.
func (r *realSamples) checkState(s *soak) {
	s.Helper()
	count := len(numbers(s.T, s.d))
	eventually(s.T, func() error {
		if len(numbers(s.T, s.d)) == count {
			return errors.New("the counter does not count")
		}
		return nil
	})
	if err := checkJournal(numbers(s.T, s.d)); err != nil {
		s.Error(err)
	}
}

// checkHost looks for mounts, processes, control groups, links and files that are left beside those of
// what runs.
func (r *realSamples) checkHost(s *soak, running ...*Instance) {
	s.Helper()
	namespaces, launchers := r.traces(s.d)
	if len(namespaces) != len(running) {
		s.Errorf("%d containers see the state: %v", len(namespaces), namespaces)
	}
	if len(launchers) != len(running) {
		s.Errorf("launchers %v", launchers)
	}
	if mounts := strings.Count(string(readFile(s.T, "/proc/self/mountinfo")), " "+r.disk); mounts != 1 {
		s.Errorf("%d mounts at the disk of the deployment", mounts)
	}
	belongs := func(f func(*Instance) bool) bool { return slices.ContainsFunc(running, f) }
	for _, group := range groupsOf(s.d) {
		if !belongs(func(in *Instance) bool { return filepath.Base(group) == in.unit().Name }) {
			s.Errorf("control group %s is left", group)
		}
	}
	for _, wire := range r.wires(s.d) {
		if !belongs(func(in *Instance) bool { return wire == in.wire() }) {
			s.Errorf("link %s is left", wire)
		}
	}
	filepath.WalkDir(s.d.Dir, func(name string, e fs.DirEntry, err error) error {
		if belongs(func(in *Instance) bool { return name == in.runDir() }) {
			return fs.SkipDir
		}
		if err == nil && (strings.HasPrefix(e.Name(), ".") || e.Name() == "run" || strings.HasPrefix(e.Name(), "guix-directory")) {
			s.Errorf("%s is left", name)
		}
		return err
	})
	for _, in := range running {
		if roots, _ := filepath.Glob(filepath.Join(in.runDir(), "tmp", "*")); len(roots) > 1 {
			s.Errorf("temporary directories %q", roots)
		}
	}
}

// wires returns the links of all generations there could be.
func (r *realSamples) wires(d *Deployment) []string {
	var found []string
	for number := range r.changes + 1 {
		in := &Instance{Generation: &Generation{Number: number}, d: d}
		if _, err := net.InterfaceByName(in.wire()); err == nil {
			found = append(found, in.wire())
		}
	}
	return found
}

// traces returns the mount namespaces that have something of the disk at a place of a container, with a process
// of each, and the launchers.
func (r *realSamples) traces(d *Deployment) (namespaces map[string]int, launchers []int) {
	var st unix.Stat_t
	if err := unix.Stat(r.disk, &st); err != nil {
		r.Fatal(err)
	}
	device := fmt.Sprintf(" %d:%d ", unix.Major(st.Dev), unix.Minor(st.Dev))
	namespaces = make(map[string]int)
	for _, pid := range pids() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.Contains(line, []byte(d.Dir+"/")) {
			launchers = append(launchers, pid)
		}
		mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		for mount := range strings.Lines(string(mounts)) {
			if strings.Contains(mount, device) && strings.Contains(mount, " /srv/state ") {
				ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
				namespaces[ns] = pid
			}
		}
	}
	delete(namespaces, "") // the process has just gone
	return namespaces, launchers
}

// groupsOf returns the control groups of all units of a deployment.
func groupsOf(d *Deployment) []string {
	var found []string
	filepath.WalkDir("/sys/fs/cgroup", func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.HasPrefix(e.Name(), UnitPrefix+d.Name+"-") {
			found = append(found, name)
		}
		return nil
	})
	return found
}
