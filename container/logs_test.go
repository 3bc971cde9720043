package container

import (
	"slices"
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
