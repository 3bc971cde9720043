package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// inode tells a file, however many names it has.
type inode struct{ device, number uint64 }

// A treeCopy copies a directory so that a program cannot tell the copy from the
// original: owners, modes, times, extended attributes (access-control lists and
// capabilities are such), links of both kinds, holes and special files.
// Where the file system can, the copy shares the data with the original.
type treeCopy struct {
	ctx  context.Context
	root uint64           // device of the original
	seen map[inode]string // where the copy of a file with several names is
}

// copyTree copies a directory to one that does not exist yet, or is empty.
// It refuses one in which something else is mounted. When ctx ends, what there is of the copy stays.
func copyTree(ctx context.Context, from, to string) error {
	if err := checkNothingMounted(from); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: from, Err: err}
	}
	c := &treeCopy{ctx: ctx, root: st.Dev, seen: make(map[inode]string)}
	return c.directory(from, to, &st)
}

func (c *treeCopy) directory(from, to string, st *unix.Stat_t) error {
	if st.Dev != c.root {
		return fmt.Errorf("copy %s: it is on another file system", from)
	}
	if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.entry(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return copyAttributes(from, to, st)
}

func (c *treeCopy) entry(from, to string) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: from, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return c.directory(from, to, &st)
	}
	id := inode{st.Dev, st.Ino}
	if st.Nlink > 1 && c.seen[id] != "" {
		return os.Link(c.seen[id], to)
	}
	if err := copyFile(from, to, &st); err != nil {
		return err
	}
	if st.Nlink > 1 {
		c.seen[id] = to
	}
	return copyAttributes(from, to, &st)
}

// copyFile copies anything but a directory.
func copyFile(from, to string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return copyData(from, to, st.Size)
	case unix.S_IFLNK:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
		return &fs.PathError{Op: "mknod", Path: to, Err: err}
	}
	return nil
}

// copyData shares the data, or else copies it without its holes.
func copyData(from, to string, length int64) error {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		err = copyExtents(in, out, length)
	}
	return errors.Join(err, out.Close())
}

func copyExtents(in, out *os.File, length int64) error {
	for end := int64(0); end < length; {
		start, err := in.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole until the end
		}
		if err != nil {
			return err
		}
		if end, err = in.Seek(start, unix.SEEK_HOLE); err != nil {
			return err
		}
		_, err = in.Seek(start, io.SeekStart)
		if err == nil {
			_, err = out.Seek(start, io.SeekStart)
		}
		if err == nil {
			_, err = io.CopyN(out, in, end-start)
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", in.Name(), err)
		}
	}
	return out.Truncate(length)
}

// copyAttributes makes the copy what the original is beside its contents. The order counts: a
// change of owner takes away capabilities and the bits of the mode that give privileges.
func copyAttributes(from, to string, st *unix.Stat_t) error {
	err := os.Lchown(to, int(st.Uid), int(st.Gid))
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		err = unix.Chmod(to, st.Mode&0o7777)
	}
	if err == nil {
		err = copyExtended(from, to)
	}
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("copy attributes of %s: %w", from, err)
	}
	return nil
}

// copyExtended makes the extended attributes those of the original: a directory
// that was there before may have others.
func copyExtended(from, to string) error {
	want, err := extended(from)
	if err != nil {
		return err
	}
	have, err := extended(to)
	if err != nil {
		return err
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			if err := unix.Lremovexattr(to, name); err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
		}
	}
	for name, value := range want {
		if have[name] == value && len(value) > 0 {
			continue
		}
		if err := unix.Lsetxattr(to, name, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// extended returns the extended attributes of a file; none where there can be none.
func extended(name string) (map[string]string, error) {
	names, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(name, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := make(map[string]string)
	for key := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if key == "" {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return unix.Lgetxattr(name, key, b) })
		if err != nil {
			return nil, fmt.Errorf("get %s: %w", key, err)
		}
		all[key] = string(value)
	}
	return all, nil
}

// grow calls a function of the kernel with a buffer that is large enough.
func grow(call func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := call(b)
		if !errors.Is(err, unix.ERANGE) {
			return b[:max(n, 0)], err
		}
	}
}

// emptyTree removes all that is in a directory, but not the directory.
func emptyTree(dir string) error {
	if err := checkNothingMounted(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// checkNothingMounted refuses a directory with a mount in it: what is there belongs to
// somebody else, and must be neither copied nor removed.
func checkNothingMounted(dir string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	inside := resolve(dir) + "/"
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(unescape(fields[4]), inside) {
			return fmt.Errorf("%s: something is mounted in it, at %s", dir, unescape(fields[4]))
		}
	}
	return nil
}

// unescape reads a name of proc_pid_mountinfo(5).
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// treeSize returns the bytes that a directory takes on disk.
func treeSize(dir string) (int64, error) {
	seen := make(map[inode]bool)
	var total int64
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
		if id := (inode{st.Dev, st.Ino}); !seen[id] {
			seen[id] = true
			total += st.Blocks * 512
		}
		return nil
	})
	return total, err
}

// sharesData reports whether copies in one directory of files in another take no
// space, which only trying tells.
func sharesData(from, to string) bool {
	shares := false
	filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		if info, err := e.Info(); err != nil || info.Size() == 0 {
			return nil
		}
		shares = canClone(name, to)
		return fs.SkipAll
	})
	return shares
}

func canClone(file, dir string) bool {
	in, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer in.Close()
	out, err := os.CreateTemp(dir, ".clone-")
	if err != nil {
		return false
	}
	defer os.Remove(out.Name())
	defer out.Close()
	return unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil
}

// syncTree waits until the file system that a directory is on has written everything.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
