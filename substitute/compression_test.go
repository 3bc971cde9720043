package substitute

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// sample is size bytes, some of which can be compressed.
func sample(size int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 500)
	for i := range words {
		words[i] = make([]byte, 1+r.IntN(40))
		for k := range words[i] {
			words[i][k] = byte(r.IntN(256))
		}
	}
	data := make([]byte, 0, size+40)
	for len(data) < size {
		data = append(data, words[r.IntN(len(words))]...)
	}
	return data[:size]
}

// Every kind of encoder, those for several processors among them, makes what can be read
// again, also when it is used for the second time.
func TestThrough(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0))))
	wide2, wide3 := int(extentOf(2).wideFrom), int(extentOf(3).wideFrom)
	for _, test := range []struct {
		c    Compression
		size int
	}{
		{Compression{"none", 0}, 1000}, {Compression{"gzip", 3}, 100_000}, {Compression{"zstd", 3}, 0},
		{Compression{"zstd", 3}, 100_000}, {Compression{"zstd", 2}, wide2}, {Compression{"zstd", 3}, wide3 + 1},
		{Compression{"zstd", 2}, wide2 + 12345}, // with what the one before it used
	} {
		data := sample(test.size)
		var b bytes.Buffer
		err := test.c.through(&b, int64(test.size), func(w io.Writer) error {
			for rest := data; len(rest) > 0; {
				n := min(len(rest), 100_003)
				if _, err := w.Write(rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%v: %v", test, err)
		}
		var head zstd.Header
		if err := head.Decode(b.Bytes()); test.c.Method == "zstd" && test.size > 0 && (err != nil || head.FrameContentSize != uint64(test.size)) {
			t.Errorf("%v: says it has %d bytes, %v", test, head.FrameContentSize, err)
		}
		plain, err := decompress(test.c.Method, &b, int64(test.size))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(plain)
		plain.Close()
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%v: read %d bytes, %v", test, len(got), err)
		}
	}
}

// A failure, on whichever side, ends the encoder's goroutines, and what was written
// is not a whole archive.
func TestThroughFails(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0))))
	before := runtime.NumGoroutine()
	data, broken := sample(int(extentOf(2).wideFrom)), errors.New("broken")
	c := Compression{"zstd", 2}
	var b bytes.Buffer
	err := c.through(&b, int64(len(data)), func(w io.Writer) error {
		w.Write(data)
		return broken
	})
	if err != broken {
		t.Errorf("error %v, want %v", err, broken)
	}
	if plain, err := decompress("zstd", &b, int64(len(data))); err == nil {
		if n, err := io.Copy(io.Discard, plain); err == nil {
			t.Errorf("read %d bytes without an error", n)
		}
		plain.Close()
	}
	err = c.through(&failingWriter{10_000, broken}, int64(len(data)), func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	tick, late := time.NewTicker(time.Millisecond), time.After(2*time.Minute)
	defer tick.Stop()
	for runtime.NumGoroutine() > before {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%d goroutines, before there were %d", runtime.NumGoroutine(), before)
		}
	}
}

// An archive is compressed by several processors only while no other wants them.
func TestSeveralProcessorsForOne(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	c, size := Compression{"zstd", 3}, extentOf(3).wideFrom
	first, firstDone := c.kind(size)
	second, secondDone := c.kind(size)
	firstDone()
	third, thirdDone := c.kind(size)
	secondDone()
	thirdDone()
	last, lastDone := c.kind(size)
	lastDone()
	if !first.wide || second.wide || third.wide || !last.wide {
		t.Errorf("several processors: alone %t, second %t, beside the second %t, alone again %t", first.wide, second.wide, third.wide, last.wide)
	}
}

// What is compressed leaves in large pieces: each of them may be a system call.
func TestThroughWritesMuch(t *testing.T) {
	data := sample(1 << 20)
	for _, method := range []string{"gzip", "lzip", "zstd"} {
		var w sizes
		if err := (Compression{Method: method, Level: 1}).through(&w, int64(len(data)), func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if w.bytes/w.calls < 2048 {
			t.Errorf("%s: %d bytes in %d writes", method, w.bytes, w.calls)
		}
	}
}

// sizes counts what is written.
type sizes struct{ bytes, calls int }

func (s *sizes) Write(p []byte) (int, error) {
	s.bytes += len(p)
	s.calls++
	return len(p), nil
}

// A failingWriter takes some bytes.
type failingWriter struct {
	left int
	err  error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, w.err
	}
	return len(p), nil
}
