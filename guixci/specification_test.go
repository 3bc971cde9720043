package guixci

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
)

func TestSpecificationCheck(t *testing.T) {
	list := channel.List{{Name: "mine"}, {Name: "guix"}}
	tests := []struct {
		spec Specification
		want string // part of the error; empty if there is none
	}{
		{Specification{Name: "genenetwork", Channels: list}, ""},
		{Specification{Name: "a.b_c-1", Channels: list, Priority: 9}, ""},
		{Specification{Channels: list}, `specification "": its name`},
		{Specification{Name: "../x", Channels: list}, `specification "../x": its name`},
		{Specification{Name: "a/b", Channels: list}, "its name"},
		{Specification{Name: "a b", Channels: list}, "its name"},
		{Specification{Name: "empty"}, `specification "empty": it has no channels`},
		{Specification{Name: "mine", Channels: list[:1]}, "'guix' channel is lacking"},
		{Specification{Name: "mine", Channels: list, Priority: 10}, "priority is 10"},
		{Specification{Name: "mine", Channels: list, Priority: -1}, "priority is -1"},
	}
	for _, test := range tests {
		err := test.spec.Check()
		var wrong *SpecificationError
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%q: %v", test.spec.Name, err)
		case test.want != "" && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%q: %v, want %q", test.spec.Name, err, test.want)
		}
	}
	if err := (Specification{Name: "mine", Channels: list[:1]}).Check(); !errors.Is(err, channel.ErrNoGuix) {
		t.Errorf("%v does not wrap ErrNoGuix", err)
	}
}

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
		got, err := Specification{Name: "s", Build: test.build}.jobChannels(lock)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("build %q (-want +got):\n%s", test.build, diff)
		}
		var wrong *SpecificationError
		if (err != nil) != (test.err != "") || err != nil && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("build %q: error %v, want %q", test.build, err, test.err)
		}
	}
}
