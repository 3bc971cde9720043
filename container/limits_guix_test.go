package container

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What a real container may have holds for all of it, and one that wants more does not get it, which is said.
func TestRealLimits(t *testing.T) {
	t.Parallel()
	script := samples(t)["one"]
	d, _ := realDeployment(t)
	d.Environment.Limits = Limits{Memory: 1 << 30, Tasks: 300}
	in := checkRuns(t, d, mustApply(t, d, script))
	services, err := in.Shepherd().Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	held := []Process{in.Launcher, in.Process}
	held = append(held, in.Process.children()...)
	if running := slices.IndexFunc(services, func(s Service) bool { return s.Name() == "counter" && s.Status == "running" }); running < 0 || len(held) < 4 {
		t.Errorf("the container has processes %v, services %+v", held, services)
	}
	for _, dir := range groupsNamed(in.unit().Name) {
		found := strings.Fields(string(readFile(t, dir+"/cgroup.procs")))
		for _, p := range held {
			if p.Alive() && !slices.Contains(found, strconv.Itoa(p.PID)) {
				t.Errorf("%s holds %v, not process %d", dir, found, p.PID)
			}
		}
	}
	stopNow(t, d)

	// With as much as a typing mistake leaves it does not even come to be killed; with the least that is taken it does.
	d.Environment.Limits = Limits{Memory: 8}
	if _, err := bringUnchecked(t, d, script); err == nil || !strings.Contains(err.Error(), "cannot allocate memory") {
		t.Errorf("with 8 bytes: %v", err)
	}
	stopNow(t, d)
	wantRefusal(t, d, script, "environment", "a limit of 8 B of memory is less than any container needs")

	for says, limits := range map[string]Limits{
		"it reached its limit of 16 MiB of memory, and the kernel killed": {Memory: leastMemory},
		"it reached its limit of 32 MiB of memory, and the kernel killed": {Memory: 32 << 20},
		"Resource temporarily unavailable|its limit of 3 tasks":           {Tasks: 3}, // as shepherd says it while it lives; with its launcher there are two
	} {
		d, _ := realDeployment(t)
		d.Environment.Limits = limits
		d.Schedule.StartPeriod = 15 * time.Second
		_, err := d.Apply(t.Context(), Revision{Script: script})
		var e *Error
		if !errors.As(err, &e) || e.Outcome != Kept || !regexp.MustCompile(says).MatchString(e.Error()) {
			t.Errorf("%+v: %v", limits, err)
		}
	}
}
