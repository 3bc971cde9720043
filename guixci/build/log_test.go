package build

import (
	"context"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
)

// A log that cannot be kept is the machinery's failure, not the package's.
func TestDiskFullOfLogs(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Skipf("needs root to mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "x:", "y:")
		f.script["x"] = func(ctx context.Context, log io.Writer) error {
			for ctx.Err() == nil {
				io.WriteString(log, strings.Repeat("much ado about nothing\n", 1000))
			}
			return blocks(ctx, log)
		}
		s, o := scheduler(f)
		s.Logs, s.Attempts = dir, 2
		runJobs(t, s, "x")
		if r := o.results["x"]; r.Cause != DiskFull || r.Attempts != 2 || !strings.Contains(r.Message, dir) {
			t.Errorf("result %+v", r)
		}
	})
}

func TestLogDirectoryThatCannotBe(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFake(t, "x:")
	s, o := scheduler(f)
	s.Logs, s.Attempts = file+"/logs", 1
	runJobs(t, s, "x")
	if r := o.results["x"]; r.Cause != NotStarted || !strings.Contains(r.Message, file) {
		t.Errorf("result %+v", r)
	}
	wantBuilt(t, f)
}

func TestMinFree(t *testing.T) {
	if _, err := os.Stat("/gnu/store"); err != nil {
		t.Skipf("needs a store whose disk can be looked at: %v", err)
	}
	f := newFake(t, "x:")
	s, o := scheduler(f)
	s.Attempts, s.MinFree = 1, 1<<62
	runJobs(t, s, "x")
	wantBuilt(t, f)
	if r := o.results["x"]; r.Cause != DiskFull || !strings.Contains(r.Message, "guix gc") {
		t.Errorf("result %+v", r)
	}
}
