package substitutetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
)

// TestSource checks that src keeps the contract of [substitute.Source]. It must
// have the items in have, at least one, and must lack those of [Path].
func TestSource(t *testing.T, src substitute.Source, have []substitute.StorePath) {
	t.Helper()
	if len(have) == 0 {
		t.Fatal("no item to test with")
	}
	s := suite{src, have}
	t.Run("items", s.items)
	t.Run("missing", s.missing)
	t.Run("gone", s.gone)
	t.Run("cancelled", s.cancelled)
	t.Run("writer fails", s.writerFails)
	t.Run("concurrent", s.concurrent)
}

type suite struct {
	src  substitute.Source
	have []substitute.StorePath
}

func (s suite) info(t *testing.T, path substitute.StorePath) *substitute.Info {
	t.Helper()
	info, err := s.src.Info(t.Context(), path.Hash())
	if err != nil {
		t.Fatalf("Info(%s): %v", path, err)
	}
	return info
}

// items: what Info says is well formed, and true of what WriteNAR writes.
func (s suite) items(t *testing.T) {
	for _, path := range s.have {
		info := s.info(t, path)
		if info.StorePath != path {
			t.Errorf("asked for %s, got %s", path, info.StorePath)
		}
		checkPaths(t, info)
		var archive bytes.Buffer
		if err := s.src.WriteNAR(t.Context(), &archive, info); err != nil {
			t.Errorf("WriteNAR(%s): %v", path, err)
			continue
		}
		if got := int64(archive.Len()); got != info.NarSize {
			t.Errorf("%s: archive of %d bytes, want %d", path, got, info.NarSize)
		}
		if got := substitute.Hash(sha256.Sum256(archive.Bytes())); got != info.NarHash {
			t.Errorf("%s: archive has hash %v, want %v", path, got, info.NarHash)
		}
		checkArchive(t, path, &archive)
	}
}

func checkPaths(t *testing.T, info *substitute.Info) {
	t.Helper()
	all := append(slices.Clone(info.References), info.StorePath)
	if info.Deriver != "" {
		all = append(all, info.Deriver)
	}
	for _, p := range all {
		if _, err := substitute.ParseStorePath(string(p)); err != nil {
			t.Errorf("%s: %v", info.StorePath, err)
		}
	}
	if !slices.IsSorted(info.References) || len(slices.Compact(slices.Clone(info.References))) != len(info.References) {
		t.Errorf("%s: references are not a sorted set: %v", info.StorePath, info.References)
	}
}

func checkArchive(t *testing.T, path substitute.StorePath, archive *bytes.Buffer) {
	t.Helper()
	r := nar.NewReader(archive)
	for {
		_, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
	}
	if archive.Len() > 0 {
		t.Errorf("%s: %d bytes follow the archive", path, archive.Len())
	}
}

// missing: what cannot be a hash part is as unknown as what is not there.
func (s suite) missing(t *testing.T) {
	absent := Path("absent", "absent").Hash()
	for _, hashPart := range []string{
		absent, "", "x", absent[1:], absent + "0", strings.ToUpper(s.have[0].Hash()),
		string(s.have[0]), s.have[0].Base(), "../" + absent[3:], strings.Repeat("%", 32), strings.Repeat("e", 32),
	} {
		info, err := s.src.Info(t.Context(), hashPart)
		if !errors.Is(err, substitute.ErrNotFound) {
			t.Errorf("Info(%q): %v, error %v, want ErrNotFound", hashPart, info, err)
		}
	}
}

// gone: an item can be collected between the two calls.
func (s suite) gone(t *testing.T) {
	info := *s.info(t, s.have[0])
	info.StorePath = Path("absent", "absent")
	var got bytes.Buffer
	err := s.src.WriteNAR(t.Context(), &got, &info)
	if !errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("WriteNAR of what is gone: error %v, want ErrNotFound", err)
	}
	if got.Len() > 0 {
		t.Errorf("WriteNAR of what is gone wrote %d bytes", got.Len())
	}
}

// cancelled: a call under a context that has ended fails, and leaves the source
// usable.
func (s suite) cancelled(t *testing.T) {
	info := s.info(t, s.have[0])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.src.Info(ctx, s.have[0].Hash()); err != nil && errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("Info after the end of its context: %v, want another error", err)
	}
	if err := s.src.WriteNAR(ctx, io.Discard, info); err == nil {
		t.Error("WriteNAR after the end of its context: no error")
	}
	s.info(t, s.have[0])
}

var errWriter = errors.New("writer is broken")

// brokenWriter takes left bytes.
type brokenWriter struct{ left int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		n := w.left
		w.left = 0
		return n, errWriter
	}
	w.left -= len(p)
	return len(p), nil
}

func (s suite) writerFails(t *testing.T) {
	for _, path := range s.have {
		info := s.info(t, path)
		for _, room := range []int64{0, 1, info.NarSize / 2, info.NarSize - 1} {
			err := s.src.WriteNAR(t.Context(), &brokenWriter{int(room)}, info)
			if !errors.Is(err, errWriter) {
				t.Errorf("%s: WriteNAR to a writer that breaks after %d bytes: error %v", path, room, err)
			}
		}
	}
	s.items(t) // still usable
}

func (s suite) concurrent(t *testing.T) {
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			path := s.have[i%len(s.have)]
			info, err := s.src.Info(t.Context(), path.Hash())
			if err != nil {
				t.Errorf("Info(%s): %v", path, err)
				return
			}
			sum := sha256.New()
			if err := s.src.WriteNAR(t.Context(), sum, info); err != nil {
				t.Errorf("WriteNAR(%s): %v", path, err)
			} else if substitute.Hash(sum.Sum(nil)) != info.NarHash {
				t.Errorf("%s: archive has another hash than announced", path)
			}
		})
	}
	all.Wait()
}
