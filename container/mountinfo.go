package container

import (
	"os"
	"path/filepath"
	"strings"
)

// A place is a directory as the kernel knows it, the same by whatever name and in whatever
// mount namespace it is seen.
type place struct {
	device string // of its file system, MAJOR:MINOR
	path   string // within that
}

// contains reports whether q is p, or below it.
func (p place) contains(q place) bool { return p.device == q.device && isIn(q.path, p.path) }

// overlaps reports whether one place is, or is within, the other.
func (p place) overlaps(q place) bool { return p.contains(q) || q.contains(p) }

// isIn reports whether one absolute, clean name is the other or below it.
func isIn(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

// A mounted is a mount as a process sees it, a line of proc_pid_mountinfo(5).
type mounted struct {
	place
	at       string
	writable bool
}

// mountsOf returns the mounts that a process sees, those that hide others after them; none of one that has gone.
func mountsOf(process string) []mounted {
	text, _ := os.ReadFile("/proc/" + process + "/mountinfo")
	var all []mounted
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 6 {
			continue
		}
		all = append(all, mounted{
			place:    place{fields[2], unescape(fields[3])},
			at:       unescape(fields[4]),
			writable: strings.HasPrefix(fields[5]+",", "rw,"),
		})
	}
	return all
}

// placesOf returns where a directory of this process is, and what is mounted below it, which goes
// with it into a container.
func placesOf(dir string, mounts []mounted) []place {
	dir = "/" + strings.TrimPrefix(resolve(dir), "/")
	var on mounted
	var below []place
	for _, m := range mounts {
		switch {
		case isIn(dir, m.at) && len(m.at) >= len(on.at):
			on = m
		case isIn(m.at, dir):
			below = append(below, m.place)
		}
	}
	inner := strings.TrimPrefix(dir, strings.TrimSuffix(on.at, "/"))
	return append(below, place{on.device, filepath.Join(on.path, inner)})
}

// placeOf returns where a directory of this process itself is.
func placeOf(dir string, mounts []mounted) place {
	places := placesOf(dir, mounts)
	return places[len(places)-1]
}
