package guixbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A mount is what mountinfo says about one.
type mount struct {
	device string
	source string // the directory of the device's file system that is mounted
	target string
}

// mounts returns those that a process sees, none if it is gone.
func mounts(pid string) []mount {
	f, err := os.Open("/proc/" + pid + "/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var all []mount
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) > 4 {
			all = append(all, mount{fields[2],
				strings.TrimSuffix(unescape.Replace(fields[3]), "//deleted"), unescape.Replace(fields[4])})
		}
	}
	return all
}

// at returns the mount that covers a directory, which the last one does.
func at(all []mount, dir string) (found mount) {
	for _, m := range all {
		if within(dir, m.target) && len(m.target) >= len(found.target) {
			found = m
		}
	}
	return found
}

// within reports whether a path is that of a directory or below it.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// inhabitants returns the processes that live in the roots of this box's directory, by the
// root's ID, whoever started them: those in a mount namespace whose root file system is
// such a root, those in one made from there (a system container sees the store at its place,
// out of such a root), and all their descendants.
func (b *Box) inhabitants() (map[string][]int, error) {
	own := mounts("self")
	dir, err := filepath.EvalSymlinks(b.dir())
	if err != nil {
		return nil, fmt.Errorf("look for processes in the box: %v", err)
	}
	home := at(own, dir)
	prefix := filepath.Join(home.source, strings.TrimPrefix(dir, home.target)) + "/root-"
	// lives says in which root the processes of a namespace live.
	lives := func(pid string) string {
		all := mounts(pid)
		if top := at(all, "/"); len(all) == 0 || top == at(own, "/") {
			return "" // where the host's processes live, whatever is mounted there
		}
		for _, m := range all {
			rest, ok := strings.CutPrefix(m.source, prefix)
			id, path, _ := strings.Cut(rest, "/")
			if ok && m.device == home.device && "/"+path == m.target {
				return id
			}
		}
		return ""
	}
	self, _ := os.Readlink("/proc/self/ns/mnt")
	spaces := map[string]string{self: ""} // root ID by mount namespace
	roots, parents := map[int]string{}, map[int]int{}
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || startTime(pid) == "" {
			continue
		}
		space, err := os.Readlink("/proc/" + e.Name() + "/ns/mnt")
		if err != nil {
			continue
		}
		id, known := spaces[space]
		if !known {
			id = lives(e.Name())
			spaces[space] = id
		}
		roots[pid] = id
		if stat := readStat(pid); len(stat) > 1 {
			parents[pid], _ = strconv.Atoi(stat[1])
		}
	}
	found := map[string][]int{}
	for pid := range roots {
		for p := pid; p > 1; p = parents[p] {
			if id := roots[p]; id != "" {
				found[id] = append(found[id], pid)
				break
			}
		}
	}
	return found, err
}

// end ends all processes in a root: politely, then not. It returns when they are gone.
func (b *Box) end(ctx context.Context, id string) error {
	// What is born while the others end is found the next time.
	for try := range 6 {
		all, err := b.inhabitants()
		if err != nil || len(all[id]) == 0 {
			return err
		}
		sig, limit := syscall.SIGKILL, 20*time.Second // which a disk that hangs may take
		if try == 0 {
			sig, limit = syscall.SIGTERM, 5*time.Second
		}
		if err := signalAndWait(ctx, all[id], sig, limit); err != nil {
			return fmt.Errorf("stop box: %w", err)
		}
	}
	all, _ := b.inhabitants()
	if len(all[id]) == 0 {
		return nil
	}
	return fmt.Errorf("stop box: processes %v do not end, even by SIGKILL", all[id])
}

// signalAndWait signals processes and waits, for a time, until they end.
// The error says that ctx ended.
func signalAndWait(ctx context.Context, pids []int, sig syscall.Signal, limit time.Duration) error {
	slices.Sort(pids)
	var fds []unix.PollFd
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone
		}
		defer unix.Close(fd)
		if unix.PidfdSendSignal(fd, sig, nil, 0) == nil {
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	for deadline := time.Now().Add(limit); len(fds) > 0 && time.Now().Before(deadline); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := unix.Poll(fds, 50); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		fds = slices.DeleteFunc(fds, func(fd unix.PollFd) bool { return fd.Revents != 0 })
	}
	return nil
}
