package container

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Other containers are known by what they see, whoever has made them and however: by a script that goes by
// another name, or with mounts that were built into it. One that is only about to be made is known by the arguments
// of its launcher.

// An other is a container of a Guix System, ours or not, as it is seen from outside.
type other struct {
	process, launcher int
	pidFile           string    // that its launcher was given; empty for none
	writable          []mounted // where it may write
}

// others returns the containers that this process may see. own are the mounts of this process.
func others(own []mounted) []other {
	machine := placesOf("/", own)
	root := machine[len(machine)-1]
	var all []other
	for _, pid := range pids() {
		_, parent, err := identify(pid)
		if err != nil || !isFirst(pid) {
			continue
		}
		mounts := mountsOf(strconv.Itoa(pid))
		// Before anything boots, its launcher has mounted the store; a sandbox for something else has hardly all of it.
		if slices.ContainsFunc(mounts, func(m mounted) bool { return m.at == "/gnu/store" }) {
			all = append(all, other{pid, parent, pidFileAbove(pid), writableIn(mounts, root)})
		}
	}
	return all
}

// writableIn leaves out what is read-only, the console that we give containers, and the root of this machine with all that is mounted below it: a process in a sandbox
// sees that, and a container that is there to look after the machine, and neither keeps state everywhere.
func writableIn(mounts []mounted, root place) []mounted {
	var views []string
	for _, m := range mounts {
		if m.contains(root) {
			views = append(views, m.at)
		}
	}
	return slices.DeleteFunc(mounts, func(m mounted) bool {
		return !m.writable || slices.Contains(consoleTargets, m.at) || slices.ContainsFunc(views, func(view string) bool { return isIn(m.at, view) })
	})
}

// pidFileAbove returns the pid file that the launcher was given which a process descends from; empty for none.
func pidFileAbove(pid int) string {
	for pid > 1 {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // none: it has just gone
		if _, pidFile := sharesIn(line); pidFile != "" {
			return pidFile
		}
		_, parent, err := identify(pid)
		if err != nil {
			return ""
		}
		pid = parent
	}
	return ""
}

// checkState looks for another container, ours or not, that may write where
// this one may: two services that keep their state in one place destroy it.
func (d *Deployment) checkState(g *Generation) error {
	if len(g.Shares) == 0 {
		return nil
	}
	var errs []error
	refuse := func(who string, where string, m Mount) {
		errs = append(errs, fmt.Errorf("%s writes to %q: it and this one would destroy what they keep in %q", who, where, m.Source))
	}
	own := mountsOf("self")
	mine := d.recorded()
	known := make(map[int]bool)
	for _, o := range others(own) {
		known[o.launcher] = true
		if slices.Contains(mine, o.process) || below(o.pidFile, d.path("generations")) {
			continue
		}
		for _, m := range g.Shares {
			if d.isRelative(o.pidFile) && m.Concurrent {
				continue
			}
			if at := o.writesTo(placesOf(m.Source, own)); at != "" {
				refuse(fmt.Sprintf("the container whose first process is %d", o.process), at, m)
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
				if overlap(m.Source, other) && !(d.isRelative(pidFile) && m.Concurrent) {
					refuse(fmt.Sprintf("container of launcher %d", pid), other, m)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// recorded returns the first processes of the containers that the deployment knows of, whose launchers may have ended.
func (d *Deployment) recorded() []int {
	r, err := d.readRecord()
	if err != nil || r == nil {
		return nil
	}
	mine := []int{r.Process.PID}
	if r.Beside != nil {
		mine = append(mine, r.Beside.Process.PID)
	}
	return mine
}

// isRelative reports whether a pid file is that of another generation that runs beside, or is run beside.
func (d *Deployment) isRelative(pidFile string) bool {
	return below(pidFile, d.path("beside")) || d.live != "" && below(pidFile, d.live)
}

// writesTo returns where the container may write to one of the places; empty for nowhere.
func (o other) writesTo(places []place) string {
	for _, m := range o.writable {
		if slices.ContainsFunc(places, m.overlaps) {
			return m.at
		}
	}
	return ""
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

// below reports whether a file is below a directory.
func below(name, dir string) bool { return strings.HasPrefix(name, dir+"/") }
