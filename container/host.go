package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// checkNamespaces makes namespaces as a run-container is going to, of a process that
// ends at once. There are many ways of forbidding them, and this asks the one who decides.
func checkNamespaces(script string) error {
	program, err := exec.LookPath("true")
	if err != nil {
		return nil // it would be asked for nothing else
	}
	flags := uintptr(unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP)
	if !hasHostNetwork(script) {
		flags |= unix.CLONE_NEWNET
	}
	cmd := exec.Command(program)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  flags,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the kernel forbids the namespaces of a container here: %v; see user.max_user_namespaces and the others beside it, kernel.unprivileged_userns_clone, AppArmor", err)
	}
	return nil
}

// checkPorts tries to listen on the ports. Those that the container to be replaced was
// given become free.
func checkPorts(g *Generation, was standing) error {
	var errs []error
	if g.Environment.Network.isPrivate() {
		return nil // they are not those of the host
	}
	if len(g.Environment.Ports) > 0 && hasOwnNetwork(g.Script) {
		return errors.New("the system has a network of its own, where nobody would reach its ports: have it built with that of this machine, (network? #t) or --network, or give it an address, (network …)")
	}
	for _, port := range g.Environment.Ports {
		if was.frees(port, g) {
			continue
		}
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			errs = append(errs, fmt.Errorf("port %d cannot be used: %w", port, err))
			continue
		}
		l.Close()
	}
	return errors.Join(errs...)
}

// frees reports whether a port becomes free before g starts.
func (s standing) frees(port int, g *Generation) bool {
	has := func(in *Instance) bool {
		return in != nil && slices.Contains(in.Generation.Environment.Ports, port)
	}
	return has(s.beside) || has(s.running) && !g.beside(s)
}

// overlap reports whether one directory is, or is within, the other.
func overlap(a, b string) bool {
	a, b = resolve(a)+"/", resolve(b)+"/"
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}

func resolve(name string) string {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	return strings.TrimSuffix(filepath.Clean(name), "/")
}

// leastMemory is less than the launcher and shepherd need to come up.
const leastMemory = 16 << 20

// check refuses limits with which nothing starts.
func (l Limits) check() error {
	if l.Memory != 0 && l.Memory < leastMemory {
		return fmt.Errorf("a limit of %s of memory is less than any container needs, which is more than %s", size(l.Memory), size(leastMemory))
	}
	return nil
}

const defaultMinFree = 256 << 20

// checkDisk wants free space where something is going to be written: the state
// directory, which holds the launcher's temporary files, too, the writable mounts, and
// the store.
func (d *Deployment) checkDisk(g *Generation) error {
	want := d.handlingOf(g).MinFree
	type disk struct{ of, name, place string }
	disks := []disk{{"state directory", d.Dir, "free-space"}, {"store", filepath.Dir(g.Script), "free-space"}}
	for _, m := range g.Shares {
		disks = append(disks, disk{"mount " + m.Source, m.Source, "mount " + m.Name})
	}
	var errs []error
	for _, on := range disks {
		var st unix.Statfs_t
		if err := unix.Statfs(on.name, &st); err != nil {
			continue // that it is not there is another check's
		}
		if free := int64(st.Bavail) * st.Bsize; free < want {
			errs = append(errs, d.placing(on.place, fmt.Errorf("disk of %s (%s) has only %s free, less than %s", on.of, on.name, size(free), size(want))))
		}
	}
	return errors.Join(errs...)
}

// checkSystem looks at what the script says of the system in it. Its error is that
// nobody could tell, as when the daemon does not run, and no refusal.
func (d *Deployment) checkSystem(ctx context.Context, g *Generation, was standing, refuse func(check string, err error)) error {
	if d.Closures == nil {
		return nil
	}
	next, err := ReadSystem(ctx, d.Closures, g.Script)
	if err != nil {
		return err
	}
	refuse("fetch", next.checkFetches(d.handlingOf(g).MayFetch))
	owners := d.checkOwners(g, next)
	refuse("owner", owners)
	if owners == nil {
		refuse("ids", d.checkIDs(ctx, g, next, was))
	}
	return nil
}

func (d *Deployment) checkOwners(g *Generation, s *System) error {
	var errs []error
	refuse := func(m Mount, err error) { errs = append(errs, d.placing("mount "+m.Name, err)) }
	for _, m := range g.Shares {
		if m.Owner == "" {
			continue
		}
		want, known := s.Users[m.Owner]
		if n, err := strconv.Atoi(m.Owner); err == nil {
			want, known = n, true
		}
		if !known {
			refuse(m, fmt.Errorf("mount %q should belong to %s, and the system has no such account", m.Source, m.Owner))
			continue
		}
		var st unix.Stat_t
		err := unix.Stat(m.Source, &st)
		switch {
		case errors.Is(err, fs.ErrNotExist): // which is another check's
		case err != nil:
			refuse(m, err)
		case int(st.Uid) != want:
			refuse(m, fmt.Errorf("mount %q belongs to user %d, and should to %s, who is user %d in the container", m.Source, st.Uid, m.Owner, want))
		}
	}
	return errors.Join(errs...)
}
