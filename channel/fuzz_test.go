package channel

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// FuzzKeyring reads arbitrary key files. Whatever is read has an owner that is text, and
// asking the policy about the keys is safe.
func FuzzKeyring(f *testing.F) {
	f.Add([]byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxjMEZ0=\n=AAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"))
	f.Add([]byte{0x99, 0, 6, 4, 0, 0, 0, 0, 1})
	f.Add([]byte{0xc6, 51, 4, 0x65, 0x92, 0, 0x80, 22, 9, 0x2b, 6, 1, 4, 1, 0xda, 0x47, 0xf, 1, 1, 7, 0x40, 1})
	f.Fuzz(func(t *testing.T, file []byte) {
		k := newKeyring()
		if err := k.add(file); err != nil {
			return
		}
		for fingerprint, key := range k.byFingerprint {
			if key.fingerprint != fingerprint {
				t.Errorf("%v is filed as %v", key.fingerprint, fingerprint)
			}
			key.objections(seconds(0), seconds(1<<31))
		}
	})
}

// FuzzCommit parses arbitrary commits. What is signed and the signature are together no
// more than what there was.
func FuzzCommit(f *testing.F) {
	const head = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor a <b> 1 +0000\ncommitter a <b> 1 +0000\n"
	f.Add([]byte(head + "\nmessage\n"))
	f.Add([]byte(head + "gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\nmessage\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := parseCommit(raw)
		if err != nil {
			return
		}
		if c.signature != nil && len(c.signed)+len(c.signature) > len(raw) {
			t.Errorf("%q signs more than there is: %q", c.signature, c.signed)
		}
		if c.signature != nil {
			readSignature(c.signature)
		}
	})
}

func FuzzSignature(f *testing.F) {
	f.Add([]byte{4, 0, 22, 10, 0, 6, 5, 2, 0, 0, 0, 0, 0, 0, 1, 2, 0, 8, 1, 0, 8, 1})
	f.Add([]byte{3, 5, 0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 1, 8, 0, 0, 0, 8, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := parseSignature(body)
		if err == nil && s != nil && hashes[s.hash].name == "" {
			t.Errorf("accepted with unknown hash %d", s.hash)
		}
	})
}

func FuzzTree(f *testing.F) {
	f.Add([]byte("100644 a\x0012345678901234567890"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, err := parseTree(raw)
		if err == nil && len(entries)*23 > len(raw) {
			t.Errorf("%d entries in %d bytes", len(entries), len(raw))
		}
	})
}

// FuzzDescription reads channels in any format, and writes what it read in each of them:
// it must come back the same.
func FuzzDescription(f *testing.F) {
	for _, seed := range []string{
		`[{"name":"x","url":"u","branch":"b","commit":"c"}]`, `{"name":"x","url":"u"}`, "name: x\nurl: u\n\nname: y\nurl: v\n",
		`(list (channel (name 'x) (url "u")))`, `{"channels":[{"name":"x","url":"u"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := ReadDescription("f", bytes.NewReader(text))
		hasPlace(t, text, err)
		if err != nil || strings.ContainsAny(string(text), "\uFFFD") {
			return
		}
		var b bytes.Buffer
		if err := list.WriteFormat(&b, FormatChannels); err != nil {
			t.Fatal(err)
		}
		again, err := ReadDescription("again", &b)
		if err != nil || len(again) != len(list) {
			t.Errorf("%q became %v, %v", text, again, err)
		}
	})
}

// FuzzPin changes commits in arbitrary files: the result is read as the same channels, at
// the commits of the lock, and pinning it again changes nothing.
func FuzzPin(f *testing.F) {
	for _, seed := range []string{
		`(cons (channel (name 'x) (url "u")) %default-channels)`,
		`(list (channel (commit "c") (name 'x) (url "u")) %default-guix-channel) ; c`,
		"(channel (version 0) (dependencies (channel (name x) ; y\n (url \"u\"))))",
	} {
		f.Add([]byte(seed))
	}
	lock := &Lock{Channels: []LockedChannel{{Channel: DefaultGuix()}, {Channel: Channel{Name: "x", URL: "u"}}}}
	for i := range lock.Channels {
		lock.Channels[i].Commit = Commit(strings.Repeat("a", 40))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := ReadFile("f", text)
		if err != nil {
			return
		}
		pinned, _, err := file.Pin(lock, false)
		if err != nil {
			return
		}
		again, err := ReadFile("again", pinned)
		if err != nil {
			t.Fatalf("%q became unreadable: %q: %v", text, pinned, err)
		}
		if _, changes, err := again.Pin(lock, false); err != nil || len(changes) > 0 {
			t.Errorf("%q still changes after it became %q: %v, %v", text, pinned, changes, err)
		}
	})
}

// FuzzOthers reads news, manifests and provenance. An error about syntax says where.
func FuzzOthers(f *testing.F) {
	f.Add([]byte(`(channel-news (version 0) (entry (commit "c") (title (en "t")) (body (en "b"))))`))
	f.Add([]byte(`(manifest (version 4) (packages (("x" "1" "out" "/p" (properties ((source (repository (version 0) (url "u") (name x)))))))))`))
	f.Add([]byte(`(provenance (version 0) (channels (channel (name x) (url "u") (branch "b") (commit "c"))))`))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, news := ReadNews("f", text)
		_, manifest := ReadManifest("f", text)
		_, provenance := ReadProvenance("f", text)
		_, lock := ReadLock("f", bytes.NewReader(text))
		for _, err := range []error{news, manifest, provenance} {
			hasPlace(t, text, err)
		}
		if lock != nil && !strings.HasPrefix(lock.Error(), `read lock "f": channel `) {
			hasPlace(t, text, lock)
		}
		lintMetadata("f", text)
	})
}

// hasPlace checks that an error says where in the text it is.
func hasPlace(t *testing.T, text []byte, err error) {
	t.Helper()
	var program *NotDataError
	var syntax *sexp.SyntaxError
	var pos sexp.Pos
	switch {
	case err == nil:
		return
	case errors.As(err, &program):
		pos = program.Pos
	case errors.As(err, &syntax):
		pos = syntax.Pos
	}
	if pos.Line < 1 || pos.Column < 1 || pos.Line > bytes.Count(text, []byte("\n"))+1 {
		t.Errorf("%q: no place in %v", text, err)
	}
}
