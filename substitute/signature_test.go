package substitute

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testKey is the private key of the vectors in dir.
func testKey(t testing.TB, dir string) *PrivateKey {
	t.Helper()
	key, err := ParsePrivateKey(readFile(t, dir+"/signing-key.sec"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A vector is a line of signatures.tsv.
type vector struct {
	hash Hash
	kind string
	text []byte
}

func vectors(t testing.TB, dir string) []vector {
	t.Helper()
	var all []vector
	for line := range strings.Lines(string(readFile(t, dir+"/signatures.tsv"))) {
		columns := strings.Split(strings.TrimSpace(line), "\t")
		hash, err := ParseHash("sha256:" + columns[0])
		if err != nil {
			t.Fatal(err)
		}
		text, err := base64.StdEncoding.DecodeString(columns[len(columns)-1])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, vector{hash, columns[1], text})
	}
	return all
}

var keyKinds = map[string]int{"ed25519": 217, "rsa2048": 5, "nistp256": 5}

func TestSignAsGuix(t *testing.T) {
	for dir, count := range keyKinds {
		t.Run(dir, func(t *testing.T) {
			key := testKey(t, dir)
			all := vectors(t, dir)
			if len(all) != count {
				t.Errorf("%d vectors, want %d", len(all), count)
			}
			for _, v := range all {
				sig, err := key.Sign(v.hash)
				if err != nil {
					t.Fatal(err)
				}
				if got := sig.Bytes(); !bytes.Equal(got, v.text) {
					t.Errorf("hash %v (%s):\ngot  %q\nwant %q", v.hash, v.kind, got, v.text)
				}
			}
		})
	}
}

func TestVerify(t *testing.T) {
	for dir := range keyKinds {
		t.Run(dir, func(t *testing.T) {
			key := testKey(t, dir)
			for _, v := range vectors(t, dir) {
				sig, err := ParseSignature(v.text)
				if err != nil {
					t.Fatal(err)
				}
				if sig.Hash != v.hash || !sig.Key.Equal(key.Public()) {
					t.Errorf("hash %v: parsed as of hash %v, key %v", v.hash, sig.Hash, sig.Key)
				}
				if err := sig.Verify(); err != nil {
					t.Errorf("hash %v (%s): %v", v.hash, v.kind, err)
				}
				sig.Hash[31] ^= 0x10 // the last bits of a hash do not count
				if sig.Verify() == nil {
					t.Errorf("hash %v: signature accepted for another hash", v.hash)
				}
			}
		})
	}
}

// Every bit of the numbers of a signature counts.
func TestVerifyAltered(t *testing.T) {
	for dir := range keyKinds {
		sig, err := ParseSignature(vectors(t, dir)[0].text)
		if err != nil {
			t.Fatal(err)
		}
		for _, number := range sig.sig.list[1:] {
			b := number.list[1].atom
			for i := range b {
				b[i] ^= 1
				if sig.Verify() == nil {
					t.Errorf("%s: accepted with byte %d of %s altered", dir, i, number.list[0].atom)
				}
				b[i] ^= 1
			}
		}
		if err := sig.Verify(); err != nil {
			t.Errorf("%s: unaltered: %v", dir, err)
		}
	}
}

func TestVerifyOutOfRange(t *testing.T) {
	key := testKey(t, "ed25519")
	order, _ := hex.DecodeString("1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed")
	for name, v := range map[string][]byte{
		"zero": {0}, "empty": {}, "order": order, "long": bytes.Repeat([]byte{1}, 33),
	} {
		for _, number := range []int{1, 2} {
			sig, err := key.Sign(Hash{1})
			if err != nil {
				t.Fatal(err)
			}
			sig.sig.list[number].list[1].atom = v
			if sig.Verify() == nil {
				t.Errorf("%s: accepted as number %d", name, number)
			}
		}
	}
}

// A signature is not one of another kind of key, even where numbers would do.
func TestVerifyKinds(t *testing.T) {
	sig, err := testKey(t, "ed25519").Sign(Hash{1})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"eddsa":  strings.Replace(string(sig.Bytes()), "(ecdsa", "(eddsa", 1),
		"flags":  strings.Replace(string(sig.Bytes()), "(flags rfc6979)", "(flags eddsa)", 1),
		"no r":   strings.Replace(string(sig.Bytes()), "(r ", "(rr ", 1),
		"no s":   strings.Replace(string(sig.Bytes()), "(s ", "(ss ", 1),
		"no sig": strings.Replace(string(sig.Bytes()), "(ecdsa", "(rsa", 1),
	} {
		altered, err := ParseSignature([]byte(text))
		if err == nil {
			err = altered.Verify()
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseSignatureErrors(t *testing.T) {
	good, err := testKey(t, "ed25519").Sign(Hash{1})
	if err != nil {
		t.Fatal(err)
	}
	text := string(good.Bytes())
	for name, text := range map[string]string{
		"empty":      "",
		"no data":    strings.Replace(text, "(data", "(date", 1),
		"no sig-val": strings.Replace(text, "(sig-val", "(sig", 1),
		"no key":     strings.Replace(text, "(public-key", "(key", 1),
		"sha512":     strings.Replace(text, "sha256", "sha512", 1),
		"short hash": strings.Replace(text, "sha256 #0100", "sha256 #", 1),
		"curve":      strings.Replace(text, "Ed25519", "Ed448", 1),
		"truncated":  text[:len(text)-3],
	} {
		if _, err := ParseSignature([]byte(text)); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

func TestKeyFiles(t *testing.T) {
	for dir := range keyKinds {
		secret, public := readFile(t, dir+"/signing-key.sec"), readFile(t, dir+"/signing-key.pub")
		key := testKey(t, dir)
		if got := key.tree.advanced(); !bytes.Equal(got, secret) {
			t.Errorf("%s: private key prints as %q", dir, got)
		}
		if got := key.Public().String(); got != string(public) {
			t.Errorf("%s: public key prints as %q", dir, got)
		}
		parsed, err := ParsePublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		if !parsed.Equal(key.Public()) {
			t.Errorf("%s: the two files are of different keys", dir)
		}
		if strings.Contains(fmt.Sprint(key), "private-key") {
			t.Errorf("%s: a printed key shows what is private", dir)
		}
	}
}

func TestParseKeyErrors(t *testing.T) {
	secret := string(readFile(t, "ed25519/signing-key.sec"))
	other := GenerateKey().Public().String()
	start := strings.Index(other, "(q")
	otherQ := other[start : start+strings.Index(other[start:], ")")+1]
	mine := secret[strings.Index(secret, "(q"):]
	mine = mine[:strings.Index(mine, ")")+1]
	for name, text := range map[string]string{
		"another's q": strings.Replace(secret, mine, otherQ, 1),
		"no d":        strings.Replace(secret, "(d", "(dd", 1),
		"public":      string(readFile(t, "ed25519/signing-key.pub")),
		"eddsa":       strings.Replace(secret, "(curve", "(flags eddsa)(curve", 1),
		"not a point": strings.Replace(secret, mine, "(q #02"+strings.Repeat("00", 31)+"#)", 1),
	} {
		if _, err := ParsePrivateKey([]byte(text)); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
	for name, q := range map[string]string{
		"identity":    "01" + strings.Repeat("00", 31),
		"order two":   "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"length":      "0102",
		"wrong x":     "04" + strings.Repeat("00", 31) + "01" + strings.Repeat("00", 31) + "03",
		"prefix only": "40",
	} {
		text := "(public-key (ecc (curve Ed25519) (q #" + q + "#)))"
		if _, err := ParsePublicKey([]byte(text)); err == nil {
			t.Errorf("q with %s: parsed", name)
		}
	}
}

// The three spellings of q are the same point but, as in Guix, different keys.
func TestPointForms(t *testing.T) {
	key := testKey(t, "ed25519")
	q, err := key.Public().tree.list[1].value("q")
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPoint25519(q)
	if err != nil {
		t.Fatal(err)
	}
	y := reversed(q)
	y[0] &= 0x7f
	forms := map[string][]byte{
		"0x40": append([]byte{0x40}, q...),
		"0x04": bytes.Join([][]byte{{0x04}, reversed(affineX(p.q)), y}, nil),
	}
	for name, form := range forms {
		other, err := newPublicKey(list(symbol("public-key"),
			list(symbol("ecc"), list(symbol("curve"), symbol("Ed25519")), list(symbol("q"), atom(form)))))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if other.Equal(key.Public()) {
			t.Errorf("%s: equal to the usual form", name)
		}
		sig, err := key.Sign(Hash{7})
		if err != nil {
			t.Fatal(err)
		}
		sig.Key = other
		if err := sig.Verify(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGenerateKey(t *testing.T) {
	key := GenerateKey()
	again, err := ParsePrivateKey(key.tree.advanced())
	if err != nil {
		t.Fatal(err)
	}
	sig, err := again.Sign(Hash{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := sig.Verify(); err != nil {
		t.Error(err)
	}
	if key.Public().Equal(GenerateKey().Public()) {
		t.Error("the same key twice")
	}
}

func TestWriteKeyPair(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signing-key.sec")
	key := GenerateKey()
	if err := key.WriteKeyPair(path); err != nil {
		t.Fatal(err)
	}
	checkMode(t, path, 0o400)
	checkMode(t, publicFile(path), 0o444)
	if err := GenerateKey().WriteKeyPair(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second pair: error %v, want one of existence", err)
	}
	got, err := ReadPrivateKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Public().Equal(key.Public()) {
		t.Error("another key is read than was written")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 {
		t.Errorf("files %v, want two", entries)
	}
}

func checkMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != want {
		t.Errorf("%s: mode %v, want %v", path, info.Mode(), want)
	}
}

func TestReadPrivateKeyFileOfOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signing-key.sec")
	if err := GenerateKey().WriteKeyPair(path); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o440, 0o404, 0o600 | 0o001} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadPrivateKeyFile(path)
		if err == nil || !strings.Contains(err.Error(), "chmod 0400") {
			t.Errorf("mode %v: error %v, want one with the remedy", mode, err)
		}
	}
}

func TestEnsureKeyPair(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signing-key.sec")
	keys := make([]*PrivateKey, 8)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			var err error
			if keys[i], err = EnsureKeyPair(path); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	for _, k := range keys {
		if !k.Public().Equal(keys[0].Public()) {
			t.Error("two processes got different keys")
		}
	}
	// As after a crash between the two files, or with somebody else's .pub.
	if err := os.Remove(publicFile(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureKeyPair(path); err != nil {
		t.Fatal(err)
	}
	public, err := ReadPublicKeyFile(publicFile(path))
	if err != nil {
		t.Fatal(err)
	}
	if !public.Equal(keys[0].Public()) {
		t.Error("public file is of another key")
	}
}

func TestReadKeyFileMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	_, err1 := ReadPrivateKeyFile(path)
	_, err2 := ReadPublicKeyFile(path)
	_, err3 := ReadACLFile(path)
	for _, err := range []error{err1, err2, err3} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	}
}

func TestACL(t *testing.T) {
	for dir := range keyKinds {
		text := readFile(t, dir+"/acl")
		acl, err := ParseACL(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := acl.String(); got != string(text) {
			t.Errorf("%s: prints as %q", dir, got)
		}
		if !acl.Authorized(testKey(t, dir).Public()) {
			t.Errorf("%s: its own key is not authorized", dir)
		}
		if acl.Authorized(GenerateKey().Public()) {
			t.Errorf("%s: any key is authorized", dir)
		}
	}
	key := testKey(t, "rsa2048").Public()
	if got := NewACL(key).String(); got != string(readFile(t, "rsa2048/acl")) {
		t.Errorf("list of one key prints as %q", got)
	}
	var nobody *ACL
	if nobody.Authorized(key) || new(ACL).Authorized(key) {
		t.Error("the empty list authorizes")
	}
}

func TestParseACLErrors(t *testing.T) {
	good := string(readFile(t, "ed25519/acl"))
	for name, text := range map[string]string{
		"other tag":  strings.Replace(good, "import", "export", 1),
		"no tag":     "(acl (entry (public-key)))",
		"not an acl": string(readFile(t, "ed25519/signing-key.pub")),
		"truncated":  good[:len(good)-4],
		"empty":      "",
	} {
		if _, err := ParseACL([]byte(text)); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
	// Keys nobody can use are no reason to distrust the others.
	if _, err := ParseACL([]byte("(acl (entry (public-key (ecc (curve Ed448))) (tag (guix import))))")); err != nil {
		t.Error(err)
	}
}

func BenchmarkSign(b *testing.B) {
	for dir := range keyKinds {
		b.Run(dir, func(b *testing.B) {
			key := testKey(b, dir)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := key.Sign(Hash{1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	for dir := range keyKinds {
		b.Run(dir, func(b *testing.B) {
			sig, err := testKey(b, dir).Sign(Hash{1})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := sig.Verify(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The hash of our own is that of the standard library.
func TestMAC(t *testing.T) {
	var key [sha256.Size]byte
	for n := range 3*sha256.Size + 2 {
		rand.Read(key[:])
		text := make([]byte, n)
		rand.Read(text)
		want := hmac.New(sha256.New, key[:])
		want.Write(text)
		if got := mac(&key, text[:n/2], text[n/2:]); !bytes.Equal(got[:], want.Sum(nil)) {
			t.Errorf("of %d bytes: another one", n)
		}
	}
}
