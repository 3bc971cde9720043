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

func TestWhoKeepsState(t *testing.T) {
	at := func(device, path, at string) mounted { return mounted{place{device, path}, at, true} }
	root, machine := at("9:0", "/", "/"), at("1:0", "/", "/")
	for _, c := range []struct {
		name           string
		system, others bool // whether a Guix System keeps its state there, and whether somebody else does
		mounts         []mounted
	}{
		{"a container", true, true, []mounted{root, at("2:0", "/exported/state", "/data")}},
		{"a container, by the same name", true, true, []mounted{root, at("2:0", "/exported/state", "/srv/state")}},
		{"a container, part of it", true, true, []mounted{root, at("2:0", "/exported/state/part", "/data")}},
		{"a container, more of it", true, true, []mounted{root, at("2:0", "/exported", "/data")}},
		{"a container, what is mounted in it", true, true, []mounted{root, at("3:0", "/", "/data")}},
		{"a container of another part of the disk", true, true, []mounted{at("1:0", "/var/lib/machine", "/"), at("2:0", "/exported/state", "/srv/state")}},
		{"a container of the disk itself", true, true, []mounted{at("2:0", "/", "/")}},
		{"with more of it, by the same name", true, false, []mounted{root, at("2:0", "/exported", "/srv")}},
		{"that only looks at it", false, false, []mounted{root, {place{"2:0", "/exported/state"}, "/srv/state", false}}},
		{"a sandbox, which sees the machine", false, false, []mounted{machine, at("2:0", "/exported", "/srv"), at("2:0", "/exported/state", "/srv/state")}},
		{"a sandbox, with it elsewhere", true, true, []mounted{machine, at("2:0", "/exported", "/srv"), at("2:0", "/exported/state", "/home")}},
		{"a container that looks after the machine", false, false, []mounted{root, at("1:0", "/", "/host"), at("2:0", "/exported", "/host/srv")}},
		{"a container that looks after the machine, with it elsewhere", true, true, []mounted{root, at("1:0", "/", "/host"), at("2:0", "/exported", "/host/mnt")}},
		{"somebody else", false, false, []mounted{root, at("4:0", "/", "/srv")}},
	} {
		views := viewsIn(c.mounts, someMounts)
		for system, want := range map[bool]bool{true: c.system, false: c.others} {
			o := other{container: system, system: system, writable: views}
			if at := o.writesTo(placesOf("/srv/state", someMounts), false); at != "" != want {
				t.Errorf("%s, a Guix System: %v, writes at %q", c.name, system, at)
			}
		}
	}
}

// Who sees more of a disk than what is our root, as what is outside of a container does, sees the machine.
func TestViewsFromOutside(t *testing.T) {
	own := []mounted{{place{"1:0", "/var/box"}, "/", true}, {place{"1:0", "/tmp"}, "/tmp", true}, {place{"2:0", "/"}, "/srv", true}}
	outside := []mounted{{place{"1:0", "/"}, "/", true}, {place{"2:0", "/"}, "/mnt", true}}
	if views := viewsIn(outside, own); len(views) > 0 {
		t.Errorf("%+v", views)
	}
	within := mounted{place{"2:0", "/"}, "/var/box/mnt", true}
	if views := viewsIn(append(outside, within), own); len(views) != 1 || views[0].mounted != within {
		t.Errorf("%+v", views)
	}
}
