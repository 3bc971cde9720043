package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const someMounts = `25 1 0:22 / /sys rw - sysfs sysfs rw
31 25 0:27 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
32 25 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 25 0:29 /part /mnt/part rw,relatime - cgroup2 cgroup2 rw
34 25 0:29 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw
`

func TestTable(t *testing.T) {
	table := table{someMounts, "7:freezer:/a\n4:memory:/b\n0::/user.slice/c:d\n"}
	want := []Dir{{"/sys/fs/cgroup/unified/user.slice/c:d", true}, {"/sys/fs/cgroup/freezer/a", false}}
	if diff := cmp.Diff(want, table.trackers()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := table.hierarchy("memory"); got != "/sys/fs/cgroup/memory/b" {
		t.Errorf("memory is at %q", got)
	}
	table.mounts = "25 1 0:22 / /sys rw - sysfs sysfs rw\nnonsense\n"
	if got := table.trackers(); len(got) != 0 || table.hierarchy("memory") != "" {
		t.Errorf("%v", got)
	}
}

// one returns a group of one directory.
func one(dir Dir, name string) *Group {
	return &Group{Dirs: []Dir{{filepath.Join(dir.Path, name), dir.Unified}}}
}

func fields(text []byte) []string { return strings.Fields(string(text)) }

func family() *exec.Cmd { return exec.Command("sh", "-c", "sleep 1000 & sleep 1000 & echo; wait") }

// startFamily starts a process with two children in the group.
func startFamily(t *testing.T, g *Group) *exec.Cmd {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd, err := g.Start(func() *exec.Cmd {
		cmd := family()
		cmd.Stdout = w
		return cmd
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	r.Read(make([]byte, 1)) // the children are there
	return cmd
}

// Kill and remove both kinds of group, with a family and a group inside.
func TestKill(t *testing.T) {
	table, err := readTable()
	if err != nil {
		t.Fatal(err)
	}
	for _, parent := range table.trackers() {
		g := one(parent, fmt.Sprintf("guixci-test-%d", os.Getpid()))
		path := g.Dirs[0].Path
		t.Run(path, func(t *testing.T) {
			if err := os.MkdirAll(filepath.Join(path, "inner"), 0o755); err != nil {
				t.Skipf("cannot make control groups here: %v", err)
			}
			cmd := startFamily(t, g)
			if got := g.PIDs(); len(got) != 3 || !slices.Contains(got, cmd.Process.Pid) {
				t.Errorf("processes %v", got)
			}
			if err := g.Kill(); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if err := g.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("left over: %v", err)
			}
			if err := errors.Join(g.Kill(), g.Remove(t.Context())); err != nil { // again
				t.Error(err)
			}
		})
	}
}

// Another process, which has only read of it, finds, kills and removes a limited group.
func TestLimitedGroupIsFoundAgain(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may limit here")
	}
	g, err := New(fmt.Sprintf("guixci-test-%d", os.Getpid()), Limits{Memory: 64 << 20, Tasks: 50})
	if err != nil {
		t.Fatal(err)
	}
	cmd := startFamily(t, g)
	name := filepath.Join(t.TempDir(), "group")
	if none, err := Load(name); none != nil || err != nil {
		t.Errorf("%v, %v", none, err)
	}
	if err := g.Save(name); err != nil {
		t.Fatal(err)
	}
	again, err := Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(g.PIDs(), again.PIDs()); diff != "" || len(again.PIDs()) != 3 {
		t.Errorf("%v: %s", again.PIDs(), diff)
	}
	if err := again.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if err := again.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, d := range g.Dirs {
		if _, err := os.Stat(d.Path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left over: %v", err)
		}
	}
}

// Of groups that nobody has any more the empty ones go, unless they are young; those of others stay.
func TestRemoveAbandoned(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make control groups for certain")
	}
	make := func(name string, age time.Duration) *Group {
		g, err := New(fmt.Sprintf("guixci-test-%s-%d", name, os.Getpid()), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { g.Remove(context.Background()) })
		then := time.Now().Add(-age)
		if err := os.Chtimes(g.Dirs[0].Path, then, then); err != nil {
			t.Fatal(err)
		}
		return g
	}
	groups := map[string]*Group{
		"old": make("old", time.Hour), "young": make("young", 0), "busy": make("busy", time.Hour), "other": make("other", time.Hour),
	}
	cmd := startFamily(t, groups["busy"])
	make("own", 0).RemoveAbandoned(func(name string) bool {
		own := strings.HasPrefix(name, "guixci-test-") && strings.HasSuffix(name, fmt.Sprintf("-%d", os.Getpid()))
		return own && !strings.HasPrefix(name, "guixci-test-other-")
	})
	for name, g := range groups {
		if _, err := os.Stat(g.Dirs[0].Path); errors.Is(err, fs.ErrNotExist) != (name == "old") {
			t.Errorf("%s: %v", name, err)
		}
	}
	groups["busy"].Kill()
	cmd.Wait()
}

// What has been limited is counted.
func TestEvents(t *testing.T) {
	if e := eventsOf(t, Limits{Memory: 32 << 20}, "head -c 200M /dev/zero | tail"); e.Killed != 1 || e.Refused != 0 {
		t.Errorf("%+v", e)
	}
	if e := eventsOf(t, Limits{Tasks: 8}, "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; wait"); e.Killed != 0 || e.Refused == 0 {
		t.Errorf("%+v", e)
	}
}

// eventsOf runs a program that cannot end well.
func eventsOf(t *testing.T, l Limits, program string) Events {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may limit here")
	}
	g, err := New(fmt.Sprintf("guixci-test-events-%d", os.Getpid()), l)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Remove(t.Context())
	cmd, err := g.Start(func() *exec.Cmd { return exec.Command("sh", "-c", program) })
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
	return g.Events()
}

// A limit without its controller is an error, and nothing is left.
func TestNewWithoutController(t *testing.T) {
	g := new(Group)
	if err := g.limit(table{someMounts, ""}, "guixci-test", Limits{Tasks: 1}); err == nil || len(g.Dirs) != 0 {
		t.Errorf("%v, %v", g, err)
	}
}

// The unified hierarchy hands a controller down; here that is tried with whichever one
// version 1 has not taken.
func TestEnable(t *testing.T) {
	table, err := readTable()
	if err != nil {
		t.Fatal(err)
	}
	root := Dir{table.unified(), true}
	if text, err := os.ReadFile(filepath.Join(root.Path, "cgroup.controllers")); err != nil || !slices.Contains(fields(text), "hugetlb") {
		t.Skipf("controllers %q, %v", text, err)
	}
	g := one(root, fmt.Sprintf("guixci-test-enable-%d", os.Getpid()))
	if err := mkdir(g.Dirs[0].Path); err != nil {
		t.Skip(err)
	}
	defer g.Remove(t.Context())
	enable(root.Path, "hugetlb")
	text, err := os.ReadFile(filepath.Join(g.Dirs[0].Path, "cgroup.controllers"))
	if err != nil || !slices.Contains(fields(text), "hugetlb") {
		t.Errorf("controllers %q, %v", text, err)
	}
	if err := g.Dirs[0].write("hugetlb.2MB.max", "4194304"); err != nil {
		t.Error(err)
	}
	g.Remove(t.Context())
	root.write("cgroup.subtree_control", "-hugetlb")
}
