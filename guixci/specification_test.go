package guixci

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/specification"
)

func locked(names ...string) *channel.Lock {
	lock := &channel.Lock{}
	for i, name := range names {
		c := channel.LockedChannel{Channel: channel.Channel{Name: name}}
		c.Commit = channel.Commit(strings.Repeat(string(rune('a'+i)), 40))
		lock.Channels = append(lock.Channels, c)
	}
	return lock
}

func TestSessions(t *testing.T) {
	meminfo := []byte("MemTotal:       24671340 kB\nMemFree:        20671340 kB\nMemAvailable:   13631488 kB\n")
	room := available(meminfo)
	if room != 13<<30 {
		t.Errorf("%d bytes available", room)
	}
	for _, c := range []struct {
		processors int
		room       int64
		want       int
	}{{2, 3, 2}, {8, 3, 3}, {64, 100, 4}, {4, 0, 1}, {1, 100, 1}} {
		if got := sessionsWithin(c.processors, c.room); got != c.want {
			t.Errorf("%d processors and room for %d: %d sessions, want %d", c.processors, c.room, got, c.want)
		}
	}
	if got := sessions(); got < 1 || got > 4 {
		t.Errorf("%d sessions here", got)
	}
}

func TestJobChannels(t *testing.T) {
	lock := locked("guix", "mine", "theirs")
	tests := []struct {
		build, want []string
		err         string
	}{
		{nil, []string{"mine", "theirs"}, ""},
		{[]string{"theirs"}, []string{"theirs"}, ""},
		{[]string{"guix", "mine"}, []string{"guix", "mine"}, ""}, // who asks for all of Guix gets it
		{[]string{"mine", "nobodys"}, nil, `no channel "nobodys", whose packages are to be built, among those of the lock: guix, mine, theirs`},
	}
	for _, test := range tests {
		got, err := jobChannels(Specification{Name: "s", Build: specification.Channels(test.build...)}, lock)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("build %q (-want +got):\n%s", test.build, diff)
		}
		var wrong *SpecificationError
		if (err != nil) != (test.err != "") || err != nil && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("build %q: error %v, want %q", test.build, err, test.err)
		}
	}
}
