package container

import (
	"bytes"
	"fmt"
	"os"
	"slices"
)

// launchersOf returns the running launchers that were given the pid file.
// No two runs share one, so it names a run even when nobody wrote its pid down.
func launchersOf(pidFile string) []Process {
	var found []Process
	for _, pid := range pids() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		arguments := bytes.Split(line, []byte{0})
		named := slices.ContainsFunc(arguments, func(a []byte) bool {
			return string(a) == "--pid-file="+pidFile
		})
		if p, _, err := identify(pid); named && err == nil {
			found = append(found, p)
		}
	}
	return found
}
