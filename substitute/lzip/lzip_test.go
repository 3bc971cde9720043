package lzip_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/genenetwork/guixci/substitute/lzip"
)

const limit = 1 << 20

func compress(t testing.TB, level int, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := lzip.NewWriter(&b, level)
	for chunk := data; len(chunk) > 0; {
		n := min(len(chunk), 10_000)
		if _, err := w.Write(chunk[:n]); err != nil {
			t.Fatal(err)
		}
		chunk = chunk[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decompress(file []byte, limit int) ([]byte, error) {
	return io.ReadAll(lzip.NewReader(bytes.NewReader(file), limit))
}

// samples are of all kinds: empty, tiny, repetitive, random, with matches far apart.
func samples() map[string][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 40_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	return map[string][]byte{
		"empty": {}, "byte": {'x'}, "text": []byte(strings.Repeat("what a text, ", 1000)),
		"zeros": make([]byte, 100_000), "noise": noise, "far": bytes.Repeat(noise, 2),
	}
}

func TestRoundTrip(t *testing.T) {
	for name, data := range samples() {
		levels := []int{-1, 3}
		if name == "byte" {
			levels = []int{0, 100}
		}
		for _, level := range levels {
			file := compress(t, level, data)
			if got, err := decompress(file, 2<<20); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, level %d: %d bytes of %d, %v", name, level, len(got), len(data), err)
			}
			// As much as there is data is enough.
			if got, err := decompress(file, len(data)); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, level %d, small dictionary: %d bytes of %d, %v", name, level, len(got), len(data), err)
			}
		}
	}
}

// A Writer can be used again, and what it is reset to does not depend on what was before.
func TestReset(t *testing.T) {
	want := compress(t, 3, []byte("second"))
	var b bytes.Buffer
	w := lzip.NewWriter(&bytes.Buffer{}, 3)
	if _, err := w.Write([]byte("first, and not closed")); err != nil {
		t.Fatal(err)
	}
	w.Reset(&b)
	if _, err := w.Write([]byte("second")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil || !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%q, %v; want %q", b.Bytes(), err, want)
	}
}

// testdata/members.lz was made by lzip 1.26: "one" and "two", a line each, at -9 and -0, and an empty
// member between them.
func TestMembers(t *testing.T) {
	file, err := os.ReadFile("testdata/members.lz")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decompress(file, limit); err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("%q, %v", got, err)
	}
	got, err := io.ReadAll(lzip.NewReader(iotest.OneByteReader(bytes.NewReader(file)), limit))
	if err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("byte by byte: %q, %v", got, err)
	}
}

// A file that ends early, anywhere, is not taken for a whole one; nor is a damaged one.
func TestDamaged(t *testing.T) {
	data := []byte(strings.Repeat("some text ", 30))
	file := compress(t, 3, data)
	for n := range file {
		if got, err := decompress(file[:n], limit); err == nil || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %q, %v", n, got, err)
		}
	}
	for i := range file {
		if i == 5 {
			continue // another size of the dictionary changes nothing
		}
		bad := bytes.Clone(file)
		bad[i] ^= 1
		if got, err := decompress(bad, limit); err == nil {
			t.Errorf("changed at %d: %q", i, got)
		}
	}
	for _, tail := range []string{"\x00", "LZIP", "LZIP\x01\x0c", "garbage that goes on for a while", string(file[:len(file)-1])} {
		if got, err := decompress(append(bytes.Clone(file), tail...), limit); err == nil {
			t.Errorf("followed by %q: %q", tail, got)
		}
	}
}

// The memory for a dictionary is bounded whatever the header says.
func TestLimit(t *testing.T) {
	file := compress(t, 3, samples()["far"])
	if _, err := decompress(file, 20_000); !errors.Is(err, lzip.ErrFormat) {
		t.Errorf("matches further apart than the limit: %v", err)
	}
	file[5] = 0x1d // 512 MiB
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := io.Copy(io.Discard, lzip.NewReader(bytes.NewReader(file), limit)); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	allocated := after.TotalAlloc - before.TotalAlloc
	if allocated > 4*limit {
		t.Errorf("%d bytes of memory for a limit of %d", allocated, limit)
	}
	for _, code := range []byte{0x00, 0x0b, 0x1e, 0x1f, 0xff} {
		file[5] = code
		if _, err := decompress(file, limit); !errors.Is(err, lzip.ErrFormat) {
			t.Errorf("dictionary %#x: %v", code, err)
		}
	}
}

// Errors of what is read from and written to arrive as they are.
func TestErrors(t *testing.T) {
	file := compress(t, 3, samples()["noise"])
	broken := errors.New("broken")
	for _, n := range []int{0, 3, 8, 1000, len(file) - 3} {
		in := io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(broken))
		if _, err := io.Copy(io.Discard, lzip.NewReader(in, limit)); !errors.Is(err, broken) {
			t.Errorf("broken at %d: %v", n, err)
		}
	}
	w := lzip.NewWriter(failing{broken}, 3)
	_, err := w.Write(samples()["noise"])
	if closed := w.Close(); !errors.Is(errors.Join(err, closed), broken) || closed == nil {
		t.Errorf("write: %v, close: %v", err, closed)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// Nothing that is read makes a Reader panic, loop or take more memory than it may.
func FuzzReader(f *testing.F) {
	members, err := os.ReadFile("testdata/members.lz")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(members)
	f.Add(compress(f, 0, []byte(strings.Repeat("abc", 100))))
	f.Fuzz(func(t *testing.T, file []byte) {
		const most = 1 << 20
		got, err := io.ReadAll(io.LimitReader(lzip.NewReader(bytes.NewReader(file), 1<<16), most))
		if err != nil || len(got) == most {
			return
		}
		if again, err := decompress(compress(t, 0, got), limit); err != nil || !bytes.Equal(again, got) {
			t.Errorf("%d bytes become %d, %v", len(got), len(again), err)
		}
	})
}

func BenchmarkReader(b *testing.B) {
	file := compress(b, 6, text())
	b.SetBytes(int64(len(text())))
	for b.Loop() {
		if _, err := io.Copy(io.Discard, lzip.NewReader(bytes.NewReader(file), 8<<20)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriter(b *testing.B) {
	data := text()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		compress(b, 3, data)
	}
}

func text() []byte {
	var b bytes.Buffer
	for i := range 100_000 {
		fmt.Fprintf(&b, "line %d is like %d\n", i, i*i%9973)
	}
	return b.Bytes()
}
