package container

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A disk with a directory of it, and another disk within that, mounted where containers find their state.
var someMounts = []mounted{
	{place{"1:0", "/"}, "/", true},
	{place{"2:0", "/exported"}, "/srv", true},
	{place{"3:0", "/"}, "/srv/state/large", true},
	{place{"4:0", "/"}, "/srvother", true},
	{place{"5:0", "/"}, "/home", true},
	{place{"6:0", "/"}, "/home", true}, // hides the one before
}

func TestPlacesOf(t *testing.T) {
	for dir, want := range map[string][]place{
		"/srv":                  {{"3:0", "/"}, {"2:0", "/exported"}},
		"/srv/state/":           {{"3:0", "/"}, {"2:0", "/exported/state"}},
		"/srv/state/small":      {{"2:0", "/exported/state/small"}},
		"/srv/state/large/more": {{"3:0", "/more"}},
		"/srvother":             {{"4:0", "/"}},
		"/home/alice":           {{"6:0", "/alice"}},
		"/nowhere":              {{"1:0", "/nowhere"}},
	} {
		if diff := cmp.Diff(want, placesOf(dir, someMounts), cmp.AllowUnexported(place{})); diff != "" {
			t.Errorf("%s: %s", dir, diff)
		}
	}
}

func TestWritableIn(t *testing.T) {
	state := mounted{place{"2:0", "/exported/state"}, "/srv/state", true}
	for _, c := range []struct {
		name   string
		mounts []mounted
		want   bool
	}{
		{"a container", []mounted{{place{"9:0", "/"}, "/", true}, state}, true},
		{"of another part of the disk", []mounted{{place{"1:0", "/var/lib/machine"}, "/", true}, state}, true},
		{"that only looks at it", []mounted{{place{"2:0", "/exported/state"}, "/srv/state", false}}, false},
		{"a sandbox, which sees the machine", []mounted{{place{"1:0", "/"}, "/", true}, state}, false},
		{"a container that looks after the machine", []mounted{{place{"9:0", "/"}, "/", true}, {place{"1:0", "/"}, "/host", true},
			{place{"2:0", "/exported"}, "/host/srv", true}}, false},
	} {
		o := other{writable: writableIn(c.mounts, place{"1:0", "/"})}
		if at := o.writesTo(placesOf("/srv/state", someMounts)); at != "" != c.want {
			t.Errorf("%s writes at %q", c.name, at)
		}
	}
}
