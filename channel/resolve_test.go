package channel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

var alice = channeltest.NewKey("alice")

// newRepo makes a channel's repository, failing the test on error.
func newRepo(t *testing.T, files map[string]string) (*channeltest.Repo, *channel.Introduction) {
	t.Helper()
	r, intro, err := channeltest.New(t.TempDir(), alice, files)
	if err != nil {
		t.Fatal(err)
	}
	return r, intro
}

func commit(t *testing.T, r *channeltest.Repo, branch string, files map[string]string) channel.Commit {
	t.Helper()
	c, err := r.Commit(branch, "Change.", files, alice)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newResolver(t *testing.T) *channel.Resolver {
	return &channel.Resolver{Repositories: &channel.Repositories{Dir: filepath.Join(t.TempDir(), "repos")}}
}

func resolve(t *testing.T, r *channel.Resolver, list channel.List) *channel.Lock {
	t.Helper()
	lock, err := r.Resolve(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

// summary is name@commit<declared by, in order.
func summary(lock *channel.Lock) (s []string) {
	for _, c := range lock.Channels {
		line := c.Name + "@" + string(c.Commit)
		if c.DeclaredBy != "" {
			line += "<" + c.DeclaredBy
		}
		s = append(s, line)
	}
	return s
}

func TestResolveFollowsDependencies(t *testing.T) {
	guix, guixIntro := newRepo(t, nil)
	low, lowIntro := newRepo(t, nil)
	middle, middleIntro := newRepo(t, map[string]string{
		".guix-channel": channeltest.Metadata("modules", low.Channel("low", lowIntro)),
	})
	lock := resolve(t, newResolver(t), channel.List{
		middle.Channel("middle", middleIntro), guix.Channel("guix", guixIntro),
	})
	want := []string{
		"middle@" + string(middleIntro.Commit),
		"guix@" + string(guixIntro.Commit),
		"low@" + string(lowIntro.Commit) + "<middle",
	}
	if diff := cmp.Diff(want, summary(lock)); diff != "" {
		t.Error(diff)
	}
	if got := lock.Channels[2].Introduction; got == nil || *got != *lowIntro {
		t.Errorf("introduction of low is %v", got)
	}
}

// The history here:  x ── y (master)
//
//	the list:       a, guix, low (no commit)     → low at y
//	a depends on:   low at x                     → more specific: low at x, moved to the end
//	b depends on:   low at y                     → too late, silently
func TestResolveMoreSpecificWins(t *testing.T) {
	guix, _ := newRepo(t, nil)
	low, intro := newRepo(t, nil)
	x := intro.Commit
	y := commit(t, low, "master", map[string]string{"f": "1"})
	at := func(c channel.Commit) channel.Channel {
		l := low.Channel("low", intro)
		l.Commit = c
		return l
	}
	a, _ := newRepo(t, map[string]string{".guix-channel": channeltest.Metadata("", at(x))})
	b, _ := newRepo(t, map[string]string{".guix-channel": channeltest.Metadata("", at(y))})
	list := channel.List{a.Channel("a", nil), low.Channel("low", nil), guix.Channel("guix", nil), b.Channel("b", nil)}
	lock := resolve(t, newResolver(t), list)
	var names []string
	for _, c := range lock.Channels {
		names = append(names, c.Name)
	}
	if diff := cmp.Diff([]string{"a", "guix", "b", "low"}, names); diff != "" {
		t.Error(diff)
	}
	if got := lock.Channels[3]; got.Commit != x || got.DeclaredBy != "a" || got.Pin != x || got.Introduction == nil {
		t.Errorf("low is %+v, want %s by a", got, x)
	}
	list[1].Commit = y
	if got := resolve(t, newResolver(t), list).Channels[1]; got.Commit != y || got.DeclaredBy != "" {
		t.Errorf("low is %+v, want the list's own pin %s", got, y)
	}
}

func TestResolveReferences(t *testing.T) {
	r, intro := newRepo(t, nil)
	first := intro.Commit
	second := commit(t, r, "master", map[string]string{"f": "1"})
	third := commit(t, r, "devel", map[string]string{"f": "2"})
	if err := errors.Join(r.Tag("v1", first, ""), r.Tag("v2", second, "Version 2."), r.Tag("abcdef", first, "")); err != nil {
		t.Fatal(err)
	}
	dangling, err := r.CommitTo("", channeltest.CommitOptions{Message: "x", Parents: []channel.Commit{second}, Key: alice})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, branch string
		commit, want channel.Commit
		err          string
	}{
		{"default branch", "", "", second, ""},
		{"branch", "devel", "", third, ""},
		{"origin/ is dropped", "origin/devel", "", third, ""},
		{"full reference", "refs/heads/devel", "", third, ""},
		{"no such branch", "nope", "", "", `it has no branch "nope"`},
		{"no such reference", "refs/pull/1", "", "", "refs/pull/1"},
		{"plain tag", "", "v1", first, ""},
		{"annotated tag", "", "v2", second, ""},
		{"a tag goes before a commit", "", "abcdef", first, ""},
		{"complete", "", first, first, ""},
		{"abbreviated", "", first[:9], first, ""},
		{"git describe", "", "v1-1-g" + second[:8], second, ""},
		{"no such tag", "", "v3", "", `it has no tag "v3"`},
		{"no such commit", "", channel.Commit(strings.Repeat("0", 40)), "", "it has no commit 000"},
		{"no such abbreviation", "", "00000000", "", "it has no commit 00000000"},
		{"on no branch", "", dangling, "", "it has no commit " + string(dangling)},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := r.Channel("guix", nil)
			c.Branch, c.Commit = test.branch, test.commit
			lock, err := newResolver(t).Resolve(t.Context(), channel.List{c})
			switch {
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("error %v, want %q in it", err, test.err)
			case test.err == "" && err != nil:
				t.Error(err)
			case test.err == "" && lock.Channels[0].Commit != test.want:
				t.Errorf("got %s, want %s", lock.Channels[0].Commit, test.want)
			}
		})
	}
}

func TestResolveRefusesTagPosingAsCommit(t *testing.T) {
	r, intro := newRepo(t, nil)
	second := commit(t, r, "master", map[string]string{"f": "1"})
	if err := r.Tag(string(intro.Commit), second, ""); err != nil {
		t.Fatal(err)
	}
	c := r.Channel("guix", nil)
	c.Commit = intro.Commit
	if _, err := newResolver(t).Resolve(t.Context(), channel.List{c}); err == nil || !strings.Contains(err.Error(), "a tag is named like the commit") {
		t.Errorf("error %v", err)
	}
}

func TestResolveErrors(t *testing.T) {
	r, _ := newRepo(t, map[string]string{".guix-channel": "(channel (version 7))"})
	gone := filepath.Join(t.TempDir(), "gone")
	remote, _ := newRepo(t, nil)
	for _, test := range []struct {
		name string
		list channel.List
		want string
	}{
		{"no guix", channel.List{remote.Channel("x", nil)}, "'guix' channel is lacking"},
		{"gone", channel.List{{Name: "guix", URL: "file://" + gone}}, "there is no repository: check the url"},
		{"gone path", channel.List{{Name: "guix", URL: gone}}, "there is no repository: check the url"},
		{"option", channel.List{{Name: "guix", URL: "--upload-pack=x"}}, "not the url of a repository"},
		{"helper", channel.List{{Name: "guix", URL: "ext::sh -c x"}}, "not the url of a repository"},
		{"metadata", channel.List{r.Channel("guix", nil)}, ".guix-channel:1:1: unsupported version"},
	} {
		t.Run(test.name, func(t *testing.T) {
			resolver := newResolver(t)
			_, err := resolver.Resolve(t.Context(), test.list)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q in it", err, test.want)
			}
			left, _ := filepath.Glob(filepath.Join(resolver.Repositories.Dir, "*.*"))
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestLockForms(t *testing.T) {
	guix, guixIntro := newRepo(t, nil)
	low, _ := newRepo(t, nil)
	middle, intro := newRepo(t, map[string]string{".guix-channel": channeltest.Metadata("", low.Channel("low", nil))})
	lock := resolve(t, newResolver(t), channel.List{guix.Channel("guix", guixIntro), middle.Channel("middle", intro)})

	var scheme bytes.Buffer
	if _, err := lock.WriteTo(&scheme); err != nil {
		t.Fatal(err)
	}
	fromScheme, err := channel.ReadLock("channels.scm", bytes.NewReader(scheme.Bytes()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, &scheme)
	}
	text, err := json.Marshal(lock)
	if err != nil {
		t.Fatal(err)
	}
	fromJSON, err := channel.ReadLock("lock.json", bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if diff := cmp.Diff(lock, fromJSON); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(lock.List(), fromScheme.List()); diff != "" {
		t.Error(diff)
	}
	if lock.Digest() != fromScheme.Digest() || lock.Digest() != fromJSON.Digest() {
		t.Error("the digest depends on the form")
	}
	changed := *guixIntro
	changed.Signer[0] ^= 1
	fromScheme.Channels[0].Introduction = &changed
	if lock.Digest() == fromScheme.Digest() {
		t.Error("the digest does not depend on introductions")
	}
}

func TestCurrent(t *testing.T) {
	guix, _ := newRepo(t, nil)
	low, _ := newRepo(t, nil)
	middle, _ := newRepo(t, map[string]string{".guix-channel": channeltest.Metadata("", low.Channel("low", nil))})
	list := channel.List{guix.Channel("guix", nil), middle.Channel("middle", nil)}
	resolver := newResolver(t)
	lock := resolve(t, resolver, list)
	check := func(when string, list channel.List, want bool) {
		t.Helper()
		if got, err := resolver.Current(t.Context(), list, lock); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", when, got, err, want)
		}
	}
	check("unchanged", list, true)
	check("another list", list[:1], false)
	commit(t, low, "devel", map[string]string{"f": "1"})
	check("after a push elsewhere", list, true)
	c := commit(t, low, "master", map[string]string{"f": "1"})
	check("after a push to a dependency", list, false)
	lock = resolve(t, resolver, list)
	check("resolved again", list, true)
	if got := lock.Channels[2].Commit; got != c {
		t.Errorf("low is at %s, want %s", got, c)
	}
}

func TestMirrorIsRepaired(t *testing.T) {
	r, intro := newRepo(t, map[string]string{".guix-channel": channeltest.Metadata("sub")})
	list := channel.List{r.Channel("guix", intro)}
	for name, damage := range map[string]func(dir string) error{
		"emptied":     func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) },
		"no objects":  func(dir string) error { return os.RemoveAll(filepath.Join(dir, "objects")) },
		"a file":      func(dir string) error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) },
		"packs gone":  func(dir string) error { return overwritePacks(dir, nil) },
		"packs wrong": func(dir string) error { return overwritePacks(dir, []byte("PACK, they said")) },
	} {
		t.Run(name, func(t *testing.T) {
			resolver := newResolver(t)
			resolve(t, resolver, list)
			mirrors, _ := filepath.Glob(filepath.Join(resolver.Repositories.Dir, "*"))
			if len(mirrors) != 1 {
				t.Fatalf("mirrors: %v", mirrors)
			}
			if err := damage(mirrors[0]); err != nil {
				t.Fatal(err)
			}
			lock := resolve(t, resolver, list)
			if lock.Channels[0].Commit != intro.Commit {
				t.Errorf("resolved to %s", lock.Channels[0].Commit)
			}
		})
	}
}

func overwritePacks(dir string, content []byte) error {
	packs, err := filepath.Glob(filepath.Join(dir, "objects/pack/*.pack"))
	for _, p := range packs {
		err = errors.Join(err, os.Chmod(p, 0o600), os.WriteFile(p, content, 0o600))
	}
	if len(packs) == 0 {
		return errors.New("no packs to damage")
	}
	return err
}

func TestInterruptedCloneIsNotTaken(t *testing.T) {
	r, _ := newRepo(t, nil)
	resolver := newResolver(t)
	list := channel.List{r.Channel("guix", nil)}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("changed my mind")
	cancel(why)
	if _, err := resolver.Resolve(ctx, list); !errors.Is(err, why) {
		t.Errorf("error %v, want the cause", err)
	}
	left, _ := filepath.Glob(filepath.Join(resolver.Repositories.Dir, "*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	resolve(t, resolver, list)
}

func TestConcurrentResolves(t *testing.T) {
	r, intro := newRepo(t, nil)
	dir := t.TempDir()
	done := make(chan error)
	for range 8 {
		go func() {
			resolver := &channel.Resolver{Repositories: &channel.Repositories{Dir: dir}}
			lock, err := resolver.Resolve(t.Context(), channel.List{r.Channel("guix", nil)})
			if err == nil && lock.Channels[0].Commit != intro.Commit {
				err = errors.New("another commit")
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("in the directory: %v", left)
	}
}

// A process that was killed leaves its half-made clone and its lock file.
func TestLeftoversOfKilledProcess(t *testing.T) {
	r, intro := newRepo(t, nil)
	list := channel.List{r.Channel("guix", intro)}
	other := newResolver(t)
	resolve(t, other, list)
	mirrors, _ := filepath.Glob(filepath.Join(other.Repositories.Dir, "*"))
	if len(mirrors) != 1 {
		t.Fatalf("mirrors: %v", mirrors)
	}
	resolver := newResolver(t)
	resolver.Repositories.Dir = filepath.Join(t.TempDir(), `[a-z]*?\*`) // looks like a pattern
	name := filepath.Join(resolver.Repositories.Dir, filepath.Base(mirrors[0]))
	err := errors.Join(
		os.MkdirAll(name+".tmp-123/objects", 0o700),
		os.WriteFile(name+".tmp-123/HEAD", []byte("ref: refs/heads/master\n"), 0o600),
		os.WriteFile(name+".lock", nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	resolve(t, resolver, list)
	left, err := os.ReadDir(resolver.Repositories.Dir)
	if err != nil || len(left) != 1 || left[0].Name() != filepath.Base(name) {
		t.Errorf("in the directory: %v, %v", left, err)
	}
	half := filepath.Join(name, "objects/pack/tmp_pack_123") // of a fetch
	if err := os.WriteFile(half, []byte("PACK"), 0o600); err != nil {
		t.Fatal(err)
	}
	resolve(t, resolver, list)
	if _, err := os.Stat(half); err == nil {
		t.Error("half a pack is still there")
	}
}

// The head of a branch is known without a clone, and fast enough to ask often.
func TestHeads(t *testing.T) {
	r, intro := newRepo(t, nil)
	second := commit(t, r, "master", map[string]string{"f": "1"})
	if err := r.Tag("v1", intro.Commit, "One."); err != nil {
		t.Fatal(err)
	}
	at := func(branch string, c channel.Commit) channel.Channel {
		return channel.Channel{Name: "x", URL: r.URL(), Branch: branch, Commit: c}
	}
	repos := &channel.Repositories{Dir: filepath.Join(t.TempDir(), "never made")}
	got, err := repos.Heads(t.Context(), channel.List{at("", ""), at("refs/heads/master", ""), at("", "v1"), at("", intro.Commit), at("", "abcd")})
	if diff := cmp.Diff([]channel.Commit{second, second, intro.Commit, intro.Commit, "abcd"}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if _, err := os.Stat(repos.Dir); err == nil {
		t.Error("something was cloned")
	}
	if _, err := repos.Heads(t.Context(), channel.List{at("nope", "")}); err == nil || !strings.Contains(err.Error(), `it has no branch "nope"`) {
		t.Errorf("error %v", err)
	}
}
