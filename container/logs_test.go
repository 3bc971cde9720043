package container

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAdded(t *testing.T) {
	all := make([]Message, 5)
	for i := range all {
		all[i] = Message{time.Unix(int64(i/2), 0), string(rune('a' + i))}
	}
	for _, c := range []struct{ before, now, want []Message }{
		{nil, all[:2], all[:2]},
		{all[:2], all[:2], nil},
		{all[:2], all[:4], all[2:4]},
		{all[:3], all[1:5], all[3:5]}, // the oldest is forgotten
		{all[:2], all[3:5], all[3:5]}, // of another process
		{all[:2], nil, nil},
	} {
		if got := added(c.before, c.now); !slices.Equal(got, c.want) {
			t.Errorf("%v, then %v: added %v", c.before, c.now, got)
		}
	}
}

// A service is not restarted while somebody changes the deployment.
func TestRestartTakesTurns(t *testing.T) {
	d := testDeployment(t)
	mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	lease, err := d.acquire("alice", "release 7")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	if err := d.RestartService(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "alice: release 7") {
		t.Errorf("error %v", err)
	}
}
