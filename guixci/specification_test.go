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
