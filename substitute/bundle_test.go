package substitute

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/genenetwork/guixci/substitute/nar"
)

// A bundle of "guix archive --export" is an archive, what is known of the item,
// and a signature of both: one file that ties everything in this package
// to what Guix makes.
func TestRealBundle(t *testing.T) {
	bundle := readFile(t, "archive/export-one.nar-bundle")
	narinfo := parsed(t, readFile(t, "narinfo/cache-zstd-lzip-filesize.narinfo"))
	rest := bytes.NewReader(bundle)
	number := func() (n uint64) {
		if err := binary.Read(rest, binary.LittleEndian, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	text := func() string {
		n := number()
		if n > uint64(rest.Len()) {
			t.Fatalf("string of %d bytes", n)
		}
		b := make([]byte, (n+7)&^7)
		rest.Read(b)
		return string(b[:n])
	}
	done := func() int { return len(bundle) - rest.Len() }

	if number() != 1 {
		t.Fatal("no item in the bundle")
	}
	start := done()
	r := nar.NewReader(rest)
	for {
		if _, err := r.Next(); err != nil {
			break // the hash tells whether it was the end
		}
	}
	if got := Hash(sha256.Sum256(bundle[start:done()])); got != narinfo.NarHash {
		t.Fatalf("archive has hash %v, its narinfo says %v", got, narinfo.NarHash)
	}
	if number() != 0x4558494e || text() != string(narinfo.StorePath) {
		t.Fatal("not the item of the narinfo")
	}
	for i := range number() {
		if ref := text(); ref != string(narinfo.References[i]) {
			t.Errorf("reference %d is %q, its narinfo says %q", i, ref, narinfo.References[i])
		}
	}
	if deriver := text(); deriver != string(narinfo.Deriver) {
		t.Errorf("deriver %q, its narinfo says %q", deriver, narinfo.Deriver)
	}
	signed := sha256.Sum256(bundle[start:done()])
	if number() != 1 {
		t.Fatal("no signature")
	}
	sig, err := ParseSignature([]byte(text()))
	if err != nil {
		t.Fatal(err)
	}
	if sig.Hash != signed || !testACL(t).Authorized(sig.Key) {
		t.Errorf("signature of %v by %v", sig.Hash, sig.Key)
	}
	if err := sig.Verify(); err != nil {
		t.Error(err)
	}
	if number() != 0 || rest.Len() != 0 {
		t.Error("the bundle goes on")
	}
}
