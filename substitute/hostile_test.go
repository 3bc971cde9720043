package substitute_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/lzip"
	"github.com/genenetwork/guixci/substitute/nar"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// bomb is a compressed archive of a file of n zeros, of a thousandth of that or less.
func bomb(t *testing.T, method string, n int64) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch method {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "lzip":
		w = lzip.NewWriter(&b, 0)
	case "zstd":
		w, _ = zstd.NewWriter(&b)
	}
	archive := nar.NewWriter(w)
	if err := archive.WriteHeader(&nar.Header{Mode: nar.ModeRegular, Size: n}); err != nil {
		t.Fatal(err)
	}
	for zeros := make([]byte, 1<<20); n > 0; n -= int64(len(zeros)) {
		if _, err := archive.Write(zeros[:min(n, int64(len(zeros)))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// bzip2Bomb is 1.8 GB of zeros in 1.8 kB: bzip2 members of 46 bytes that each hold 45,899,235 of them.
func bzip2Bomb(t *testing.T) []byte {
	t.Helper()
	// head -c 45899235 /dev/zero | bzip2 -9 makes one block of one run.
	member, err := hex.DecodeString(bzip2Zeros)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Repeat(member, 40)
}

const bzip2Zeros = `425a68393141592653590e09e2df015f8e4000c0000008200030804d4642a025a90a80971772453850900e09e2df`

// What expands to a thousand times its size and more is given up as soon as it is longer than what was
// signed, whatever it is compressed with, and has not taken memory by then.
func TestClientBombs(t *testing.T) {
	key := vectorKey(t)
	info := new(substitutetest.Memory).AddFile("small", "text")
	const size = 200 << 20
	for method, archive := range map[string][]byte{
		"gzip": bomb(t, "gzip", size), "lzip": bomb(t, "lzip", size/50), "zstd": bomb(t, "zstd", size), "bzip2": bzip2Bomb(t),
	} {
		t.Run(method, func(t *testing.T) {
			url := "nar/" + method + "/" + info.StorePath.Base()
			n, err := substitute.NewNarInfo(info, key, "host", []substitute.NarURL{{URL: url, Compression: method, FileSize: -1}})
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if isNAR(r) {
					w.Header().Set("Content-Length", fmt.Sprint(min(len(archive), 60_000))) // more is not even begun
					w.Write(archive[:min(len(archive), 60_000)])
				} else {
					w.Write(n.Bytes())
				}
			}))
			defer server.Close()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if err := fetchOne(t, clientOf(t, server.URL), info); err == nil {
				t.Error("fetched")
			}
			if err := clientOf(t, server.URL).WriteNAR(t.Context(), io.Discard, info); err == nil || !strings.Contains(err.Error(), "longer than") {
				t.Errorf("write: %v", err)
			}
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 40<<20 {
				t.Errorf("took %d bytes of memory", used)
			}
		})
	}
}

// Caches that never come to an end, or take their time for each byte, are given up, and others asked.
func TestClientEndlessCaches(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("item", incompressible(3_000_000))
	h := &substitute.Handler{Source: &m, Key: vectorKey(t)}
	good := serve(t, h)
	const stall = 300 * time.Millisecond
	drip := func(w http.ResponseWriter, r *http.Request) bool {
		tick := time.NewTicker(stall / 20)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.Write([]byte("S"))
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return true
			}
		}
	}
	flood := func(w http.ResponseWriter, r *http.Request) bool {
		for block := make([]byte, 64<<10); r.Context().Err() == nil; {
			w.Write(block)
		}
		return true
	}
	silence := func(w http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	}
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{"drip": drip, "flood": flood, "silence": silence} {
		t.Run(name, func(t *testing.T) {
			archives := meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool { return isNAR(r) && answer(w, r) })
			if name != "silence" { // before the first byte, guix publish may take a minute
				c := clientOf(t, archives, good)
				c.Stall = stall
				if err := fetchOne(t, c, info); err != nil {
					t.Error(err)
				}
			}
			narinfos := meddle(t, h, func(w http.ResponseWriter, r *http.Request) bool { return !isNAR(r) && answer(w, r) })
			c := clientOf(t, narinfos, good)
			c.Stall = stall
			paths := []substitute.StorePath{info.StorePath, substitutetest.Path("absent", "")} // pipelined
			if offers, err := c.Query(t.Context(), paths); len(offers) != 1 || err == nil {
				t.Errorf("%d offers, %v; want that of the other cache, and why not of this one", len(offers), err)
			}
		})
	}
}
