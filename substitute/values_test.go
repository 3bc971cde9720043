package substitute

import (
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"
)

// The last pair is the well-known hash of nothing, the others follow from the
// definition. Real narinfos test the alphabet and the order of digits too.
func TestBase32(t *testing.T) {
	empty := sha256.Sum256(nil)
	for in, want := range map[string]string{
		"":               "",
		"\x00":           "00",
		"\x1f":           "0z",
		"\xff":           "7z",
		string(empty[:]): "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
	} {
		if got := EncodeBase32([]byte(in)); got != want {
			t.Errorf("encode %x: %q, want %q", in, got, want)
		}
		if got, err := DecodeBase32(want); err != nil || string(got) != in {
			t.Errorf("decode %q: %x, %v; want %x", want, got, err, in)
		}
	}
	for _, bad := range []string{"0", "000", "0e", "0O", "zz", "8z", "0é", "000000"} {
		if b, err := DecodeBase32(bad); err == nil {
			t.Errorf("decode %q: %x", bad, b)
		}
	}
}

func TestBase32RoundTrip(t *testing.T) {
	for n := range 70 {
		b := make([]byte, n)
		rand.Read(b)
		if got, err := DecodeBase32(EncodeBase32(b)); err != nil || string(got) != string(b) {
			t.Errorf("%x: %x, %v", b, got, err)
		}
	}
}

func TestHash(t *testing.T) {
	const b32 = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
	const b16 = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, s := range []string{b32, b16} {
		var h Hash
		if err := h.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
		if h != sha256.Sum256(nil) || h.String() != b32 {
			t.Errorf("%s: parsed as %v", s, h)
		}
	}
	for _, bad := range []string{"", "sha256:", b32[7:], "sha512:" + b32[7:], b32 + "0", b16[:69], "sha256:" + strings.Repeat("z", 52)} {
		if h, err := ParseHash(bad); err == nil {
			t.Errorf("%q: parsed as %v", bad, h)
		}
	}
}

const somePath = StoreDir + "/72d1paqhf2pv4470j291dwmghkiddr04-pkg-11-1.0"

func TestStorePath(t *testing.T) {
	p, err := ParseStorePath(somePath)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{p.Hash(), p.Name(), p.Base()}
	want := []string{"72d1paqhf2pv4470j291dwmghkiddr04", "pkg-11-1.0", "72d1paqhf2pv4470j291dwmghkiddr04-pkg-11-1.0"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("part %d is %q, want %q", i, got[i], want[i])
		}
	}
	if p.IsDerivation() || !(p + ".drv").IsDerivation() {
		t.Error("derivations are those that end in .drv")
	}
}

func TestParseStorePathErrors(t *testing.T) {
	base := somePath[len(StoreDir)+1:]
	for _, bad := range []string{
		"", base, "/nix/store/" + base, StoreDir, StoreDir + "/", StoreDir + "//" + base,
		StoreDir + "/" + base[:32], StoreDir + "/" + base[:33], StoreDir + "/" + base[1:],
		StoreDir + "/e" + base[1:], strings.Replace(somePath, "-pkg", "_pkg", 1),
		somePath + "/bin", somePath + " ", somePath + "\n", somePath + "é", somePath + "\x00", somePath + ":",
		StoreDir + "/" + base[:33] + ".links", StoreDir + "/" + base[:33] + "..",
		StoreDir + "/" + base[:33] + strings.Repeat("x", 223),
	} {
		if p, err := ParseStorePath(bad); err == nil {
			t.Errorf("%q: parsed as %q", bad, p)
		}
	}
	if _, err := ParseStorePath(StoreDir + "/" + base[:33] + "Gtk+-._?=09"); err != nil {
		t.Error(err)
	}
}
