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

const defaultMinFree = 256 << 20

// checkDisk wants free space where something is going to be written: the state
// directory, which holds the launcher's temporary files, too, the writable mounts, and
// the store.
func (d *Deployment) checkDisk(g *Generation) error {
	want := d.handlingOf(g).MinFree
	places := map[string]string{"state directory": d.Dir, "store": filepath.Dir(g.Script)}
	for _, m := range g.Shares {
		places["mount "+m.Source] = m.Source
	}
	var errs []error
	for what, name := range places {
		var st unix.Statfs_t
		if err := unix.Statfs(name, &st); err != nil {
			continue // that it is not there is another check's
		}
		if free := int64(st.Bavail) * st.Bsize; free < want {
			errs = append(errs, fmt.Errorf("disk of %s (%s) has only %s free, less than %s", what, name, size(free), size(want)))
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
	owners := checkOwners(g, next)
	refuse("owner", owners)
	if owners == nil {
		refuse("ids", d.checkIDs(ctx, g, next, was))
	}
	return nil
}

// checkIDs compares the numbers of accounts with who owns what is kept.
func (d *Deployment) checkIDs(ctx context.Context, g *Generation, next *System, was standing) error {
	users, groups, err := d.accountsBefore(ctx, was)
	if err != nil {
		d.log().Warn("cannot compare account numbers", "error", err)
		return nil
	}
	moved := shifts{users: shifted(users, next.Users), groups: shifted(groups, next.Groups)}
	return moved.check(ctx, g.Shares)
}

// accountsBefore asks the running container, or else the store.
func (d *Deployment) accountsBefore(ctx context.Context, was standing) (users, groups IDs, err error) {
	if was.running != nil {
		if users, groups, err = accountsOf(was.running.Process); err == nil {
			return users, groups, nil
		}
	}
	if was.current == nil {
		return nil, nil, nil
	}
	s, err := ReadSystem(ctx, d.Closures, was.current.Script)
	if err != nil {
		return nil, nil, err
	}
	return s.Users, s.Groups, nil
}

func checkOwners(g *Generation, s *System) error {
	var errs []error
	for _, m := range g.Shares {
		if m.Owner == "" {
			continue
		}
		want, known := s.Users[m.Owner]
		if n, err := strconv.Atoi(m.Owner); err == nil {
			want, known = n, true
		}
		var st unix.Stat_t
		if err := unix.Stat(m.Source, &st); err != nil {
			errs = append(errs, err)
			continue
		}
		switch {
		case !known:
			errs = append(errs, fmt.Errorf("mount %q should belong to %s, and the system has no such account", m.Source, m.Owner))
		case int(st.Uid) != want:
			errs = append(errs, fmt.Errorf("mount %q belongs to user %d, and should to %s, who is user %d in the container", m.Source, st.Uid, m.Owner, want))
		}
	}
	return errors.Join(errs...)
}

// shifts are the numbers that have changed hands, with the account they had.
type shifts struct{ users, groups map[int]string }

// shifted returns the numbers that accounts of both had and no longer have.
func shifted(old, new IDs) map[int]string {
	moved := make(map[int]string)
	for name, id := range old {
		if now, ok := new[name]; ok && now != id {
			moved[id] = fmt.Sprintf("%s, who would be %d", name, now)
		}
	}
	return moved
}

// check looks for files of accounts whose number would change: they would
// belong to nobody, or to somebody else. It looks at all files: the one that it left out would be lost.
func (s shifts) check(ctx context.Context, mounts []Mount) error {
	if len(s.users)+len(s.groups) == 0 {
		return nil
	}
	for _, m := range mounts {
		err := filepath.WalkDir(m.Source, func(name string, _ fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var st unix.Stat_t
			if err == nil {
				err = unix.Lstat(name, &st)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it has just gone
			}
			if err != nil {
				return fmt.Errorf("whose files there are in mount %q cannot be found out, and numbers of accounts have changed: %w", m.Source, err)
			}
			return s.checkFile(name, st)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s shifts) checkFile(name string, st unix.Stat_t) error {
	const advice = "give the account a fixed number in the operating system"
	if who, ok := s.users[int(st.Uid)]; ok {
		return fmt.Errorf("%s belongs to user %d, which is %s: %s", name, st.Uid, who, advice)
	}
	if who, ok := s.groups[int(st.Gid)]; ok {
		return fmt.Errorf("%s belongs to group %d, which is %s: %s", name, st.Gid, who, advice)
	}
	return nil
}
