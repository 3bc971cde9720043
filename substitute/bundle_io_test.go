package substitute

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// realBundle reads the vector made by guix archive --export.
func TestBundleReaderReal(t *testing.T) {
	text := readFile(t, "archive/export-one.nar-bundle")
	want := parsed(t, readFile(t, "narinfo/cache-zstd-lzip-filesize.narinfo"))
	r := NewBundleReader(bytes.NewReader(text))
	var archive bytes.Buffer
	info, err := r.Next(&archive, testACL(t))
	if err != nil {
		t.Fatal(err)
	}
	if !info.equivalent(&want.Info) || info.Deriver != want.Deriver || int64(archive.Len()) != want.NarSize {
		t.Errorf("got %+v, want %+v", info, want.Info)
	}
	if _, err := r.Next(io.Discard, testACL(t)); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	// Nobody is trusted: the item is refused, and the end still found.
	r = NewBundleReader(bytes.NewReader(text))
	var untrusted *UntrustedError
	if _, err := r.Next(io.Discard, nil); !errors.As(err, &untrusted) || untrusted.Reason != UnauthorizedKey {
		t.Errorf("without a key: %v", err)
	}
	if _, err := r.Next(io.Discard, nil); err != io.EOF {
		t.Errorf("after an untrusted item: %v", err)
	}
}

// one is a Source of a single archive.
type one struct {
	info    *Info
	archive []byte
}

func (o one) Info(context.Context, string) (*Info, error) { return o.info, nil }
func (o one) WriteNAR(_ context.Context, w io.Writer, _ *Info) error {
	_, err := w.Write(o.archive)
	return err
}

// What is written is read again, is what Guix would have written, and signed by the same key is
// the same to the byte.
func TestBundleWriter(t *testing.T) {
	text := readFile(t, "archive/export-one.nar-bundle")
	var archive bytes.Buffer
	info, err := NewBundleReader(bytes.NewReader(text)).Next(&archive, testACL(t))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParsePrivateKey(mustRead(t, "testdata/ed25519/signing-key.sec"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := NewBundleWriter(&out, key)
	if err := errors.Join(w.Add(t.Context(), one{info, archive.Bytes()}, info), w.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), text) {
		t.Errorf("bundle of %d bytes differs from the one Guix made of %d bytes", out.Len(), len(text))
	}
	bad := bytes.Clone(archive.Bytes())
	bad[len(bad)/2] ^= 1
	w = NewBundleWriter(io.Discard, key)
	if err := w.Add(t.Context(), one{info, bad}, info); err == nil {
		t.Error("a wrong archive was signed")
	}
	if err := w.Close(); err == nil {
		t.Error("a broken bundle was closed")
	}
}

// What is signed is the item and all that is said of it: with any other byte it is not accepted.
func TestBundleReaderAltered(t *testing.T) {
	text := readFile(t, "archive/export-one.nar-bundle")
	signed := bytes.Index(text, []byte("(signature")) - 16
	if signed < 40_000 {
		t.Fatalf("%d bytes are signed", signed)
	}
	var untrusted *UntrustedError
	reasons := make(map[Reason]int)
	for i := 0; i < signed; i += 1 + signed/2000 {
		altered := bytes.Clone(text)
		altered[i] ^= 1
		r := NewBundleReader(bytes.NewReader(altered))
		info, err := r.Next(io.Discard, testACL(t))
		if err == nil {
			t.Fatalf("byte %d: accepted as %+v", i, info)
		}
		if errors.As(err, &untrusted) {
			reasons[untrusted.Reason]++
			if _, err := r.Next(io.Discard, testACL(t)); err != io.EOF {
				t.Errorf("byte %d: after it, %v", i, err)
			}
		}
	}
	if len(reasons) != 1 || reasons[SignedHashMismatch] < 1000 {
		t.Errorf("not trusted because of %v", reasons)
	}
}

// What a bundle says of lengths is not believed before it has come.
func TestBundleReaderLimits(t *testing.T) {
	text := readFile(t, "archive/export-one.nar-bundle")
	path := bytes.LastIndex(text, []byte("NIXE\x00\x00\x00\x00")) + 8
	pathEnd := path + 8 + (int(text[path])+7)&^7
	signature := bytes.Index(text, []byte("(signature")) - 8
	for name, test := range map[string]struct {
		at     int
		number uint64
		want   string
	}{
		"path":            {path, 1 << 20, "string of"},
		"endless path":    {path, 1 << 62, "string of"},
		"references":      {pathEnd, maxBundleRefs + 1, "references"},
		"signature":       {signature, maxBundleSignature + 1, "string of"},
		"no item, no end": {0, 2, "where an item"},
	} {
		altered := append(number(bytes.Clone(text[:test.at]), test.number), make([]byte, 2<<20)...)
		if _, err := NewBundleReader(bytes.NewReader(altered)).Next(io.Discard, testACL(t)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func FuzzBundle(f *testing.F) {
	text, err := os.ReadFile("testdata/archive/export-one.nar-bundle")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(strings.Repeat("\x00", 8)))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewBundleReader(bytes.NewReader(in))
		for range 3 {
			var archive bytes.Buffer
			info, err := r.Next(&archive, nil)
			if err == nil {
				t.Fatalf("trusted %v", info)
			}
			var untrusted *UntrustedError
			if !errors.As(err, &untrusted) {
				return
			}
		}
	})
}
