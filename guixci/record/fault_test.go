package record

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childEnv makes the test binary write to the record of the directory it names until it is killed.
const childEnv = "RECORD_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		fmt.Fprintln(os.Stderr, child(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child records one evaluation after the other, each with a job that is built,
// and says on standard output what it has recorded, after it has.
func child(dir string) error {
	r, err := Open(dir)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		drv := fmt.Sprintf("%d-%d.drv", os.Getpid(), i)
		id, err := r.BeginEvaluation(Evaluation{Specification: "sample", LockDigest: drv})
		if err != nil {
			return err
		}
		err = errors.Join(
			r.AddJobs(id, Job{Name: "hello", Derivation: drv}),
			r.StartBuild(drv, time.Now(), ""),
			r.FinishBuild(Build{Derivation: drv, Status: Succeeded, Cause: "succeeded"}),
			r.FinishEvaluation(id, EvaluationSucceeded, json.RawMessage(`"green"`)))
		if err != nil {
			return err
		}
		fmt.Println(id)
	}
}

// startChild starts a writer and returns it with the lines it prints.
func startChild(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	return cmd, bufio.NewScanner(out)
}

// kill ends the child without warning and returns the evaluations it said were recorded.
func kill(t *testing.T, cmd *exec.Cmd, lines *bufio.Scanner, after int) (said []string) {
	t.Helper()
	for lines.Scan() {
		said = append(said, lines.Text())
		if len(said) == after {
			must(t, cmd.Process.Kill())
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("child ended by itself: %v", err)
	}
	return said
}

// A writer is killed again and again, at whatever it is doing. What it said is there;
// what it was doing is put aside; and the lock is gone with it.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	for round := range 8 {
		cmd, lines := startChild(t, dir)
		said := kill(t, cmd, lines, 1+3*round)

		r, err := Open(dir)
		must(t, err)
		for _, id := range said {
			var n int64
			fmt.Sscan(id, &n)
			e, err := r.Evaluation(n)
			must(t, err)
			j := jobs(t, r, n)["hello"]
			if e.Status != EvaluationSucceeded || j.Status != Succeeded || j.Cause != "succeeded" {
				t.Errorf("round %d: evaluation %s was said but is %v, its job %+v", round, id, e.Status, j)
			}
		}
		checkWhole(t, r)
		must(t, r.Close())
	}
}

// checkWhole checks that nothing is half done.
func checkWhole(t *testing.T, r *Record) {
	t.Helper()
	aborted := map[int64]bool{}
	for e, err := range r.Evaluations("") {
		must(t, err)
		if e.Status == EvaluationStarted {
			t.Errorf("evaluation %d is still started", e.ID)
		}
		aborted[e.ID] = e.Status == EvaluationAborted
		for j, err := range r.Jobs(e.ID) {
			must(t, err)
			if !j.Status.Final() {
				t.Errorf("job of evaluation %d (%v) is %v", e.ID, e.Status, j.Status)
			}
		}
	}
	for _, id := range r.Recovered().Evaluations {
		if !aborted[id] {
			t.Errorf("evaluation %d was recovered but is not aborted", id)
		}
	}
	var ok string
	must(t, r.db.QueryRow("PRAGMA integrity_check").Scan(&ok))
	if ok != "ok" {
		t.Errorf("integrity check: %s", ok)
	}
}

// An evaluation whose jobs were all known when the process died keeps them waiting.
func TestRecoverKeepsWhatIsPending(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	complete, err := r.BeginEvaluation(Evaluation{Specification: "sample"})
	must(t, err)
	must(t, r.AddJobs(complete, Job{Name: "running", Derivation: "r.drv"}, Job{Name: "waiting", Derivation: "w.drv"}))
	must(t, r.FinishEvaluation(complete, EvaluationSucceeded, nil))
	must(t, r.StartBuild("r.drv", time.Now(), ""))
	half, err := r.BeginEvaluation(Evaluation{Specification: "sample"})
	must(t, err)
	must(t, r.AddJobs(half, Job{Name: "half", Derivation: "r.drv"}))
	must(t, r.Close())

	r = open(t, dir)
	if got := r.Recovered(); len(got.Evaluations) != 1 || got.Evaluations[0] != half || len(got.Builds) != 1 || got.Builds[0] != "r.drv" {
		t.Errorf("recovered %+v", got)
	}
	if got := jobs(t, r, complete); got["running"].Status != Scheduled || got["waiting"].Status != Scheduled {
		t.Errorf("jobs of the complete evaluation: %+v", got)
	}
	if got := jobs(t, r, half)["half"].Status; got != Cancelled {
		t.Errorf("job of the aborted evaluation is %v", got)
	}
	pending, err := collect(r.Pending())
	must(t, err)
	if len(pending) != 2 {
		t.Errorf("pending: %+v", pending)
	}
	if _, err := r.KnownBuild("r.drv"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an interrupted build is remembered: %v", err)
	}
}

func TestSecondWriterIsToldWhoHasIt(t *testing.T) {
	dir := t.TempDir()
	cmd, lines := startChild(t, dir)
	if !lines.Scan() {
		t.Fatal("child recorded nothing")
	}
	_, err := Open(dir)
	var held *HeldError
	if !errors.As(err, &held) || held.PID != cmd.Process.Pid || held.Dir != dir {
		t.Errorf("second writer: %v, want held by %d", err, cmd.Process.Pid)
	}
	if reader, err := OpenReadOnly(dir); err != nil {
		t.Errorf("reader beside the writer: %v", err)
	} else {
		must(t, reader.Close())
	}
	kill(t, cmd, lines, 1)
	open(t, dir) // the lock went with the process
}

func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "512k")
	r := open(t, dir)
	id, err := r.BeginEvaluation(Evaluation{Specification: "sample", LockDigest: "d1"})
	must(t, err)
	recorded := 0
	for err == nil && recorded < 10_000 {
		if err = r.AddJobs(id, Job{Name: "j", Derivation: "x.drv", Error: strings.Repeat("x", 5000)}); err == nil {
			recorded++
		}
	}
	var space *SpaceError
	if !errors.As(err, &space) || space.Dir != dir {
		t.Fatalf("after %d jobs: %v, want a SpaceError", recorded, err)
	}
	if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "free some") {
		t.Errorf("message %q names no directory or remedy", err)
	}
	all, err := collect(r.Jobs(id))
	must(t, err)
	if len(all) != recorded {
		t.Errorf("%d jobs are there, %d were recorded", len(all), recorded)
	}
}

func TestOpenOnFullDisk(t *testing.T) {
	dir := smallDisk(t, "64k")
	must(t, os.WriteFile(dir+"/ballast", make([]byte, 1<<20)[:40<<10], 0o600))
	r, err := Open(dir)
	var space *SpaceError
	if !errors.As(err, &space) {
		t.Errorf("Open on a full disk: %v, %v, want a SpaceError", r, err)
	}
}

// smallDisk is a file system of its own of that size.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("needs root to mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}
