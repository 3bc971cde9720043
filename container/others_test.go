package container

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// sandboxMain, in a mount namespace of its own, mounts SOURCE=TARGET, and SOURCE=TARGET=ro to be looked at only, on a root of its own if
// there is one with an empty source. It writes into the first, and says so, then waits for the end of its input.
func sandboxMain(mounts []string) error {
	if os.Getenv("HOUSES") != "" {
		if err := houseAnother(); err != nil {
			return err
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := ""
	for _, m := range mounts {
		source, target, _ := strings.Cut(m, "=")
		target, readOnly := strings.CutSuffix(target, "=ro")
		if source == "" {
			root = target
			if err := unix.Mount("tmpfs", root, "tmpfs", 0, ""); err != nil {
				return err
			}
			continue
		}
		if err := errors.Join(os.MkdirAll(root+target, 0o700), unix.Mount(source, root+target, "", unix.MS_BIND, "")); err != nil {
			return err
		}
		if readOnly {
			if err := unix.Mount("", root+target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				return err
			}
		}
	}
	if root != "" {
		old := filepath.Join(root, "old")
		err := errors.Join(os.Mkdir(old, 0o700), unix.PivotRoot(root, old))
		if err := errors.Join(err, os.Chdir("/"), unix.Unmount("/old", unix.MNT_DETACH)); err != nil {
			return err
		}
	}
	fmt.Println(os.WriteFile(os.Getenv("WRITES"), nil, 0o600))
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// houseAnother starts a process that is number 1 of a pid namespace, and whose parent is none of the sandbox: it is an orphan.
func houseAnother() error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STANDIN=orphan maker")
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	return cmd.Run()
}

// orphanMain starts a process that lasts as long as its input, and leaves it.
func orphanMain() error {
	cmd := exec.Command("cat")
	cmd.Stdin = os.Stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	return cmd.Start()
}

// Containers that no Guix has made, and processes that are given the state by somebody else. They do write there.
func TestPreflightStateOfOthers(t *testing.T) {
	parent := t.TempDir()
	state := filepath.Join(parent, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	d := testDeployment(t)
	d.Shares = []Mount{{Source: state, Target: "/state"}}
	works := script(t, d, "works", "status-works.sexp")
	root, mnt := t.TempDir(), t.TempDir()
	for _, c := range []struct {
		name, mounts, writes, kind string
		refused                    bool // unless it is concurrent, if what is above was given
	}{
		{"unshare, and mount --bind", state + "=" + mnt, mnt, "", true},
		{"unshare, and what is above", parent + "=" + mnt, mnt + "/state", "", true},
		{"a root of its own", "=" + root + " " + state + "=/data", "/data", "", true},
		{"a root of its own, and the same name", "=" + root + " " + state + "=" + state, state, "", true},
		{"a root of its own, and what is above", "=" + root + " " + parent + "=/data", "/data/state", "", true},
		{"to look at", "=" + root + " " + state + "=/data=ro", "", "", false},
		{"a sandbox that may write there", state + "=" + state, state, "", false}, // as systemd has it for most services
		{"all of somebody's home", "=" + root + " " + parent + "=" + parent, state, "", false},
		{"a container that is given what is above", "=" + root + " " + parent + "=" + parent, state, "container", true},
		{"a container that looks at what is above", "=" + root + " " + parent + "=" + parent + "=ro", "", "container", false},
		{"a sandbox that houses a container", "=" + root + " " + parent + "=" + parent, state, "house", false},
		{"a sandbox with processes of its own", parent + "=" + parent, state, "container", false}, // PrivatePIDs=, of systemd
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := standIn(t.Context(), d, "sandbox", "MOUNTS="+c.mounts, "WRITES="+c.writes+"/theirs")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
			switch c.kind {
			case "container":
				cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID
			case "house":
				cmd.Env = append(cmd.Env, "HOUSES=another")
			}
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err := errors.Join(err, cmd.Start()); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer in.Close()
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || c.writes != "" && line != "<nil>\n" {
				t.Fatalf("%q, %v", line, err)
			}
			if err := os.Remove(filepath.Join(state, "theirs")); c.writes != "" && err != nil {
				t.Errorf("it has not written there: %v", err)
			}
			above := strings.Contains(c.mounts, parent+"=")
			if c.refused {
				wantRefusal(t, d, works, "state", fmt.Sprintf("process %d (", cmd.Process.Pid))
				if above {
					wantRefusal(t, d, works, "state", "say (concurrent? #t)")
				}
			} else if p, err := d.Plan(t.Context(), Revision{Script: works}); err != nil || len(p.Refusals) > 0 {
				t.Errorf("%+v, %v", p, err)
			}
			concurrent := *d
			concurrent.Shares = []Mount{{Source: state, Target: "/state", Concurrent: true}}
			if p, err := concurrent.Plan(t.Context(), Revision{Script: works}); err != nil || (len(p.Refusals) > 0) != (c.refused && !above) {
				t.Errorf("if it is concurrent: %+v, %v", p, err)
			}
		})
	}
	mustApply(t, d, works)
}
