package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// portrait describes everything about a tree that a program could tell, but for the numbers of
// inodes and the times at which files were read.
func portrait(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	first := make(map[inode]string)
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		attributes, err := extended(name)
		if err != nil {
			return err
		}
		short, _ := filepath.Rel(dir, name)
		text := fmt.Sprintf("mode %o owner %d:%d device %x modified %d.%09d attributes %q", st.Mode, st.Uid, st.Gid, st.Rdev,
			st.Mtim.Sec, st.Mtim.Nsec, attributes)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" data %.40q length %d blocks %d", data, st.Size, st.Blocks)
		case unix.S_IFLNK:
			target, _ := os.Readlink(name)
			text += " to " + target
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			id := inode{st.Dev, st.Ino}
			if first[id] == "" {
				first[id] = short
			}
			text += " is " + first[id]
		}
		all[short] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// makeState makes a directory with all that can be in one.
func makeState(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(elem ...string) string { return filepath.Join(append([]string{dir}, elem...)...) }
	do(os.MkdirAll(file("db", "empty"), 0o700))
	do(os.WriteFile(file("db", "table"), []byte("rows"), 0o640))
	do(os.Link(file("db", "table"), file("db", "other-name")))
	do(os.Symlink("../outside", file("db", "dangling")))
	do(os.Symlink("/etc/passwd", file("absolute")))
	do(unix.Mkfifo(file("fifo"), 0o622))
	do(os.WriteFile(file("program"), []byte("#!"), 0o700))
	sparse, err := os.Create(file("sparse"))
	do(err)
	_, err = sparse.WriteAt([]byte("in the middle"), 4<<20)
	do(err)
	do(sparse.Truncate(16 << 20))
	do(sparse.Close())
	do(unix.Setxattr(file("db", "table"), "user.kind", []byte("a table\x00"), 0))
	do(unix.Setxattr(file("db"), "user.empty", nil, 0))
	do(os.WriteFile(file("name with\nnewline"), nil, 0o600))
	if os.Geteuid() == 0 {
		do(os.Lchown(file("absolute"), 1234, 4321))
		do(os.Chown(file("db", "empty"), 999, 999))
		do(os.Chown(file("program"), 999, 998))
		do(unix.Mknod(file("null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	}
	do(os.Chmod(file("program"), 0o755|os.ModeSetuid))
	do(os.Chmod(file("db", "empty"), 0o770|os.ModeSticky|os.ModeSetgid))
	past := time.Unix(1_000_000_000, 123_456_789)
	do(os.Chtimes(file("db", "table"), past, past))
	do(os.Chtimes(file("db"), past, past))
	return dir
}

func TestCopyTree(t *testing.T) {
	from := makeState(t)
	to := filepath.Join(t.TempDir(), "copy")
	if err := copyTree(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	want := portrait(t, from)
	if diff := cmp.Diff(want, portrait(t, to)); diff != "" {
		t.Errorf("(-original +copy):\n%s", diff)
	}
	if len(want) < 12 || !strings.Contains(want["db/table"], "is db/other-name") {
		t.Errorf("portrait %v", want)
	}
	if size, err := treeSize(to); err != nil || size > 1<<20 {
		t.Errorf("the copy takes %d bytes: its holes are gone (%v)", size, err)
	}

	// back over something else
	if err := os.WriteFile(filepath.Join(from, "db", "table"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(from, "user.new", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(from, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := emptyTree(from); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), to, from); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, portrait(t, from)); diff != "" {
		t.Errorf("(-before +back):\n%s", diff)
	}
}

func TestCopyTreeEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := copyTree(ctx, makeState(t), filepath.Join(t.TempDir(), "copy")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err := copyTree(t.Context(), filepath.Join(t.TempDir(), "nothing"), filepath.Join(t.TempDir(), "copy")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// What is mounted in a state belongs to somebody else.
func TestNothingMounted(t *testing.T) {
	if err := checkNothingMounted("/"); err == nil || !strings.Contains(err.Error(), "something is mounted in it") {
		t.Errorf("error %v", err)
	}
	if err := checkNothingMounted(t.TempDir()); err != nil {
		t.Error(err)
	}
}
