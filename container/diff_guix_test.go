package container

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whatever two systems differ in shows, even if it is one file, and what only refers to that is counted.
func TestRealDiff(t *testing.T) {
	t.Parallel()
	built := samples(t)
	hash := regexp.MustCompile(`/gnu/store/[0-9a-z]{32}-`)
	for _, c := range []struct{ old, new, want string }{
		{"one", "elsewhere", `~ store item: run-container -> run-container
~ file etc: etc -> etc
~ file timezone: timezone -> timezone
  files of the system that only refer to other store items: 5
`},
		{"one", "two", `~ store item: run-container -> run-container
~ file sample-web: sample-web -> sample-web
~ service web: shepherd-web.scm -> shepherd-web.scm
  files of the system that only refer to other store items: 4
`},
		{"one", "smaller", `~ store item: run-container -> run-container
+ package sample-data: 1.0 (+7.9 KiB)
~ file etc: etc -> etc
  files of the system that only refer to other store items: 5
`},
		{"smaller", "larger", `~ store item: run-container -> run-container
~ package sample-data: 1.0 -> 2.0 (+31.2 KiB)
~ file etc: etc -> etc
  files of the system that only refer to other store items: 5
`},
		{"larger", "one", `~ store item: run-container -> run-container
- package sample-data: 2.0 (-39.2 KiB)
~ file etc: etc -> etc
  files of the system that only refer to other store items: 5
`},
	} {
		old, new := &Generation{Script: built[c.old]}, &Generation{Script: built[c.new]}
		d, err := Diff(t.Context(), guixClosures{}, old, new)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		d.WriteTo(&text)
		if diff := cmp.Diff(c.want, hash.ReplaceAllString(text.String(), "")); diff != "" {
			t.Errorf("%s and %s (-want +got):\n%s", c.old, c.new, diff)
		}
		script := Line{Kind: OfFile, Name: "run-container", Old: old.Script, New: new.Script}
		if len(d.Rebuilt.Items) != d.Rebuilt.Files || !slices.Contains(d.Rebuilt.Items, script) {
			t.Errorf("%s and %s: %+v", c.old, c.new, d.Rebuilt)
		}
	}
}
