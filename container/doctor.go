package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Finding is a container on this machine, ours or not, and what is missing
// for it to be safe.
type Finding struct {
	Deployment string   `json:"deployment,omitempty"` // empty for one that is not ours
	Generation int      `json:"generation,omitempty"`
	Script     string   `json:"script,omitempty"`
	Unit       string   `json:"unit,omitempty"`     // as its runner calls it; empty for one that is not ours
	Launcher   int      `json:"launcher,omitempty"` // pid; 0 for none
	Process    int      `json:"process,omitempty"`  // pid of its first process; 0 for none
	Missing    []string `json:"missing,omitempty"`  // empty for a healthy one
}

// Doctor looks at all containers of this machine that it may see. Those of the given
// deployments are judged by their own state; what ought to run and does not is found, too, and what cannot be judged
// keeps nothing else from being.
func Doctor(deployments ...*Deployment) []Finding {
	var found []Finding
	known, units := make(map[int]bool), make(map[string]bool)
	for _, d := range deployments {
		f, err := d.examine()
		if err != nil {
			f = &Finding{Deployment: d.Name}
			f.miss("it cannot be judged: %v", err)
		}
		beside, left := d.lookedAt()
		for _, in := range left {
			f := Finding{Deployment: in.d.Name, Generation: in.Generation.Number, Script: in.Generation.Script, Unit: in.unit().Name,
				Launcher: in.Launcher.PID, Process: in.Process.PID}
			f.miss("whoever ran it beside %s was killed: the next start, stop or apply of that clears it away", d.Name)
			found = append(found, f)
		}
		beside = append(beside, left...)
		if b, _ := d.atSide(); b != nil {
			beside = append(beside, b)
		}
		for _, b := range beside {
			known[b.Launcher.PID], known[b.Process.PID], units[b.unit().Name] = true, true, true
		}
		if f != nil {
			found = append(found, *f)
			known[f.Launcher], known[f.Process] = true, true
		}
	}
	for _, pid := range pids() {
		known[0] = false
		if f, ok := stranger(pid); ok && !known[f.Launcher] && !known[f.Process] {
			found = append(found, f)
			known[f.Launcher], known[f.Process] = true, true
		}
	}
	for _, f := range found {
		units[f.Unit] = true
	}
	return append(found, unknownUnits(deployments, units)...)
}

// unknownUnits returns what service managers run for us and is not known.
// One that does not answer runs nothing, or is said not to answer where it should.
func unknownUnits(deployments []*Deployment, known map[string]bool) []Finding {
	ctx, cancel := context.WithTimeout(context.Background(), runnerTimeout)
	defer cancel()
	runners := make(map[string]Runner)
	for _, d := range deployments {
		maps.Copy(runners, d.Runners)
	}
	var more []Finding
	for _, runner := range slices.Sorted(maps.Keys(runners)) {
		names, _ := runners[runner].Units(ctx)
		for _, name := range names {
			if known[name] {
				continue
			}
			f := Finding{Unit: name}
			f.miss("an orphan: %s runs it, and no deployment here knows it", runner)
			more = append(more, f)
		}
	}
	return more
}

// examine returns nil for a deployment of which nothing runs nor ought to.
func (d *Deployment) examine() (*Finding, error) {
	r, err := d.readRecord()
	if err != nil || r == nil {
		return nil, err
	}
	in, err := d.instance(r)
	if err != nil {
		return nil, err
	}
	f := &Finding{Deployment: d.Name, Generation: r.Generation, Script: in.Generation.Script, Unit: in.unit().Name}
	if in.Launcher.Alive() {
		f.Launcher = in.Launcher.PID
	}
	if in.Alive() {
		f.Process = in.Process.PID
	}
	switch {
	case r.Unwanted:
		f.miss("it is being stopped, or whoever did so was killed: the next command finishes that")
		return f, nil
	case f.Process == 0:
		f.miss("it ought to run and does not: start it")
		return f, nil
	}
	if f.Launcher == 0 {
		f.miss("its launcher has ended: the container runs on, but leaves its temporary directory behind")
	}
	if current, err := d.Current(); err != nil || current == nil || current.Number != r.Generation {
		f.miss("it is on trial, or whoever tried it was killed: the next command sets that right")
	} else {
		f.judgeServices(in)
	}
	if r.ComingUp {
		f.miss("it is coming up, or whoever started it was killed: start waits until it has")
	}
	f.judge(in)
	if target, err := os.Readlink(d.generationPath(r.Generation, "root")); err != nil || target != f.Script {
		f.miss("no root: the garbage collector deletes it as soon as it stops")
	}
	for _, m := range slices.Concat(in.Generation.Shares, in.Generation.Exposes) {
		if _, err := os.Stat(m.Source); errors.Is(err, os.ErrNotExist) {
			f.miss("the source of mount %q has gone: it cannot be started again", m.Source)
		}
	}
	if _, err := d.History(); err != nil {
		f.miss("its ledger is not whole: %v", err)
	}
	return f, nil
}

// judge adds what the runner knows.
func (f *Finding) judge(in *Instance) {
	state, err := in.state(context.Background())
	if err != nil {
		f.miss("its runner cannot be asked: %v", err)
		return
	}
	if !state.Held {
		f.miss("no control group: nothing limits it, and only its pid namespace holds it together")
	}
	if held, err := in.d.Supervised(); err == nil && !held {
		missing := "nobody starts it when it ends, or with the machine"
		if runner := in.Generation.Environment.Runner; runner != "" { // its units are of this boot only
			missing = runner + " knows nothing of it once the machine has restarted, and nobody else starts it then"
		}
		f.miss(`no supervisor: %s; have a service of the machine supervise it, as "guixci-deploy supervise --help" shows`, missing)
	}
	if text := state.limitText(in.Generation.Environment.Limits); text != "" {
		f.miss("%s", text)
	}
}

// judgeServices adds what shepherd knows.
func (f *Finding) judgeServices(in *Instance) {
	services, err := in.services(context.Background())
	if err != nil {
		f.miss("its shepherd cannot be asked: %v", err)
		return
	}
	for _, bad := range in.Generation.Probes.unwell(services) {
		f.miss("service %s %s", bad.Service.Name(), bad.Problem)
	}
}

func (f *Finding) miss(format string, args ...any) {
	f.Missing = append(f.Missing, fmt.Sprintf(format, args...))
}

// stranger tells whether a process is a launcher, or the first process of a
// container that has lost its launcher.
func stranger(pid int) (Finding, bool) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return Finding{}, false
	}
	arguments := bytes.Split(line, []byte{0})
	p, parent, err := identify(pid)
	if err != nil {
		return Finding{}, false
	}
	if i := slices.IndexFunc(arguments, isLauncher); i >= 0 {
		f := Finding{Script: realName(arguments[i]), Launcher: pid}
		if parentLine, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", parent)); err == nil && bytes.Equal(parentLine, line) {
			return Finding{}, false // a container that is being set up has its launcher's name
		}
		for _, child := range p.children() {
			f.Process = child.PID
		}
		f.miss(notOurs)
		return f, true
	}
	if !isFirst(pid) || !isSystem(pid) || !bytes.Contains(line, []byte("shepherd")) || isNamedLauncher(parent) {
		return Finding{}, false
	}
	f := Finding{Process: pid}
	if isGuile(parent) {
		f.Launcher = parent
		f.miss(notOurs)
	} else {
		f.miss("an orphan: its launcher has ended, and no deployment here knows it")
	}
	return f, true
}

const notOurs = "not ours: no root, no ledger, no probes, and nobody to start it again"

// isLauncher reports whether an argument is the name of a run-container, or a link to one.
func isLauncher(argument []byte) bool {
	name := realName(argument)
	return itemName(name) == "run-container" && strings.HasPrefix(name, "/gnu/store/")
}

func realName(argument []byte) string {
	name := string(argument)
	if real, err := filepath.EvalSymlinks(name); err == nil && filepath.IsAbs(name) {
		name = real
	}
	return name
}

func isNamedLauncher(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && slices.ContainsFunc(bytes.Split(line, []byte{0}), isLauncher)
}

// isGuile reports whether a process is a program in Guile as a launcher is, by whatever name: not the shepherd of
// the machine or of a user, which become the parents of orphans.
func isGuile(pid int) bool {
	program, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // it may be gone, or a kernel's
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Contains(filepath.Base(program), "guile") && !bytes.Contains(line, []byte("shepherd"))
}

// isSystem reports whether a process was started as part of a Guix System, whose boot leaves its name in the
// environment; a shepherd in a sandbox of its own was not.
func isSystem(pid int) bool {
	environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return slices.ContainsFunc(bytes.Split(environment, []byte{0}), func(variable []byte) bool {
		return bytes.HasPrefix(variable, []byte("GUIX_NEW_SYSTEM="))
	})
}

// isFirst reports whether a process is number 1 of a pid namespace below ours.
func isFirst(pid int) bool {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	for line := range strings.Lines(string(text)) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(numbers)
			return len(fields) > 1 && fields[len(fields)-1] == "1"
		}
	}
	return false
}
