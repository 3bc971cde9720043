package container

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// closures are known beforehand.
type closures map[string][]Item

func (c closures) Closure(_ context.Context, item string) ([]Item, error) { return c[item], nil }

// activation is what (gnu system shadow) writes, as far as it matters.
const activation = `#!/gnu/store/guile
!#
(eval-when (expand) 1)(begin (use-modules (gnu build activation)) (activate-users+groups
 (map sexp->user-account (list (quasiquote ("root" 0 "root" () "Administrator" "/root" #t (unquote "bash") "" #f))
  (quasiquote ("nobody" 65534 "nogroup" () "" "/nonexistent" #f (unquote "nologin") #f #t)) EXTRA
  (quasiquote ("keeper" #f "keeper" () "" "/var" #f (unquote "nologin") #f #t))
  (quasiquote ("alice" #f "users" () "" "/home/alice" #t (unquote "bash") #f #f))))
 (map sexp->user-group (list (list "root" #f 0 #t) (list "wheel" #f #f #t) (list "tty" #f 996 #t) (list "users" #f #f #t)))))
`

// system makes a store of one system and returns its script.
func (c closures) system(t *testing.T, extra string, items ...Item) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "abc-activate-service.scm")
	if err := os.WriteFile(file, []byte(strings.Replace(activation, "EXTRA", extra, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "abc-run-container")
	mustWrite(t, name, "#!/gnu/store/guile\n")
	c[name] = append([]Item{{file, 1000}, {name, 1000}}, items...)
	return name
}

func TestDiff(t *testing.T) {
	c := closures{}
	old := &Generation{
		Script: c.system(t, "", Item{"/gnu/store/a-hello-2.10", 5 << 20}, Item{"/gnu/store/b-gone-1", 2048},
			Item{"/gnu/store/b-same-1", 2048}, Item{"/gnu/store/x-shepherd-web.scm", 10}, Item{"/gnu/store/y-conf", 10},
			Item{"/gnu/store/f-motd", 10}, Item{"/gnu/store/h-equal", 10}),
		Shares:      []Mount{{Name: "state", Source: "/cd/state", Target: "/state"}},
		Environment: Environment{Name: "cd", Settings: map[string]string{"PORT": "80", "DEBUG": "1"}, Secrets: []Secret{{Name: "key", File: "/cd/key"}}},
		Channels:    []Channel{{Name: "guix", Commit: "aaa"}, {Name: "same", Commit: "ccc"}},
		Probes:      Probes{AllServices{}, HTTP{URL: "http://a/", Contains: "old", Within: 2 * time.Second}},
	}
	new := &Generation{
		Script: c.system(t, `(quasiquote ("web" #f "web" () "" "/var" #f (unquote "nologin") #f #t))`,
			Item{"/gnu/store/c-hello-2.12", 6 << 20}, Item{"/gnu/store/d-same-1", 2049}, Item{"/gnu/store/e-shepherd-mail.scm", 10},
			Item{"/gnu/store/g-motd", 10}, Item{"/gnu/store/h-equal", 10}),
		Shares:      []Mount{{Name: "state", Source: "/production/state", Target: "/state"}},
		Environment: Environment{Name: "production", Settings: map[string]string{"PORT": "81"}, Secrets: []Secret{{Name: "key", File: "/p/key"}}},
		Channels:    []Channel{{Name: "guix", Commit: "bbb"}, {Name: "same", Commit: "ccc"}},
		Probes:      Probes{AllServices{}, HTTP{URL: "http://a/", Contains: "new", Within: 2 * time.Second, Inside: true}, TCP{Address: "a:1"}},
		Schedule:    Schedule{StartPeriod: 2 * time.Minute},
		Switch:      Switch{Hooks: []Hook{{Command: []string{"/bin/migrate", "--up"}}}, Snapshot: []string{"state"}},
	}
	new.Environment.Network = Network{netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.1")}
	new.Environment.Runner = "systemd"
	d, err := Diff(t.Context(), c, old, new)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	d.WriteTo(&text)
	activations := c[old.Script][0].Path + " -> " + c[new.Script][0].Path
	want := `~ mount state: /cd/state at /state, writable -> /production/state at /state, writable
~ binding environment: cd -> production
+ binding network: 10.77.0.2 by 10.77.0.1
+ binding runner: systemd
- setting DEBUG: 1
~ setting PORT: 80 -> 81
~ secret key: /cd/key, for 0:0 -> /p/key, for 0:0
~ probe http http://a/: contains old, within 2s -> contains new, within 2s, inside
+ probe tcp a:1: must pass
+ binding hook 1: /bin/migrate --up
~ binding schedule: start period 1m0s, interval 1s, timeout 5s, window 3s, threshold 3 -> start period 2m0s, interval 1s, timeout 5s, window 3s, threshold 3
+ binding snapshot: state
~ channel guix: aaa -> bbb
~ store item: ` + old.Script + ` -> ` + new.Script + `
- package gone: 1 (-2 KiB)
~ package hello: 2.10 -> 2.12 (+1 MiB)
~ file activate-service.scm: ` + activations + `
- file conf: /gnu/store/y-conf
~ file motd: /gnu/store/f-motd -> /gnu/store/g-motd
+ service mail: /gnu/store/e-shepherd-mail.scm
- service web: /gnu/store/x-shepherd-web.scm
~ user keeper: 999 -> 998
+ user web: 999
  packages built again, same version: 1
  files of the system that only refer to other store items: 1
`
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if d.OnlyBindings() {
		t.Error("only bindings?")
	}
	again := []Line{{Kind: OfPackage, Name: "same", Old: "/gnu/store/b-same-1", New: "/gnu/store/d-same-1", Size: 1},
		{Kind: OfFile, Name: "run-container", Old: old.Script, New: new.Script}}
	if diff := cmp.Diff(again, d.Rebuilt.Items); diff != "" {
		t.Error(diff)
	}
	new.Script, new.Channels = old.Script, old.Channels
	if d, err = Diff(t.Context(), c, old, new); err != nil || !d.OnlyBindings() || len(d.Lines) != 12 {
		t.Errorf("%+v, %v", d, err)
	}
}

// Items are the same if only the hashes of others in them differ.
func TestDigest(t *testing.T) {
	make := func(hash, text string) string {
		dir := t.TempDir()
		item := "/gnu/store/" + strings.Repeat(hash, 32) + "-item"
		mustWrite(t, filepath.Join(dir, "file"), item+text)
		if err := os.Symlink(item+"/"+text, filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	digest := func(name string) string {
		t.Helper()
		d, err := digestOf(name)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	one, same := make("a", "x"), make("b", "x")
	if digest(one) != digest(same) {
		t.Error("the hash counts")
	}
	for what, change := range map[string]func(dir string) error{
		"text": func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600) },
		"mode": func(dir string) error { return os.Chmod(filepath.Join(dir, "file"), 0o700) },
		"name": func(dir string) error { return os.Rename(filepath.Join(dir, "file"), filepath.Join(dir, "f")) },
		"more": func(dir string) error { return os.Mkdir(filepath.Join(dir, "more"), 0o700) },
		"less": func(dir string) error { return os.Remove(filepath.Join(dir, "file")) },
		"target": func(dir string) error {
			link := filepath.Join(dir, "link")
			os.Remove(link)
			return os.Symlink("x", link)
		},
	} {
		other := make("b", "x")
		if err := change(other); err != nil {
			t.Fatal(err)
		}
		if digest(one) == digest(other) {
			t.Errorf("%s does not count", what)
		}
	}
	large := filepath.Join(t.TempDir(), "large")
	mustWrite(t, large, "")
	if err := os.Truncate(large, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := digestOf(large); err == nil {
		t.Error("a large file was read")
	}
}

// Numbers are given as (gnu build accounts) does.
func TestAllocate(t *testing.T) {
	c := closures{}
	s, err := ReadSystem(t.Context(), c, c.system(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(IDs{"root": 0, "nobody": 65534, "keeper": 999, "alice": 1000}, s.Users); diff != "" {
		t.Error(diff)
	}
	// wheel is before tty, which asks for 996; users goes on from there
	if diff := cmp.Diff(IDs{"root": 0, "wheel": 999, "tty": 996, "users": 995}, s.Groups); diff != "" {
		t.Error(diff)
	}
}
