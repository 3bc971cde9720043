package container

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Other containers are known by what they see, whoever has made them and however: by a script that goes by
// another name, with mounts that were built into it, or by a program that knows nothing of Guix. One that is only about
// to be made is known by the arguments of its launcher.

// An other is what has a mount namespace of its own, ours or not, as it is seen from outside.
type other struct {
	processes []int  // in it; if one of them is number 1 of a container, it comes first
	container bool   // one of them is, has a root of its own, and was there before the others
	system    bool   // it is a container of a Guix System
	writable  []view // where it may write
}

// A view is a directory of this machine as others see it.
type view struct {
	mounted
	usual bool // by the name that it has on this machine
}

// others returns what has other mounts than this process, own, and may be seen by it. Process 1 of the machine has
// all that is there, and is no container.
func others(own []mounted) []other {
	namespaces := make(map[string][]int)
	var names []string
	for _, pid := range pids() {
		name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil {
			continue // it has just gone
		}
		if namespaces[name] == nil {
			names = append(names, name)
		}
		namespaces[name] = append(namespaces[name], pid)
	}
	var all []other
	for _, name := range names {
		processes := namespaces[name]
		if slices.Contains(processes, os.Getpid()) || slices.Contains(processes, 1) {
			continue
		}
		first := max(0, slices.IndexFunc(processes, isFirst))
		processes[0], processes[first] = processes[first], processes[0]
		mounts := mountsOf(strconv.Itoa(processes[0]))
		o := other{processes: processes, writable: viewsIn(mounts, own)}
		if isFirst(processes[0]) && hasOwnRoot(processes[0], mounts) {
			// The store is mounted before anything boots, and a sandbox for something else has hardly all of it.
			o.system = slices.ContainsFunc(mounts, func(m mounted) bool { return m.at == "/gnu/store" })
			o.container = o.system || isOldest(processes)
		}
		all = append(all, o)
	}
	return all
}

// hasOwnRoot reports whether number 1 of a container, which sees mounts, is done with being set up. Until then it sees what its
// launcher does.
func hasOwnRoot(pid int, mounts []mounted) bool {
	_, parent, err := identify(pid)
	return err == nil && placeOf("/", mounts) != placeOf("/", mountsOf(strconv.Itoa(parent)))
}

// isOldest reports whether the first of some processes was there before the others: what had a mount namespace before
// is no container because of one that has made a pid namespace in it.
func isOldest(processes []int) bool {
	first, _, err := identify(processes[0])
	return err == nil && !slices.ContainsFunc(processes, func(pid int) bool {
		p, _, err := identify(pid)
		return err == nil && p.Start < first.Start
	})
}

// viewsIn returns where somebody who sees mounts may write. That is not the console that we give containers, nor, where he sees
// the root of this machine, what is in its place there: a process in a sandbox sees that, and a container
// that is there to look after the machine, and neither keeps state everywhere.
func viewsIn(mounts, own []mounted) []view {
	root := placeOf("/", own)
	var views []view
	for _, m := range mounts {
		if !m.writable || slices.Contains(consoleTargets, m.at) {
			continue
		}
		elsewhere, usual := true, placeOf(m.at, own) == m.place
		for _, v := range mounts {
			if !v.contains(root) || !isIn(m.at, v.at) {
				continue
			}
			name, err := filepath.Rel(filepath.Join(v.at, strings.TrimPrefix(root.path, v.path)), m.at)
			ofOurs := err == nil && name != ".." && !strings.HasPrefix(name, "../") // else it is not below our root
			elsewhere = elsewhere && ofOurs && placeOf("/"+name, own) != m.place
		}
		if elsewhere {
			views = append(views, view{m, usual})
		}
	}
	return views
}

// writesTo returns where one may write to one of the places; empty for nowhere. A program that is no container is taken for
// one that keeps state there if it was given just that, or more of it elsewhere: many services have a root of their own, such as
// those that come as snaps, and all home directories as they are. A container is given what it is to work on, but where
// writing is concurrent it may have more than the place.
func (o other) writesTo(places []place, concurrent bool) string {
	for _, v := range o.writable {
		if slices.ContainsFunc(places, func(p place) bool {
			return v.overlaps(p) && (p.contains(v.place) || !concurrent && (o.container || !v.usual))
		}) {
			return v.at
		}
	}
	return ""
}

// origin returns whether one of the processes is, or descends from, one of mine, or else the pid file that the launcher was given
// from which one descends; empty for none.
func (o other) origin(mine []Process) (isMine bool, pidFile string) {
	for _, pid := range o.processes {
		for pid > 1 {
			p, parent, err := identify(pid)
			if err != nil {
				break
			}
			if slices.Contains(mine, p) {
				return true, ""
			}
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // none: it has just gone
			if _, pidFile := sharesIn(line); pidFile != "" {
				return false, pidFile
			}
			pid = parent
		}
	}
	return false, ""
}

// String says which it is.
func (o other) String() string {
	pid := o.processes[0]
	if o.system {
		return fmt.Sprintf("the container whose first process is %d", pid)
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // none: it has just gone
	return fmt.Sprintf("process %d (%s), which has mounts of its own,", pid, strings.TrimSpace(string(name)))
}

// checkState looks for another container, ours or not, that may write where
// this one may: two services that keep their state in one place destroy it.
func (d *Deployment) checkState(g *Generation) error {
	if len(g.Shares) == 0 {
		return nil
	}
	var errs []error
	refuse := func(who, where string, justThat bool, m Mount) {
		err := fmt.Errorf("%s writes to %q: it and this one would destroy what they keep in %q", who, where, m.Source)
		if !justThat {
			err = fmt.Errorf("%w; say (concurrent? #t) if it keeps to other parts of what it was given, or both can bear it", err)
		}
		errs = append(errs, d.placing("mount "+m.Name, err))
	}
	own := mountsOf("self")
	mine := d.recorded()
	known := make(map[int]bool)
	for _, o := range others(own) {
		if _, launcher, err := identify(o.processes[0]); err == nil && o.system {
			known[launcher] = true
		}
		for _, m := range g.Shares {
			places := placesOf(m.Source, own)
			at := o.writesTo(places, m.Concurrent)
			if at == "" {
				continue
			}
			isMine, pidFile := o.origin(mine)
			if !isMine && !below(pidFile, d.path("generations")) && !(d.isRelative(pidFile) && m.Concurrent) {
				refuse(cmp.Or(generationOf(pidFile), o.String()), at, o.writesTo(places, true) != "", m)
			}
		}
	}
	for _, pid := range pids() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // none: it has just gone
		shares, pidFile := sharesIn(line)
		if known[pid] || below(pidFile, d.path("generations")) {
			continue
		}
		for _, m := range g.Shares {
			for _, other := range shares {
				justThat := isIn(other, m.Source)
				allowed := m.Concurrent && (d.isRelative(pidFile) || !justThat)
				if overlap(m.Source, other) && !allowed {
					refuse(cmp.Or(generationOf(pidFile), fmt.Sprintf("container of launcher %d", pid)), other, justThat, m)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// recorded returns the first processes of the containers that the deployment knows of, whose launchers may have ended.
func (d *Deployment) recorded() []Process {
	r, err := d.readRecord()
	if err != nil || r == nil {
		return nil
	}
	mine := []Process{r.Process}
	if r.Beside != nil {
		mine = append(mine, r.Beside.Process)
	}
	return mine
}

// isRelative reports whether a pid file is that of another generation that runs beside, or is run beside.
func (d *Deployment) isRelative(pidFile string) bool {
	return below(pidFile, d.path("beside")) || d.live != "" && below(pidFile, d.live)
}

// sharesIn returns the writable mounts of a run-container's command line, and its pid file.
func sharesIn(line []byte) (shares []string, pidFile string) {
	launcher := false
	for argument := range bytes.SplitSeq(line, []byte{0}) {
		name, value, _ := strings.Cut(string(argument), "=")
		switch name {
		case "--share":
			source, target, _ := strings.Cut(value, "=")
			if !slices.Contains(consoleTargets, target) {
				shares = append(shares, source)
			}
		case "--pid-file":
			launcher, pidFile = true, value
		}
		launcher = launcher || strings.HasSuffix(name, "-run-container")
	}
	if !launcher {
		return nil, ""
	}
	return shares, pidFile
}

// generationOf says which generation has a pid file; it is empty for what is none of ours.
func generationOf(pidFile string) string {
	run, file := filepath.Split(pidFile)
	generation, dir := filepath.Split(filepath.Clean(run))
	all, number := filepath.Split(filepath.Clean(generation))
	deployment, generations := filepath.Split(filepath.Clean(all))
	if file != "pid" || dir != "run" || generations != "generations" {
		return ""
	}
	return fmt.Sprintf("generation %s of the deployment in %s", number, filepath.Clean(deployment))
}

// below reports whether a file is below a directory.
func below(name, dir string) bool { return strings.HasPrefix(name, dir+"/") }
