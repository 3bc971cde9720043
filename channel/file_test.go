package channel_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/inferior/sexp"
)

var (
	ones = channel.Commit(strings.Repeat("1", 40))
	twos = channel.Commit(strings.Repeat("2", 40))
)

// lockOf returns a lock of guix at ones, x at twos and, declared by x, y at ones.
func lockOf() *channel.Lock {
	guix := channel.DefaultGuix()
	guix.Commit = ones
	return &channel.Lock{Channels: []channel.LockedChannel{
		{Channel: guix},
		{Channel: channel.Channel{Name: "x", URL: "u", Branch: "master", Commit: twos}},
		{Channel: channel.Channel{Name: "y", URL: "v", Branch: "master", Commit: ones}, DeclaredBy: "x"},
	}}
}

// pinTests are files and what becomes of them; TestGuixReadsPinned has Guix read them.
var pinTests = []struct{ name, text, want string }{
	{"in place", `;; Ours. commit: do not touch
(list (channel (name 'x) (url "u") (commit "` + string(ones) + `")) ; "` + string(ones) + `"
      (channel
        (name 'guix)   #| odd  layout |#
        (commit   "v1")
        (url "https://git.guix.gnu.org/guix.git")))
`, `;; Ours. commit: do not touch
(list (channel (name 'x) (url "u") (commit "` + string(twos) + `")) ; "` + string(ones) + `"
      (channel
        (name 'guix)   #| odd  layout |#
        (commit   "` + string(ones) + `")
        (url "https://git.guix.gnu.org/guix.git"))
      (channel
        (name 'y)
        (url "v")
        (branch "master")
        (commit "` + string(ones) + `")))
`},
	{"default channels", `(cons (channel
       (name 'x)
       (url "u")) ; floats
      %default-channels)
`, `(cons (channel
       (name 'x)
       (url "u")
       (commit "` + string(twos) + `")) ; floats
      (list (channel
              (inherit %default-guix-channel)
              (commit "` + string(ones) + `"))
            (channel
              (name 'y)
              (url "v")
              (branch "master")
              (commit "` + string(ones) + `"))))
`},
	{"default guix", `(list %default-guix-channel
      (channel (name 'x) (url "u") (branch #f) (commit #f)) (channel (name 'y) (url "v")))
`, `(list (channel
        (inherit %default-guix-channel)
        (commit "` + string(ones) + `"))
      (channel (name 'x) (url "u") (branch #f) (commit "` + string(twos) + `")) (channel (name 'y) (url "v") (commit "` + string(ones) + `")))
`},
}

func TestPinInPlace(t *testing.T) {
	for _, test := range pinTests {
		t.Run(test.name, func(t *testing.T) {
			f, err := channel.ReadFile("channels.scm", []byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			got, changes, err := f.Pin(lockOf(), true)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Error(diff)
			}
			if len(changes) < 2 {
				t.Errorf("changes %+v", changes)
			}
			again, err := channel.ReadFile("channels.scm", got)
			if err != nil {
				t.Fatal(err)
			}
			same, changes, err := again.Pin(lockOf(), true)
			if err != nil || len(changes) != 0 || !bytes.Equal(same, got) {
				t.Errorf("the second time %v changed, %v", changes, err)
			}
		})
	}
}

func TestPinDependencies(t *testing.T) {
	const text = `;; keep
(channel
 (version 0)
 (directory "modules")
 (dependencies
  (channel
   (name x) ; mine
   (url "u")
   (commit "old"))
  (channel
   (name z) (url "w"))
  (channel (name y)
           (url "v"))))
`
	f, err := channel.ReadFile(".guix-channel", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	got, changes, err := f.Pin(lockOf(), false)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(text, `"old"`, `"`+string(twos)+`"`, 1)
	want = strings.Replace(want, `(url "v")`, "(url \"v\")\n           (commit \""+string(ones)+"\")", 1)
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	wantChanges := []channel.Change{
		{Channel: "x", Place: channel.Place{File: ".guix-channel", Line: 6, Column: 3}, Old: "old", New: twos},
		{Channel: "y", Place: channel.Place{File: ".guix-channel", Line: 12, Column: 3}, New: ones},
	}
	if diff := cmp.Diff(wantChanges, changes); diff != "" {
		t.Error(diff)
	}
}

func TestPinWithoutRoom(t *testing.T) {
	f, err := channel.ReadFile("channels.scm", []byte(`(cons* (channel (name 'x) (url "u")) '())`))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Pin(lockOf(), true); err == nil || !strings.Contains(err.Error(), "no (list …)") {
		t.Errorf("error %v", err)
	}
}

func TestReadFileErrors(t *testing.T) {
	for _, text := range []string{"", "(channel (version 1))", "(list\xff)", "(list (channel (name x)))", "(list", `(channel (version 0) (dependencies (channel (name x))))`} {
		_, err := channel.ReadFile("f", []byte(text))
		var syntax *sexp.SyntaxError
		var program *channel.NotDataError
		if !errors.As(err, &syntax) && !errors.As(err, &program) {
			t.Errorf("%q: error %v", text, err)
		}
	}
}
