package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/google/go-cmp/cmp"
)

// A journal is what a build told: what happened to each derivation, by name,
// and what it printed.
type journal struct {
	kinds map[string][]store.Kind
	logs  map[string]string
}

func newJournal() *journal {
	return &journal{map[string][]store.Kind{}, map[string]string{}}
}

func (j *journal) observe(e store.Event) {
	name := name(e.Derivation)
	switch {
	case e.Kind == store.BuildLog:
		j.logs[name] += e.Text
	case e.Derivation != "":
		j.kinds[name] = append(j.kinds[name], e.Kind)
	}
}

// name is the part of a derivation's file name that people read.
func name(drv store.StorePath) string {
	if drv == "" {
		return ""
	}
	return strings.TrimSuffix(drv.Name(), ".drv")
}

func TestBuild(t *testing.T) {
	c := dial(t)
	kit := storetest.New(t, c)
	lib := kit.Add(storetest.Spec{Name: "lib", Script: "echo making lib; mkdir $out $doc", Outputs: []string{"out", "doc"}})
	top := kit.Add(storetest.Spec{Name: "top", Script: "echo making top; ln -s $lib $out", Inputs: []*storetest.Build{lib}})

	j := newJournal()
	if err := c.Build(t.Context(), []store.StorePath{top.Derivation}, store.BuildOptions{}, j.observe); err != nil {
		t.Fatal(err)
	}
	once := []store.Kind{store.BuildStarted, store.BuildSucceeded}
	want := &journal{
		kinds: map[string][]store.Kind{"lib": once, "top": once},
		logs:  map[string]string{"lib": "making lib\n", "top": "making top\n"},
	}
	if diff := cmp.Diff(want, j, cmp.AllowUnexported(journal{})); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}

	outputs := []store.StorePath{lib.Outputs["out"], lib.Outputs["doc"], top.Out()}
	valid, err := c.ValidPaths(t.Context(), append(outputs, "/gnu/store/00000000000000000000000000000000-no"))
	if err != nil || len(valid) != len(outputs) {
		t.Errorf("valid outputs %q, %v", valid, err)
	}
	info, err := c.PathInfo(t.Context(), top.Out())
	if err != nil || info.Deriver != top.Derivation {
		t.Errorf("path info %+v, %v", info, err)
	}

	again := newJournal()
	if err := c.Build(t.Context(), []store.StorePath{top.Derivation}, store.BuildOptions{}, again.observe); err != nil {
		t.Fatal(err)
	}
	if len(again.kinds) != 0 {
		t.Errorf("built again: %v", again.kinds)
	}
}

func TestBuildFailures(t *testing.T) {
	c := dial(t)
	kit := storetest.New(t, c)
	bad := kit.Add(storetest.Spec{Name: "bad", Script: "echo one; echo two >&2; printf three; exit 7"})
	for _, test := range []struct {
		spec    storetest.Spec
		options store.BuildOptions
		status  int
		want    map[string]store.Cause // by name
		message string
		log     string
	}{
		{
			spec:   storetest.Spec{Name: "user", Script: "echo >$out", Inputs: []*storetest.Build{bad}},
			status: 100,
			want:   map[string]store.Cause{"bad": store.Failed, "user": store.Dependency}, message: "exit code 7",
		},
		{
			spec:   storetest.Spec{Name: "fails", Script: "echo one; echo two >&2; printf three; exit 7"},
			status: 100,
			want:   map[string]store.Cause{"fails": store.Failed}, message: "exit code 7", log: "one\ntwo\nthree",
		},
		{
			spec:   storetest.Spec{Name: "killed", Script: "kill -9 $$"},
			status: 100,
			want:   map[string]store.Cause{"killed": store.Failed}, message: "signal 9",
		},
		{
			spec:   storetest.Spec{Name: "idle", Script: "true"},
			status: 1,
			want:   map[string]store.Cause{"idle": store.Rejected}, message: "failed to produce output path",
		},
		{
			spec:    storetest.Spec{Name: "silent", Script: "echo begun; sleep 100"},
			options: store.BuildOptions{MaxSilentTime: time.Millisecond},
			status:  101,
			want:    map[string]store.Cause{"silent": store.Silent}, message: "timeout", log: "begun\n",
		},
		{
			spec:    storetest.Spec{Name: "long", Script: "sleep 100"},
			options: store.BuildOptions{Timeout: time.Second, MaxSilentTime: -1},
			status:  101,
			want:    map[string]store.Cause{"long": store.TimedOut}, message: "timeout",
		},
	} {
		t.Run(test.spec.Name, func(t *testing.T) {
			b := kit.Add(test.spec)
			var pool store.Pool
			defer pool.Close()
			j := newJournal()
			err := pool.Build(t.Context(), []store.StorePath{b.Derivation}, test.options, j.observe)
			for range 20 {
				if test.log == "" || j.logs[test.spec.Name] != "" {
					break
				}
				j = newJournal() // its second may have been over before it began
				err = pool.Build(t.Context(), []store.StorePath{b.Derivation}, test.options, j.observe)
			}
			var failed *store.BuildError
			if !errors.As(err, &failed) {
				t.Fatalf("error %v, want a *BuildError", err)
			}
			got := map[string]store.Cause{}
			for _, f := range failed.Failures {
				got[name(f.Derivation)] = f.Cause
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("failures (-want +got):\n%s", diff)
			}
			if !strings.Contains(failed.Failures[0].Message, test.message) {
				t.Errorf("message %q, want %q", failed.Failures[0].Message, test.message)
			}
			if failed.Err.Status != test.status {
				t.Errorf("status %d (%v), want %d", failed.Err.Status, failed.Err, test.status)
			}
			if test.log != "" && j.logs[test.spec.Name] != test.log {
				t.Errorf("log %q, want %q", j.logs[test.spec.Name], test.log)
			}
			if file := failed.Failures[0].LogFile; !filepath.IsAbs(file) {
				t.Errorf("log file %q", file)
			} else if _, err := os.Stat(file); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBuildOfSomethingElse(t *testing.T) {
	c := dial(t)
	err := c.Build(t.Context(), []store.StorePath{"/gnu/store/00000000000000000000000000000000-no.drv"}, store.BuildOptions{}, nil)
	var said *store.DaemonError
	var failed *store.BuildError
	if !errors.As(err, &said) || errors.As(err, &failed) {
		t.Errorf("error %v, want a *DaemonError only", err)
	}
	if err := c.Build(t.Context(), []store.StorePath{"/etc/passwd"}, store.BuildOptions{}, nil); err == nil {
		t.Error("built /etc/passwd")
	}
	if _, err := c.AllValidPaths(t.Context()); err != nil {
		t.Errorf("client is not usable afterwards: %v", err)
	}
}

func TestBuildsSideBySide(t *testing.T) {
	c := dial(t)
	kit := storetest.New(t, c)
	meet := t.TempDir()
	if err := os.Chmod(meet, 0o777); err != nil {
		t.Fatal(err)
	}
	letIn(t, filepath.Dir(meet))
	// Neither ends before the other has begun.
	var drvs []store.StorePath
	for i, other := range []string{"right", "left"} {
		self := []string{"left", "right"}[i]
		drvs = append(drvs, kit.Add(storetest.Spec{Name: self, Script: fmt.Sprintf(
			`echo %[1]s 1; : >%[3]s/%[1]s; while ! test -e %[3]s/%[2]s; do sleep 0.05; done; echo %[1]s 2 | tee $out`,
			self, other, meet)}).Derivation)
	}
	j := newJournal()
	err := c.Build(t.Context(), drvs, store.BuildOptions{MaxJobs: 2, Timeout: 10 * time.Minute}, j.observe)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"left": "left 1\nleft 2\n", "right": "right 1\nright 2\n"}
	if diff := cmp.Diff(want, j.logs); diff != "" {
		t.Errorf("logs (-want +got):\n%s", diff)
	}
}

// letIn lets the build users into directories of the test.
func letIn(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, info.Mode()|0o055); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCancelStopsTheBuild(t *testing.T) {
	c := dial(t)
	kit := storetest.New(t, c)
	b := kit.Add(storetest.Spec{Name: "sleeper", Script: "echo begun; exec sleep 1000"})

	reason := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	pid := 0
	err := c.Build(ctx, []store.StorePath{b.Derivation}, store.BuildOptions{}, func(e store.Event) {
		if e.Text == "begun\n" {
			pid = e.PID
			cancel(reason)
		}
	})
	if !errors.Is(err, reason) || !errors.Is(err, store.ErrClosed) {
		t.Errorf("error %v, want the reason and ErrClosed", err)
	}
	if _, err := c.Valid(t.Context(), b.Out()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("later call: %v, want ErrClosed", err)
	}
	await(t, "the builder's end", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
		return err != nil
	})
}

// await waits for something nobody tells us about.
func await(t *testing.T, what string, happened func() bool) {
	t.Helper()
	deadline := time.After(3 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no sign of %s", what)
		}
	}
}
