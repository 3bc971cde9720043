package guixbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A Status says what there is of a box.
type Status struct {
	Dir    string `json:"dir"`
	Root   string `json:"root"`             // the root file system, empty when there is none
	Holder int    `json:"holder,omitempty"` // pid that holds the mount namespace, 0 when down
	Daemon int    `json:"daemon,omitempty"` // pid that holds guix-daemon's namespace, 0 when it does not run
}

// Up reports whether the box can be entered.
func (s Status) Up() bool { return s.Root != "" && s.Holder != 0 && s.Daemon != 0 }

// Status returns what there is, without changing anything.
func (b *Box) Status() (Status, error) {
	out := Status{Dir: b.dir()}
	if exists(b.rootDir()) {
		out.Root = b.rootDir()
	}
	st, err := b.running()
	if err != nil {
		return out, err
	}
	if st.Holder.alive() {
		out.Holder = st.Holder.PID
		if st.Daemon.alive() && exists(b.socket()) {
			out.Daemon = st.Daemon.PID
		}
	}
	return out, nil
}

// state is what Up writes down when all is ready.
type state struct {
	Holder, Daemon process
}

// A process is a pid and what tells it from a later one with the same number: its start
// time, and the boot that is counted from.
type process struct {
	PID   int
	Start string
}

func identify(pid int) process { return process{pid, startTime(pid)} }

func (p process) alive() bool { return p.PID > 0 && p.Start != "" && startTime(p.PID) == p.Start }

// startTime is empty when there is no such process, or it is a zombie.
func startTime(pid int) string {
	stat := readStat(pid)
	if len(stat) < 20 || stat[0] == "Z" || stat[0] == "X" {
		return ""
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return stat[19] + " " + strings.TrimSpace(string(boot))
}

// readStat returns /proc/PID/stat from its third field on, nothing when there is no such process.
func readStat(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	text := string(data)
	return strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // the name may hold anything
}

func (b *Box) stateFile() string { return b.path("running-" + b.id() + ".json") }

// running returns what Up wrote down, zero if there is nothing. A file that is no JSON
// says nothing either: what runs is then found by looking at all processes.
func (b *Box) running() (st state, err error) {
	data, err := os.ReadFile(b.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return st, fmt.Errorf("read state of the box: %v", err)
	}
	if json.Unmarshal(data, &st) != nil {
		return state{}, nil
	}
	// A root that was removed and made again is not the one that is held.
	held, err1 := os.Stat(fmt.Sprintf("/proc/%d/root", st.Holder.PID))
	root, err2 := os.Stat(b.rootDir())
	if err2 != nil || err1 == nil && !os.SameFile(held, root) {
		return state{}, nil
	}
	return st, nil
}

func (b *Box) save(st state) error {
	data, err := json.MarshalIndent(st, "", "  ")
	if err == nil {
		err = writeWhole(b.stateFile(), append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write state of the box: %v", err)
	}
	return nil
}

// writeWhole writes a file that is either all there or not at all.
func writeWhole(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
