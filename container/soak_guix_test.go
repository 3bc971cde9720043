package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// realSamples are real containers of testdata/sample-system.scm: a server, a counter that keeps state, and
// a service that does as it is told. All they keep is on a small disk of its own.
type realSamples struct {
	*testing.T
	scripts    []string // two store items, taken in turns
	disk       string
	derivation string // of a script that does not build
	promised   string // its file name if it did
	changes    int
}

// TestRealSoak is the soak of .ci/soak-deploy.
func TestRealSoak(t *testing.T) {
	built := samples(t)
	d, _ := realDeployment(t)
	soakReal(t, d, built["told"], built["told too"])
}

// TestRealSoakBeside is the same with containers that follow each other side by side, each with a network of its
// own. Their counters share a state that is not made for that: whether it is whole is not looked at.
func TestRealSoakBeside(t *testing.T) {
	built := samples(t)
	d, url := realDeployment(t)
	d.Environment.Network = Network{Address: freeAddress(t), Gateway: freeAddress(t)}
	d.Environment.Ports = []int{mustAtoi(t, d.Environment.Settings["PORT"])}
	d.Environment.Settings["LISTEN"] = "0.0.0.0"
	d.Shares[0].Concurrent = true
	d.Probes = Probes{AllServices{}, HTTP{URL: strings.Replace(url, "127.0.0.1", "${ADDRESS}", 1)}}
	d.Switch = Switch{Mode: SideBySide, StopOld: true, Alternate: Alternate{Address: freeAddress(t)},
		Traffic: &Hook{Command: []string{"/bin/sh", "-c", `echo "$GUIXCI_ADDRESS" > "$0"`, filepath.Join(t.TempDir(), "target")}}}
	soakReal(t, d, built["own told"], built["own told too"])
}

func soakReal(t *testing.T, d *Deployment, scripts ...string) {
	r := &realSamples{T: t, scripts: scripts, disk: mountTmpfs(t, "32M")}
	d.Dir, d.Shares[0].Source = filepath.Join(r.disk, "deployment"), filepath.Join(r.disk, "state")
	if err := os.Mkdir(d.Shares[0].Source, 0o700); err != nil {
		t.Fatal(err)
	}
	d.MinFree = 4 << 20
	d.Keep = Retention{Last: 5}
	d.Schedule = Schedule{StartPeriod: 10 * time.Second, Interval: 100 * time.Millisecond, Window: 300 * time.Millisecond}
	d.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})) // of hundreds of deploys
	r.derivation, r.promised = brokenDerivation(t)
	t.Cleanup(func() { // before the disk goes
		if err := d.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		r.checkHost(&soak{T: t, d: d})
	})
	runSoak(t, d, r)
}

var outputPath = regexp.MustCompile(`"(/gnu/store/[^"]*-run-container)"`)

// brokenDerivation returns a derivation that does not build, and what it would build.
func brokenDerivation(t *testing.T) (derivation, output string) {
	t.Helper()
	cmd := exec.Command("guix", "build", "--derivations",
		`--expression=(begin (use-modules (guix gexp)) (computed-file "run-container" #~(begin (display "cannot compile\n" (current-error-port)) (exit (not #$output)))))`)
	cmd.Env, cmd.Stderr = append(os.Environ(), "HOME="+t.TempDir()), t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	derivation = strings.TrimSpace(string(out))
	found := outputPath.FindSubmatch(readFile(t, derivation))
	if found == nil {
		t.Fatalf("no output in %s", derivation)
	}
	return derivation, string(found[1])
}

// change gives each revision settings of its own, so that none is one that was rejected.
func (r *realSamples) change(s *soak, behaviour string) (*Deployment, Revision) {
	d := *s.d
	r.changes++
	settings := maps.Clone(d.Environment.Settings)
	settings["CHANGE"] = fmt.Sprint(r.changes)
	rev := Revision{Script: r.scripts[r.changes%2], Who: "soak", Why: behaviour}
	quick := d.Schedule // for what never becomes healthy
	quick.StartPeriod = 3 * time.Second
	switch behaviour {
	case "launcher dies":
		rev.Script = r.wrapper("echo 'cannot even start' >&2; exit 1")
	case "pid file lies":
		d.StartTimeout = 6 * time.Second
		rev.Script = r.wrapper(`echo $PPID > "$file"; set -- "$@" --pid-file="$TMPDIR/true"; ` + rev.Script + ` "$@"`)
	case "container ends":
		d.Probes = append(slices.Clone(d.Probes), killing{})
	case "service fails":
		settings["MODE"], d.Schedule = "fails", quick
	case "comes up late":
		settings["MODE"], settings["TAKES"] = "late", "1"
	case "comes up and dies":
		settings["MODE"], settings["TAKES"] = "dies", fmt.Sprintf("%.1f", s.random.Float64())
		d.Schedule.Window = 20 * time.Second
	case "probe flaps":
		settings["FLAPS"] = "2"
	}
	d.Environment.Settings = settings
	return &d, rev
}

// killing is a probe that kills what it is to look at.
type killing struct{}

func (killing) String() string { return "killing" }
func (killing) Check(ctx context.Context, in *Instance, _ any) (any, error) {
	return nil, errors.Join(in.Process.signal(unix.SIGKILL), errors.New("killed"))
}

// wrapper writes a script in the place of a run-container. It has taken --pid-file out of its arguments.
func (r *realSamples) wrapper(text string) string {
	name := filepath.Join(r.TempDir(), "run-container")
	head := "#!/bin/sh\nfor a; do shift; case $a in --pid-file=*) file=${a#--pid-file=};; *) set -- \"$@\" \"$a\";; esac; done\n"
	if err := os.WriteFile(name, []byte(head+text+"\n"), 0o700); err != nil {
		r.Fatal(err)
	}
	return name
}

// A told is what another process is to deploy.
type told struct {
	Name, Dir string
	MinFree   int64
	Keep      Retention
	As        *Generation
}

// deployer hands a change over to another process, and kills it when ctx ends.
func (r *realSamples) deployer(ctx context.Context, s *soak) {
	d, rev := r.change(s, "works")
	text, err := json.Marshal(told{d.Name, d.Dir, d.MinFree, d.Keep, d.generation(rev)})
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "STANDIN=told", "TOLD="+string(text))
	if out, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil {
		s.Errorf("deployer: %v\n%s", err, out)
	}
}

// toldMain is the other process.
func toldMain() error {
	var what told
	if err := json.Unmarshal([]byte(os.Getenv("TOLD")), &what); err != nil {
		return err
	}
	g := what.As
	d := &Deployment{Name: what.Name, Dir: what.Dir, MinFree: what.MinFree, Keep: what.Keep, Shares: g.Shares, Exposes: g.Exposes,
		Environment: g.Environment, Probes: g.Probes, Schedule: g.Schedule, Switch: g.Switch}
	_, err := d.Apply(context.Background(), Revision{Script: g.Script, Who: "soak", Why: "to be killed"})
	return err
}

func (r *realSamples) faults() map[string]func(*soak) {
	return map[string]func(*soak){
		"build fails":       r.buildFails,
		"comes up late":     func(s *soak) { s.deploys("comes up late") },
		"comes up and dies": func(s *soak) { s.fails("comes up and dies") },
		"probe flaps":       func(s *soak) { s.fails("probe flaps") },
		"disk full":         r.diskFull,
		"machine reboots":   r.reboot,
	}
}

// buildFails: what is to be deployed is not there, and nothing is touched.
func (r *realSamples) buildFails(s *soak) {
	before := s.running()
	if out, err := exec.Command("guix", "build", r.derivation).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("build of")) {
		s.Errorf("guix build: %v\n%s", err, out)
	}
	d, rev := r.change(s, "works")
	rev.Script = r.promised
	_, err := d.Apply(context.Background(), rev)
	wantOutcome(s.T, err, Refused)
	if after := s.running(); after.Process != before.Process {
		s.Error("what ran was touched")
	}
}

// diskFull: from some instant on nothing more can be written, neither by us nor by the services. When
// there is space again, things go on.
func (r *realSamples) diskFull(s *soak) {
	d, rev := r.change(s, "works")
	full := make(chan func())
	timer := time.AfterFunc(s.instant()/2, func() { full <- fill(s.T, r.disk) })
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
}

// reboot: nothing is there any more but what is on disks, and pids mean other processes.
func (r *realSamples) reboot(s *soak) {
	all := s.instances()
	s.machineDown()
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
}

// check: all services are well, the state is whole, and nothing else of the deployment is on this machine.
func (r *realSamples) check(s *soak, in *Instance) {
	s.Helper()
	for _, p := range in.Generation.Probes.expand(in.Generation.Environment) {
		eventually(s.T, func() error { _, err := p.Check(context.Background(), in, nil); return err })
	}
	r.checkState(s)
	r.checkHost(s, s.instances()...)
}

// checkState: the counter goes on where it was, unless it has not been alone.
func (r *realSamples) checkState(s *soak) {
	s.Helper()
	count := len(numbers(s.T, s.d))
	eventually(s.T, func() error {
		if len(numbers(s.T, s.d)) == count {
			return errors.New("the counter does not count")
		}
		return nil
	})
	if s.d.Switch.Mode == SideBySide {
		return
	}
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
		if bytes.Contains(line, []byte(d.Dir+"/")) && !bytes.Contains(line, []byte("STANDIN")) {
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
