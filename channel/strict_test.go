package channel_test

import (
	"crypto"
	"errors"
	"testing"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

// strictStories are what Guix accepts, and the rule by which strict authentication refuses it.
var strictStories = []struct {
	name string
	rule channel.Rule // empty when it accepts too
	tell func(s *scene)
}{
	{"honest", "", func(s *scene) { s.commit("master", alice, nil) }},
	{"honest with RSA", "", func(s *scene) { s.withKey(rsaKey("rita", 2048)) }},
	{"RIPEMD-160", channel.WeakHash, func(s *scene) { s.signed(channeltest.Signature{Hash: crypto.RIPEMD160}) }},
	{"SHA-1 where the file goes", channel.WeakHash, func(s *scene) {
		s.odd(channeltest.CommitOptions{Files: noFile, Signature: channeltest.Signature{Hash: crypto.SHA1}})
	}},
	{"DSA", channel.WeakKey, func(s *scene) { s.withKey(channeltest.NewDSAKey("dora")) }},
	{"short RSA", channel.WeakKey, func(s *scene) { s.withKey(rsaKey("rita", 1024)) }},
	{"an expired key", channel.ExpiredKey, func(s *scene) { s.withKey(keyWith(func(k *channeltest.Key) { k.Lifetime = time.Second })) }},
	{"a key that expires later", "", func(s *scene) { s.withKey(keyWith(func(k *channeltest.Key) { k.Lifetime = time.Hour })) }},
	{"a compromised key", channel.RevokedKey, func(s *scene) {
		s.withKey(keyWith(func(k *channeltest.Key) { k.Revoked, k.RevokedReason = longAgo.AddDate(1, 0, 0), 2 }))
	}},
	{"a key revoked for no reason", channel.RevokedKey, func(s *scene) {
		s.withKey(keyWith(func(k *channeltest.Key) { k.Revoked = longAgo.AddDate(1, 0, 0) }))
	}},
	{"a key replaced before", channel.RevokedKey, func(s *scene) {
		s.withKey(keyWith(func(k *channeltest.Key) { k.Revoked, k.RevokedReason = longAgo, 1 }))
	}},
	{"a key replaced later", "", func(s *scene) {
		s.withKey(keyWith(func(k *channeltest.Key) { k.Revoked, k.RevokedReason = longAgo.AddDate(1, 0, 0), 1 }))
	}},
	{"a key not for signing", channel.UnboundKey, func(s *scene) { s.withKey(keyWith(func(k *channeltest.Key) { k.Flags = 1 })) }},
	{"a signature from before the key", channel.UnboundKey, func(s *scene) {
		s.signed(channeltest.Signature{When: longAgo.AddDate(-1, 0, 0)})
	}},
	{"an expired signature", channel.ExpiredSignature, func(s *scene) {
		s.signed(channeltest.Signature{Hashed: channeltest.Subpacket(3, []byte{0, 0, 0, 1})})
	}},
	{"a subkey", "", func(s *scene) { s.withSubkey(func(*channeltest.Key) {}) }},
	{"a stolen subkey", channel.UnboundKey, func(s *scene) { s.withSubkey(func(k *channeltest.Key) { k.Unbound = true }) }},
	{"a subkey not for signing", channel.UnboundKey, func(s *scene) { s.withSubkey(func(k *channeltest.Key) { k.Flags = 4 }) }},
	{"an expired subkey", channel.ExpiredKey, func(s *scene) { s.withSubkey(func(k *channeltest.Key) { k.Lifetime = time.Second }) }},
	{"a revoked subkey", channel.RevokedKey, func(s *scene) { s.withSubkey(func(k *channeltest.Key) { k.Revoked = longAgo }) }},
	{"committed in the future", channel.FutureDate, func(s *scene) {
		s.odd(channeltest.CommitOptions{When: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)})
	}},
	{"signed in the future", channel.FutureDate, func(s *scene) {
		s.signed(channeltest.Signature{When: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)})
	}},
	{"an unknown header twice", channel.MalformedCommit, func(s *scene) { s.odd(channeltest.CommitOptions{Headers: "X a\nX b\n"}) }},
	{"version 3", channel.MalformedSignature, func(s *scene) { s.signed(channeltest.Signature{Version3: true}) }},
	{"off the branch", channel.NotOnBranch, func(s *scene) { s.commit("side", alice, nil) }},
	{"before the introduction", channel.NotDescendant, func(s *scene) {
		old := s.to(s.repo.Commit("master", "Old.", nil, alice))
		s.intro.Commit = s.to(s.repo.Commit("master", "New.", nil, alice))
		s.target = old
	}},
	{"the introduction by another key", channel.IntroductionSigner, func(s *scene) { s.intro.Signer = bob.Fingerprint() }},
}

func keyWith(change func(*channeltest.Key)) *channeltest.Key {
	k := channeltest.NewKey("special")
	change(k)
	return k
}

// withSubkey lets a subkey sign that was changed before it was bound.
func (s *scene) withSubkey(change func(*channeltest.Key)) {
	s.t.Helper()
	main, sub := channeltest.NewKey("main"), channeltest.NewKey("sub")
	change(sub)
	main.AddSubkey(sub)
	s.must(s.repo.Keyring("keyring", main))
	s.authorize(alice, sub)
	s.commit("master", sub, nil)
}

func TestStrict(t *testing.T) {
	for _, test := range strictStories {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t, story{tell: test.tell})
			if _, err := s.authenticate(&channel.Authenticator{}); err != nil {
				t.Errorf("refused although Guix accepts: %v", err)
			}
			now := func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }
			_, err := s.authenticate(&channel.Authenticator{Strict: true, Now: now})
			var refused *channel.AuthError
			if err != nil && !errors.As(err, &refused) {
				t.Fatal(err)
			}
			var rule channel.Rule
			if refused != nil {
				rule = refused.Rule
			}
			if rule != test.rule {
				t.Errorf("rule %q, want %q: %v", rule, test.rule, err)
			}
		})
	}
}

// What passes for Guix is not in the cache for the strict.
func TestStrictCache(t *testing.T) {
	s := newScene(t, story{tell: func(s *scene) { s.signed(channeltest.Signature{Hash: crypto.RIPEMD160}) }})
	dir := t.TempDir()
	if _, err := s.authenticate(&channel.Authenticator{Cache: dir}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.authenticate(&channel.Authenticator{Cache: dir, Strict: true}); err == nil {
		t.Error("accepted")
	}
}

// A refusal says since when the key is not authorized any more.
func TestSince(t *testing.T) {
	var taken, bad channel.Commit
	s := newScene(t, story{tell: func(s *scene) {
		s.authorize(alice, alice, bob)
		s.commit("master", bob, nil)
		taken = s.authorize(alice, alice)
		s.commit("master", alice, nil)
		bad = s.commit("master", bob, nil)
	}})
	_, err := s.authenticate(&channel.Authenticator{})
	var refused *channel.AuthError
	if !errors.As(err, &refused) || refused.Commit != bad || refused.SinceCommit != taken || refused.Key != bob.Fingerprint() {
		t.Fatalf("error %+v", err)
	}
	begin := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	if !refused.Since.Equal(begin.Add(3*time.Minute)) || !refused.When.Equal(begin.Add(5*time.Minute)) {
		t.Errorf("since %v, when %v", refused.Since, refused.When)
	}
}
