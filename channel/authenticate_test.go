package channel_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
)

func line(s *scene, n int) {
	for i := range n {
		s.commit("master", alice, map[string]string{"n": fmt.Sprint(i)})
	}
}

func TestStatistics(t *testing.T) {
	s := newScene(t, story{tell: func(s *scene) {
		s.authorize(alice, alice, bob)
		line(s, 3)
		s.commit("master", bob, nil)
	}})
	got, err := s.authenticate(&channel.Authenticator{})
	if err != nil {
		t.Fatal(err)
	}
	minute := func(n int) time.Time { return time.Date(2024, 1, 1, 0, n, 0, 0, time.UTC) }
	want := &channel.Authentication{
		Channel: "story", Commit: s.target, Introduction: s.intro, Commits: 5,
		Signers: map[channel.Fingerprint]int{alice.Fingerprint(): 4, bob.Fingerprint(): 1},
		Statistics: []channel.SignerStatistics{
			{Key: alice.Fingerprint(), Owner: "alice <alice@example.org>", Commits: 4, First: minute(1), Last: minute(4)},
			{Key: bob.Fingerprint(), Owner: "bob <bob@example.org>", Commits: 1, First: minute(5), Last: minute(5)},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The first broken commit is reported, however many workers look.
func TestFirstFailureIsReported(t *testing.T) {
	var bad channel.Commit
	s := newScene(t, story{tell: func(s *scene) {
		line(s, 5)
		bad = s.commit("master", mallory, nil)
		for range 20 {
			s.commit("master", mallory, nil)
		}
	}})
	for range 20 {
		_, err := s.authenticate(&channel.Authenticator{Workers: 8})
		var refused *channel.AuthError
		if !errors.As(err, &refused) || refused.Commit != bad || refused.Key != mallory.Fingerprint() || refused.Channel != "story" {
			t.Fatalf("error %#v, want one about %s", err, bad)
		}
	}
}

func TestCacheOfAuthenticated(t *testing.T) {
	s := newScene(t, story{tell: func(s *scene) { line(s, 5) }})
	a := &channel.Authenticator{Cache: filepath.Join(t.TempDir(), "authentication"), Repositories: &channel.Repositories{Dir: t.TempDir()}}
	count := func(when string, want int) {
		t.Helper()
		got, err := s.authenticate(a)
		if err != nil || got.Commits != want {
			t.Errorf("%s: %+v, %v, want %d commits", when, got, err, want)
		}
	}
	count("the first time", 5)
	count("again", 0)
	line(s, 2)
	count("after two more", 2)

	files, _ := filepath.Glob(filepath.Join(a.Cache, "*"))
	if len(files) != 1 {
		t.Fatalf("cache holds %v", files)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the cache is %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(files[0], 0o620); err != nil {
		t.Fatal(err)
	}
	count("when others may write the cache", 7)
	count("after that", 0)
	if err := os.WriteFile(files[0], []byte("((((\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	count("when the cache is garbage", 7)
	if err := os.Chmod(a.Cache, 0o777); err != nil {
		t.Fatal(err)
	}
	count("when others may write the directory", 7)
}

// What was authenticated from one introduction says nothing about another.
func TestCacheIsBoundToIntroduction(t *testing.T) {
	s := newScene(t, story{tell: func(s *scene) { line(s, 2) }})
	a := &channel.Authenticator{Cache: t.TempDir()}
	if _, err := s.authenticate(a); err != nil {
		t.Fatal(err)
	}
	s.intro.Signer = bob.Fingerprint()
	_, err := s.authenticate(a)
	var refused *channel.AuthError
	if !errors.As(err, &refused) || refused.Rule != channel.IntroductionSigner {
		t.Errorf("error %v", err)
	}
}

// A key may be published after the commit it signed.
func TestKeyringIsFetchedAgain(t *testing.T) {
	s := newScene(t, story{tell: func(s *scene) {
		s.authorize(alice, unknown)
		s.commit("master", unknown, nil)
	}})
	a := &channel.Authenticator{Repositories: &channel.Repositories{Dir: t.TempDir()}}
	var refused *channel.AuthError
	if _, err := s.authenticate(a); !errors.As(err, &refused) || refused.Rule != channel.MissingKey {
		t.Fatalf("error %v", err)
	}
	s.must(s.repo.Keyring("keyring", unknown))
	if _, err := s.authenticate(a); err != nil {
		t.Error(err)
	}
}

// The branch of keys is the one that the commit's own .guix-channel names.
func TestKeyringReference(t *testing.T) {
	s := newScene(t, story{tell: func(s *scene) {
		s.must(s.repo.Keyring("people", alice, unknown))
		s.authorize(alice, unknown)
		s.commit("master", unknown, map[string]string{".guix-channel": `(channel (version 0) (keyring-reference "people"))`})
	}})
	s.keyring = ""
	if _, err := s.authenticate(&channel.Authenticator{}); err != nil {
		t.Error(err)
	}
}

func TestAuthenticateLock(t *testing.T) {
	guix, guixIntro := newRepo(t, nil)
	sample, intro := newRepo(t, nil)
	free, _ := newRepo(t, nil)
	list := channel.List{guix.Channel("guix", guixIntro), sample.Channel("sample", intro), free.Channel("free", nil)}
	resolver := newResolver(t)
	a := &channel.Authenticator{Repositories: resolver.Repositories}
	all, err := a.AuthenticateLock(t.Context(), resolve(t, resolver, list))
	if err != nil || len(all) != 3 || all[2].Introduction != nil || all[1].Introduction == nil {
		t.Errorf("%+v, %v", all, err)
	}
	list[0].Introduction = nil
	_, err = a.AuthenticateLock(t.Context(), resolve(t, resolver, list))
	var refused *channel.AuthError
	if !errors.As(err, &refused) || refused.Rule != channel.NoIntroduction || refused.Channel != "guix" {
		t.Errorf("error %v", err)
	}
}

func TestAuthenticateStops(t *testing.T) {
	s := newScene(t, story{tell: func(s *scene) { line(s, 5) }})
	a := &channel.Authenticator{Repositories: &channel.Repositories{Dir: t.TempDir()}, Keyring: "keyring"}
	c := s.repo.Channel("story", s.intro)
	c.Commit = s.target
	if _, err := a.Repositories.Open(t.Context(), c.URL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Authenticate(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := a.Authenticate(t.Context(), c); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	s := newScene(b, story{tell: func(s *scene) { line(s, 500) }})
	a := &channel.Authenticator{Repositories: &channel.Repositories{Dir: b.TempDir()}, Keyring: "keyring"}
	c := s.repo.Channel("story", s.intro)
	c.Commit = s.target
	if _, err := a.Repositories.Open(b.Context(), c.URL); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(500*b.N)/b.Elapsed().Seconds(), "commits/s")
}
