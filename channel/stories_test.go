package channel_test

import (
	"bytes"
	"crypto"
	_ "crypto/md5"
	_ "crypto/sha1"
	_ "crypto/sha3"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

// A story is a history and the rule it breaks. All are told twice: to our
// Authenticator, and to "guix git authenticate", whose verdict must be the same.
type story struct {
	name string
	rule channel.Rule // empty when the history is authentic
	tell func(s *scene)
	// differs says why our verdict is deliberately not Guix's.
	differs string
}

// A scene is a repository in which alice's key is introduced and authorized.
// The history that ends at target is judged.
type scene struct {
	t          testing.TB
	repo       *channeltest.Repo
	intro      *channel.Introduction
	target     channel.Commit
	historical []channel.Fingerprint
	keyring    string
}

var (
	bob     = channeltest.NewKey("bob")
	mallory = channeltest.NewKey("mallory") // in the keyring, authorized by nobody
	unknown = channeltest.NewKey("unknown") // not in the keyring
)

func newScene(t testing.TB, s story) *scene {
	t.Helper()
	repo, intro, err := channeltest.New(t.TempDir(), alice, nil)
	sc := &scene{t: t, repo: repo, intro: intro, keyring: "keyring"}
	sc.must(err)
	sc.must(repo.Keyring("keyring", bob, mallory))
	sc.target = intro.Commit
	s.tell(sc)
	return sc
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// to makes a commit on master the target.
func (s *scene) to(c channel.Commit, err error) channel.Commit {
	s.t.Helper()
	s.must(err)
	s.target = c
	return c
}

// commit adds a plain commit to a branch, which starts at the introduction.
func (s *scene) commit(branch string, key *channeltest.Key, files map[string]string) channel.Commit {
	s.t.Helper()
	if _, ok := s.repo.Head(branch); !ok {
		s.must(s.repo.SetBranch(branch, s.intro.Commit))
	}
	return s.to(s.repo.Commit(branch, "Change "+branch+".", files, key))
}

// authorize adds a commit that says whose children are believed.
func (s *scene) authorize(key *channeltest.Key, who ...*channeltest.Key) channel.Commit {
	s.t.Helper()
	return s.commit("master", key, map[string]string{".guix-authorizations": channeltest.Authorizations(who...)})
}

// odd adds a commit that is signed in some unusual way.
func (s *scene) odd(o channeltest.CommitOptions) channel.Commit {
	s.t.Helper()
	if o.Parents == nil {
		o.Parents = []channel.Commit{s.target}
	}
	if o.Key == nil && o.Sign == nil {
		o.Key = alice
	}
	if o.Message == "" {
		o.Message = "Odd."
	}
	return s.to(s.repo.CommitTo("master", o))
}

func (s *scene) signed(how channeltest.Signature) {
	s.t.Helper()
	s.odd(channeltest.CommitOptions{Signature: how})
}

// keys commits a file to the keyring branch.
func (s *scene) keyFile(name, content string) {
	s.t.Helper()
	_, err := s.repo.Commit("keyring", "Change keys.", map[string]string{name: content}, nil)
	s.must(err)
}

// noFile removes .guix-authorizations.
var noFile = map[string]string{".guix-authorizations": channeltest.Deleted}

var stories = []story{
	{"the introduction itself", "", func(*scene) {}, ""},
	{"signed by the one authorized", "", func(s *scene) { s.commit("master", alice, nil) }, ""},
	{"a longer line", "", func(s *scene) {
		for i := range 20 {
			s.commit("master", alice, map[string]string{"n": fmt.Sprint(i)})
		}
	}, ""},
	{"an authorization takes effect for children", "", func(s *scene) {
		s.authorize(alice, alice, bob)
		s.commit("master", bob, nil)
	}, ""},
	{"one cannot authorize oneself", channel.UnauthorizedSigner, func(s *scene) { s.authorize(bob, alice, bob) }, ""},
	{"a key is retired", channel.UnauthorizedSigner, func(s *scene) {
		s.authorize(alice, bob)
		s.commit("master", alice, nil)
	}, ""},
	{"rotation", "", func(s *scene) {
		s.authorize(alice, bob)
		s.authorize(bob, mallory)
		s.commit("master", mallory, nil)
	}, ""},
	{"unauthorized", channel.UnauthorizedSigner, func(s *scene) { s.commit("master", mallory, nil) }, ""},
	{"unauthorized, then covered up", channel.UnauthorizedSigner, func(s *scene) {
		s.commit("master", mallory, nil)
		s.commit("master", alice, nil)
	}, ""},
	{"unsigned", channel.Unsigned, func(s *scene) { s.commit("master", nil, nil) }, ""},
	{"unknown key", channel.MissingKey, func(s *scene) { s.commit("master", unknown, nil) }, ""},
	{"tampered message", channel.BadSignature, func(s *scene) {
		s.odd(channeltest.CommitOptions{Message: "Pay alice.", Forge: func(raw []byte) []byte {
			return bytes.Replace(raw, []byte("alice.\n"), []byte("mallory.\n"), 1)
		}})
	}, ""},
	{"signature of another commit", channel.BadSignature, func(s *scene) {
		s.odd(channeltest.CommitOptions{Sign: func([]byte) (string, error) { return alice.Sign([]byte("x"), channeltest.Signature{}) }})
	}, ""},
	{"attributed to somebody authorized", channel.BadSignature, func(s *scene) {
		s.odd(channeltest.CommitOptions{Key: mallory, Signature: channeltest.Signature{Issuer: alice}})
	}, ""},

	// The introduction.
	{"introduced by another key", channel.IntroductionSigner, func(s *scene) {
		s.commit("master", alice, nil)
		s.intro.Signer = bob.Fingerprint()
	}, ""},
	{"another key, nothing to check", "", func(s *scene) { s.intro.Signer = bob.Fingerprint() }, ""},
	{"introduction not in the repository", channel.IntroductionMissing, func(s *scene) {
		s.commit("master", alice, nil)
		s.intro.Commit = channel.Commit(strings.Repeat("1", 40))
	}, ""},
	{"introduction unsigned", channel.Unsigned, func(s *scene) {
		s.intro.Commit = s.odd(channeltest.CommitOptions{Sign: nil, Key: nil, Forge: unsign})
		s.commit("master", alice, nil)
	}, ""},
	{"introduction with SHA-1", channel.WeakHash, func(s *scene) {
		s.to(s.repo.CommitTo("old", channeltest.CommitOptions{Message: "Old.", Files: map[string]string{"a": "b"},
			Key: alice, Signature: channeltest.Signature{Hash: crypto.SHA1}}))
		s.intro.Commit = s.target
		s.historical = []channel.Fingerprint{alice.Fingerprint()}
		s.to(s.repo.Commit("old", "Next.", nil, alice))
	}, ""},
	{"an ancestor of the introduction", "", func(s *scene) {
		old := s.to(s.repo.Commit("other", "Unsigned.", nil, nil))
		s.intro.Commit = s.odd(channeltest.CommitOptions{Parents: []channel.Commit{old},
			Files: map[string]string{".guix-authorizations": channeltest.Authorizations(alice)}})
		s.target = old
	}, ""},
	{"a side branch from before the introduction", channel.UnauthorizedSigner, func(s *scene) {
		root := s.to(s.repo.Commit("other", "Unsigned.", nil, nil))
		s.intro.Commit = s.odd(channeltest.CommitOptions{Parents: []channel.Commit{root},
			Files: map[string]string{".guix-authorizations": channeltest.Authorizations(alice)}})
		side := s.to(s.repo.CommitTo("side", channeltest.CommitOptions{Message: "Side.", Parents: []channel.Commit{root}, Key: alice}))
		s.odd(channeltest.CommitOptions{Parents: []channel.Commit{s.intro.Commit, side}})
	}, ""},
	{"merging what lies before the introduction", channel.UnauthorizedSigner, func(s *scene) {
		root := s.to(s.repo.Commit("other", "Unsigned.", nil, nil))
		s.intro.Commit = s.odd(channeltest.CommitOptions{Parents: []channel.Commit{root},
			Files: map[string]string{".guix-authorizations": channeltest.Authorizations(alice)}})
		s.odd(channeltest.CommitOptions{Parents: []channel.Commit{s.intro.Commit, root}})
	}, ""},
	{"the same, authorized historically", "", func(s *scene) {
		root := s.to(s.repo.Commit("other", "Unsigned.", nil, nil))
		s.intro.Commit = s.odd(channeltest.CommitOptions{Parents: []channel.Commit{root},
			Files: map[string]string{".guix-authorizations": channeltest.Authorizations(alice)}})
		s.odd(channeltest.CommitOptions{Parents: []channel.Commit{s.intro.Commit, root}})
		s.historical = []channel.Fingerprint{alice.Fingerprint()}
	}, ""},
	{"unrelated history", channel.NotDescendant, func(s *scene) {
		s.commit("master", alice, nil)
		s.to(s.repo.Commit("other", "Unrelated.", nil, alice))
	}, ""},
	{"introduction without authorizations", channel.UnauthorizedSigner, func(s *scene) {
		s.to(s.repo.Commit("other", "No authorizations.", map[string]string{"a": "b"}, alice))
		s.intro.Commit = s.target
		s.to(s.repo.Commit("other", "Next.", nil, alice))
	}, ""},

	// Authorizations.
	{"removal shows in the child", channel.AuthorizationsRemoved, func(s *scene) {
		s.commit("master", alice, noFile)
		s.commit("master", alice, nil)
	}, ""},
	{"removal at the tip passes", "", func(s *scene) { s.commit("master", alice, noFile) }, ""},
	{"removal with historical keys", channel.AuthorizationsRemoved, func(s *scene) {
		s.commit("master", alice, noFile)
		s.commit("master", alice, nil)
		s.historical = []channel.Fingerprint{alice.Fingerprint()}
	}, ""},
	{"historical keys before the file", "", func(s *scene) {
		s.to(s.repo.Commit("old", "First.", map[string]string{"a": "b"}, alice))
		s.intro.Commit = s.target
		s.to(s.repo.CommitTo("old", channeltest.CommitOptions{Message: "Second.", Parents: []channel.Commit{s.target},
			Key: bob, Signature: channeltest.Signature{Hash: crypto.SHA1}}))
		s.to(s.repo.Commit("old", "Third.", map[string]string{".guix-authorizations": channeltest.Authorizations(alice)}, alice))
		s.historical = []channel.Fingerprint{alice.Fingerprint(), bob.Fingerprint()}
	}, ""},
	{"authorizations that are a directory", channel.AuthorizationsRemoved, func(s *scene) {
		s.commit("master", alice, map[string]string{".guix-authorizations": channeltest.Deleted, ".guix-authorizations/x": "y"})
		s.commit("master", alice, nil)
	}, ""},
	{"authorizations of another version", channel.MalformedAuthorizations, func(s *scene) {
		s.commit("master", alice, map[string]string{".guix-authorizations": `(authorizations (version 1) (("` + alice.Fingerprint().String() + `")))`})
		s.commit("master", alice, nil)
	}, ""},
	{"empty authorizations", channel.MalformedAuthorizations, func(s *scene) {
		s.commit("master", alice, map[string]string{".guix-authorizations": ""})
		s.commit("master", alice, nil)
	}, ""},
	{"authorizations with punctuation", channel.MalformedAuthorizations, func(s *scene) {
		text := strings.ReplaceAll(alice.Fingerprint().String(), " ", ":")
		s.commit("master", alice, map[string]string{".guix-authorizations": `(authorizations (version 0) (("` + text + `")))`})
		s.commit("master", alice, nil)
	}, ""},
	{"authorizations with extras", "", func(s *scene) {
		text := strings.ToLower(strings.ReplaceAll(alice.Fingerprint().String(), " ", "\t"))
		s.commit("master", alice, map[string]string{".guix-authorizations": `;; keys
(authorizations (version 0) (("` + text + `" (name "a") #:x 1) ("abcd")) (more)) (and another`})
		s.commit("master", alice, nil)
	}, ""},
	{"authorizations with a bad byte", "", func(s *scene) {
		s.commit("master", alice, map[string]string{".guix-authorizations": channeltest.Authorizations(alice) + ";; caf\xe9\n"})
		s.commit("master", alice, nil)
	}, ""},
	{"authorizations with a bad byte in a name", "", func(s *scene) {
		text := strings.Replace(channeltest.Authorizations(alice), `"alice"`, "\"al\xefce\"", 1)
		s.commit("master", alice, map[string]string{".guix-authorizations": text})
		s.commit("master", alice, nil)
	}, ""},

	// Merges: a signer whom every parent authorizes.
	{"merge of two authorized lines", "", func(s *scene) {
		side := s.commit("side", alice, map[string]string{"x": "1"})
		s.commit("master", alice, nil)
		s.to(s.repo.Merge("master", []channel.Commit{side}, nil, alice))
	}, ""},
	{"merge by somebody only one parent knows", channel.UnauthorizedSigner, func(s *scene) {
		side := s.commit("side", alice, map[string]string{"x": "1"})
		s.authorize(alice, alice, bob)
		s.to(s.repo.Merge("master", []channel.Commit{side}, nil, bob))
	}, ""},
	{"merge of an unauthorized line", channel.UnauthorizedSigner, func(s *scene) {
		side := s.commit("side", mallory, map[string]string{"x": "1"})
		s.to(s.repo.Merge("master", []channel.Commit{side}, nil, alice))
	}, ""},
	{"merge of an unrelated line", channel.UnauthorizedSigner, func(s *scene) {
		other := s.to(s.repo.Commit("other", "Unrelated.", nil, alice))
		s.to(s.repo.Merge("master", []channel.Commit{other}, nil, alice))
	}, ""},
	{"merge of three", "", func(s *scene) {
		a, b := s.commit("a", alice, map[string]string{"a": "1"}), s.commit("b", alice, map[string]string{"b": "1"})
		s.to(s.repo.Merge("master", []channel.Commit{a, b}, nil, alice))
	}, ""},

	// Signatures.
	{"SHA-256", "", func(s *scene) { s.signed(channeltest.Signature{Hash: crypto.SHA256}) }, ""},
	{"SHA-224", "", func(s *scene) { s.signed(channeltest.Signature{Hash: crypto.SHA224}) }, ""},
	{"SHA-384", "", func(s *scene) { s.signed(channeltest.Signature{Hash: crypto.SHA384}) }, ""},
	{"SHA-1", channel.WeakHash, func(s *scene) { s.signed(channeltest.Signature{Hash: crypto.SHA1}) }, ""},
	{"MD5", channel.WeakHash, func(s *scene) { s.signed(channeltest.Signature{Hash: crypto.MD5}) }, ""},
	{"SHA-3", channel.MalformedSignature, func(s *scene) { s.signed(channeltest.Signature{Hash: crypto.SHA3_256}) }, ""},
	{"SHA-1 where the file is being removed", "", func(s *scene) {
		s.odd(channeltest.CommitOptions{Files: noFile, Signature: channeltest.Signature{Hash: crypto.SHA1}})
	}, ""},
	{"text signature", channel.UnsupportedSignature, func(s *scene) { s.signed(channeltest.Signature{Type: 1}) }, ""},
	{"only the key id", "", func(s *scene) { s.signed(channeltest.Signature{NoFingerprint: true}) }, ""},
	{"only the fingerprint", "", func(s *scene) { s.signed(channeltest.Signature{NoIssuer: true}) }, ""},
	{"no issuer", channel.MissingKey, func(s *scene) { s.signed(channeltest.Signature{NoIssuer: true, NoFingerprint: true}) }, ""},
	{"issuers disagree", channel.MalformedSignature, func(s *scene) {
		f := bob.Fingerprint()
		s.signed(channeltest.Signature{NoIssuer: true, Unhashed: channeltest.Subpacket(16, f[12:])})
	}, ""},
	{"critical unknown subpacket", channel.MalformedSignature, func(s *scene) {
		s.signed(channeltest.Signature{Hashed: channeltest.Subpacket(0x80|100, []byte("x"))})
	}, ""},
	{"unknown subpacket", "", func(s *scene) {
		s.signed(channeltest.Signature{Hashed: channeltest.Subpacket(100, []byte("x"))})
	}, ""},
	{"critical known subpacket", "", func(s *scene) {
		s.signed(channeltest.Signature{Hashed: channeltest.Subpacket(0x80|28, []byte("alice@example.org"))})
	}, ""},
	{"expired signature", "", func(s *scene) {
		s.signed(channeltest.Signature{Hashed: channeltest.Subpacket(3, []byte{0, 0, 0, 1})})
	}, ""},
	{"truncated subpacket", channel.MalformedSignature, func(s *scene) {
		s.signed(channeltest.Signature{Hashed: channeltest.Subpacket(3, []byte{0, 1})})
	}, ""},
	{"preferring an unknown hash", channel.MalformedSignature, func(s *scene) {
		s.signed(channeltest.Signature{Hashed: channeltest.Subpacket(21, []byte{10, 12})})
	}, ""},
	{"notation", "", func(s *scene) {
		s.signed(channeltest.Signature{Hashed: channeltest.Subpacket(20, []byte("\x80\x00\x00\x00\x00\x01\x00\x02nva"))})
	}, ""},
	{"an SSH signature", channel.MalformedSignature, func(s *scene) {
		s.odd(channeltest.CommitOptions{Sign: func([]byte) (string, error) {
			return "-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----\n", nil
		}})
	}, ""},
	{"a signature without checksum", channel.MalformedSignature, func(s *scene) {
		s.odd(channeltest.CommitOptions{Sign: func(b []byte) (string, error) {
			text, err := alice.Sign(b, channeltest.Signature{})
			lines := strings.SplitAfter(text, "\n")
			return strings.Join(append(lines[:len(lines)-3], lines[len(lines)-2]), ""), err
		}})
	}, ""},
	{"a signature with headers", "", func(s *scene) {
		s.odd(channeltest.CommitOptions{Sign: func(b []byte) (string, error) {
			text, err := alice.Sign(b, channeltest.Signature{})
			return strings.Replace(text, "-----\n", "-----\nVersion: 1\nComment: caf\u00e9\n", 1), err
		}})
	}, ""},
	{"a public key for a signature", channel.MalformedSignature, func(s *scene) {
		s.odd(channeltest.CommitOptions{Sign: func([]byte) (string, error) { return alice.ArmoredPublic() }})
	}, ""},
	{"RSA", "", func(s *scene) { s.withKey(rsaKey("rita", 2048)) }, ""},
	{"RSA and SHA-1", channel.WeakHash, func(s *scene) {
		rita := rsaKey("rita", 2048)
		s.must(s.repo.Keyring("keyring", rita))
		s.authorize(alice, rita)
		s.odd(channeltest.CommitOptions{Key: rita, Signature: channeltest.Signature{Hash: crypto.SHA1}})
	}, ""},

	{"DSA", "", func(s *scene) { s.withKey(channeltest.NewDSAKey("dora")) }, ""},
	{"DSA and SHA-256", "", func(s *scene) {
		s.signedWith(channeltest.NewDSAKey("dora"), channeltest.Signature{Hash: crypto.SHA256})
	}, ""},
	{"DSA and RIPEMD-160", "", func(s *scene) {
		s.signedWith(channeltest.NewDSAKey("dora"), channeltest.Signature{Hash: crypto.RIPEMD160})
	}, ""},
	{"DSA and SHA-1", channel.WeakHash, func(s *scene) { s.signedWith(channeltest.NewDSAKey("dora"), channeltest.Signature{Hash: crypto.SHA1}) }, ""},
	{"DSA, tampered", channel.BadSignature, func(s *scene) {
		s.allow(channeltest.NewDSAKey("dora"))
		s.odd(channeltest.CommitOptions{Key: channeltest.NewDSAKey("dora"), Message: "Pay.", Forge: func(raw []byte) []byte {
			return bytes.Replace(raw, []byte("Pay."), []byte("Pax."), 1)
		}})
	}, ""},
	{"RIPEMD-160", "", func(s *scene) { s.signed(channeltest.Signature{Hash: crypto.RIPEMD160}) }, ""},
	{"RSA and RIPEMD-160", "", func(s *scene) { s.signedWith(rsaKey("rita", 2048), channeltest.Signature{Hash: crypto.RIPEMD160}) }, ""},
	{"RSA and SHA-224", "", func(s *scene) { s.signedWith(rsaKey("rita", 2048), channeltest.Signature{Hash: crypto.SHA224}) }, ""},
	{"RSA and SHA-384", "", func(s *scene) { s.signedWith(rsaKey("rita", 2048), channeltest.Signature{Hash: crypto.SHA384}) }, ""},
	{"RSA of 1024 bits", "", func(s *scene) { s.signedWith(rsaKey("rita", 1024), channeltest.Signature{}) }, ""},
	{"RSA, tampered", channel.BadSignature, func(s *scene) {
		rita := rsaKey("rita", 2048)
		s.allow(rita)
		s.odd(channeltest.CommitOptions{Key: rita, Message: "Pay.", Forge: func(raw []byte) []byte {
			return bytes.Replace(raw, []byte("Pay."), []byte("Pax."), 1)
		}})
	}, ""},
	{"version 3", "", func(s *scene) { s.signed(channeltest.Signature{Version3: true}) }, ""},
	{"version 3 and RSA", "", func(s *scene) { s.signedWith(rsaKey("rita", 2048), channeltest.Signature{Version3: true}) }, ""},
	{"version 3 and SHA-1", channel.WeakHash, func(s *scene) { s.signed(channeltest.Signature{Version3: true, Hash: crypto.SHA1}) }, ""},
	{"version 3 of text", channel.UnsupportedSignature, func(s *scene) { s.signed(channeltest.Signature{Version3: true, Type: 1}) }, ""},
	{"an expired key", "", func(s *scene) {
		k := channeltest.NewKey("ex")
		k.Lifetime = time.Second
		s.withKey(k)
	}, ""},
	{"a revoked key", "", func(s *scene) {
		k := channeltest.NewKey("re")
		k.Revoked, k.RevokedReason = longAgo, 2
		s.withKey(k)
	}, ""},
	{"a key not for signing", "", func(s *scene) {
		k := channeltest.NewKey("cert")
		k.Flags = 1
		s.withKey(k)
	}, ""},
	{"a stolen subkey", "", func(s *scene) {
		main, sub := channeltest.NewKey("main"), channeltest.NewKey("sub")
		sub.Unbound = true
		main.AddSubkey(sub)
		s.must(s.repo.Keyring("keyring", main))
		s.authorize(alice, sub)
		s.commit("master", sub, nil)
	}, ""},
	{"a date in the future", "", func(s *scene) {
		s.odd(channeltest.CommitOptions{When: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)})
	}, ""},

	// Commit objects.
	{"an unknown header twice", "", func(s *scene) { s.odd(channeltest.CommitOptions{Headers: "HG:extra x\nHG:extra y\n"}) }, ""},
	{"encoding twice", "", func(s *scene) { s.odd(channeltest.CommitOptions{Headers: "encoding UTF-8\nencoding latin1\n"}) }, ""},
	{"Latin-1 message", channel.BadSignature, func(s *scene) {
		s.odd(channeltest.CommitOptions{Message: "Caf\xe9.", Headers: "encoding ISO-8859-1\n"})
	}, ""},
	{"UTF-8 message", "", func(s *scene) { s.odd(channeltest.CommitOptions{Message: "Café ☕."}) }, ""},
	{"a further header", "", func(s *scene) { s.odd(channeltest.CommitOptions{Headers: "HG:extra x\n"}) }, ""},
	{"a mergetag", "", func(s *scene) {
		s.odd(channeltest.CommitOptions{Headers: "mergetag object " + strings.Repeat("1", 40) + "\n type commit\n tag v1\n"})
	}, ""},
	{"a signature in the message", "", func(s *scene) {
		s.odd(channeltest.CommitOptions{Message: "Look:\ngpgsig is a header.\n"})
	}, ""},
	{"only a signature in the message", channel.Unsigned, func(s *scene) {
		s.odd(channeltest.CommitOptions{Forge: sinkSignature})
	}, "libgit2 looks for gpgsig in the message too; git does not"},
	{"two signatures", channel.MalformedCommit, func(s *scene) {
		s.odd(channeltest.CommitOptions{Forge: func(raw []byte) []byte {
			i := bytes.Index(raw, []byte("gpgsig "))
			j := bytes.Index(raw, []byte("\n\n"))
			return bytes.Replace(raw, raw[i:j+1], bytes.Repeat(raw[i:j+1], 2), 1)
		}})
	}, ""},
	{"two trees", channel.MalformedCommit, func(s *scene) {
		s.odd(channeltest.CommitOptions{Forge: func(raw []byte) []byte { return append(bytes.Clone(raw[:46]), raw...) }})
	}, ""},
	{"NUL in the message", channel.MalformedCommit, func(s *scene) {
		s.odd(channeltest.CommitOptions{Message: "Before\x00after."})
	}, ""},
	{"unsigned text after a NUL", channel.MalformedCommit, func(s *scene) {
		s.odd(channeltest.CommitOptions{Forge: func(raw []byte) []byte { return append(raw, "\x00more"...) }})
	}, "a C string ends there, so libgit2 leaves out what follows"},

	// The keyring.
	{"no keyring", channel.KeyringMissing, func(s *scene) {
		s.commit("master", alice, nil)
		s.keyring = "keys"
	}, ""},
	{"keys deep in the tree", "", func(s *scene) {
		text, err := unknown.ArmoredPublic()
		s.must(err)
		s.keyFile("a/b/c.key", text)
		s.authorize(alice, unknown)
		s.commit("master", unknown, nil)
	}, ""},
	{"keys in binary", "", func(s *scene) {
		block, err := unknown.Public()
		s.must(err)
		s.keyFile("u.key", string(block))
		s.authorize(alice, unknown)
		s.commit("master", unknown, nil)
	}, ""},
	{"keys by another name", channel.MissingKey, func(s *scene) {
		text, err := unknown.ArmoredPublic()
		s.must(err)
		s.keyFile("unknown.asc", text)
		s.authorize(alice, unknown)
		s.commit("master", unknown, nil)
	}, ""},
	{"several keys in a file", "", func(s *scene) {
		a, err := unknown.Public()
		s.must(err)
		b, err := channeltest.NewKey("zoe").Public()
		s.must(err)
		s.keyFile("both.key", channeltest.Armor("PGP PUBLIC KEY BLOCK", append(b, a...)))
		s.authorize(alice, unknown)
		s.commit("master", unknown, nil)
	}, ""},
	{"a second block is not read", channel.MissingKey, func(s *scene) {
		a, err := bob.ArmoredPublic()
		s.must(err)
		b, err := unknown.ArmoredPublic()
		s.must(err)
		s.keyFile("both.key", a+b)
		s.authorize(alice, unknown)
		s.commit("master", unknown, nil)
	}, ""},
	{"a key file that is garbage", channel.MalformedKeyring, func(s *scene) {
		s.keyFile("x.key", "not a key")
		s.commit("master", alice, nil)
	}, ""},
	{"an empty key file", "", func(s *scene) {
		s.keyFile("x.key", "")
		s.commit("master", alice, nil)
	}, ""},
	{"a key file with a wrong checksum", channel.MalformedKeyring, func(s *scene) {
		text, err := unknown.ArmoredPublic()
		s.must(err)
		i := strings.Index(text, "\n=")
		s.keyFile("x.key", text[:i]+"\n=AAAA"+text[i+6:])
		s.commit("master", alice, nil)
	}, ""},
	{"text before the key", channel.MalformedKeyring, func(s *scene) {
		text, err := unknown.ArmoredPublic()
		s.must(err)
		s.keyFile("x.key", "This is a key.\n"+text)
		s.commit("master", alice, nil)
	}, ""},
	{"a directory called .key", channel.MalformedKeyring, func(s *scene) {
		s.keyFile("x.key/y", "z")
		s.commit("master", alice, nil)
	}, ""},
	{"a packet of unknown kind", channel.MalformedKeyring, func(s *scene) {
		s.keyFile("x.key", string([]byte{0xc0 | 19, 1, 0}))
		s.commit("master", alice, nil)
	}, ""},
	{"a version 6 key is skipped", "", func(s *scene) {
		block, err := unknown.Public()
		s.must(err)
		s.keyFile("x.key", string(append([]byte{0xc0 | 6, 7, 6, 0, 0, 0, 0, 27, 0}, block...)))
		s.authorize(alice, unknown)
		s.commit("master", unknown, nil)
	}, ""},
	{"a subkey signs and is listed", "", func(s *scene) {
		main, sub := channeltest.NewKey("main"), channeltest.NewKey("sub")
		main.AddSubkey(sub)
		s.must(s.repo.Keyring("keyring", main))
		s.authorize(alice, sub)
		s.commit("master", sub, nil)
	}, ""},
	{"a subkey signs, the primary is listed", channel.UnauthorizedSigner, func(s *scene) {
		main, sub := channeltest.NewKey("main"), channeltest.NewKey("sub")
		main.AddSubkey(sub)
		s.must(s.repo.Keyring("keyring", main))
		s.authorize(alice, main)
		s.commit("master", sub, nil)
	}, ""},
	{"the primary signs, a subkey is listed", channel.UnauthorizedSigner, func(s *scene) {
		main, sub := channeltest.NewKey("main"), channeltest.NewKey("sub")
		main.AddSubkey(sub)
		s.must(s.repo.Keyring("keyring", main))
		s.authorize(alice, sub)
		s.commit("master", main, nil)
	}, ""},
}

var longAgo = time.Date(2024, 1, 1, 0, 0, 30, 0, time.UTC)

// allow puts a key in the keyring and authorizes it.
func (s *scene) allow(k *channeltest.Key) {
	s.t.Helper()
	s.must(s.repo.Keyring("keyring", k))
	s.authorize(alice, k)
}

// signedWith authorizes a new key and lets it sign in that way.
func (s *scene) signedWith(k *channeltest.Key, how channeltest.Signature) {
	s.t.Helper()
	s.allow(k)
	s.odd(channeltest.CommitOptions{Key: k, Signature: how})
}

// withKey authorizes a new key and lets it sign.
func (s *scene) withKey(k *channeltest.Key) {
	s.t.Helper()
	s.allow(k)
	s.commit("master", k, nil)
}

// rsaKeys has one key per size, which all names share: they take long to make.
var (
	rsaKeysMu sync.Mutex // guards rsaKeys
	rsaKeys   = map[int]*channeltest.Key{}
)

func rsaKey(name string, bits int) *channeltest.Key {
	rsaKeysMu.Lock()
	defer rsaKeysMu.Unlock()
	if rsaKeys[bits] == nil {
		k, err := channeltest.NewRSAKey(name, bits)
		if err != nil {
			panic(err)
		}
		rsaKeys[bits] = k
	}
	return rsaKeys[bits]
}

// unsign removes the signature of a commit.
func unsign(raw []byte) []byte {
	i, j := bytes.Index(raw, []byte("gpgsig ")), bytes.Index(raw, []byte("\n\n"))
	return append(bytes.Clone(raw[:i]), raw[j+1:]...)
}

// sinkSignature moves the signature from the headers to the end of the message.
func sinkSignature(raw []byte) []byte {
	i, j := bytes.Index(raw, []byte("gpgsig ")), bytes.Index(raw, []byte("\n\n"))
	return bytes.Join([][]byte{raw[:i], raw[j+1:], raw[i : j+1]}, nil)
}

// authenticate tells a story to our Authenticator.
func (s *scene) authenticate(a *channel.Authenticator) (*channel.Authentication, error) {
	if a.Repositories == nil {
		a.Repositories = &channel.Repositories{Dir: s.t.TempDir()}
	}
	a.Keyring, a.Historical = s.keyring, s.historical
	c := s.repo.Channel("story", s.intro)
	c.Commit = s.target
	return a.Authenticate(s.t.Context(), c)
}

func TestStories(t *testing.T) {
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) {
			s := newScene(t, story)
			_, err := s.authenticate(&channel.Authenticator{})
			var refused *channel.AuthError
			switch {
			case err == nil && story.rule != "":
				t.Errorf("accepted, breaks %s", story.rule)
			case err != nil && !errors.As(err, &refused):
				t.Errorf("neither accepted nor refused: %v", err)
			case err != nil && refused.Rule != story.rule:
				t.Errorf("refused by %s, want %q: %v", refused.Rule, story.rule, err)
			}
		})
	}
}
