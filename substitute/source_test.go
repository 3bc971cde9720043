package substitute_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// filled is a source with a few items, and their paths.
func filled(names ...string) (*substitutetest.Memory, []substitute.StorePath) {
	var m substitutetest.Memory
	var paths []substitute.StorePath
	for _, name := range names {
		info := m.AddFile(name, "contents of "+name, paths...)
		paths = append(paths, info.StorePath)
	}
	return &m, paths
}

func TestMemory(t *testing.T) {
	m, paths := filled("a", "b", "c")
	substitutetest.TestSource(t, m, paths)
}

func TestFirst(t *testing.T) {
	m1, paths1 := filled("a", "b")
	m2, paths2 := filled("b", "c")
	substitutetest.TestSource(t, substitute.First(m1, m2), append(paths1, paths2...))
}

// broken is a source that is out of order.
type broken struct{}

var errBroken = errors.New("no daemon")

func (broken) Info(context.Context, string) (*substitute.Info, error) { return nil, errBroken }
func (broken) WriteNAR(context.Context, io.Writer, *substitute.Info) error {
	return errBroken
}

// One that fails is passed over, but must not make an item look absent.
func TestFirstReportsFailure(t *testing.T) {
	m, paths := filled("a")
	info, err := substitute.First(broken{}, m).Info(t.Context(), paths[0].Hash())
	if err != nil {
		t.Fatal(err)
	}
	if err := substitute.First(broken{}, m).WriteNAR(t.Context(), io.Discard, info); err != nil {
		t.Error(err)
	}
	_, err = substitute.First(broken{}, m).Info(t.Context(), substitutetest.Path("none", "").Hash())
	if !errors.Is(err, errBroken) || errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("error %v, want that of the failing source", err)
	}
	if _, err := substitute.First().Info(t.Context(), ""); !errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("no source: error %v", err)
	}
}

// half breaks off in the middle of an archive.
type half struct{ substitute.Source }

func (h half) WriteNAR(ctx context.Context, w io.Writer, info *substitute.Info) error {
	var all bytes.Buffer
	if err := h.Source.WriteNAR(ctx, &all, info); err != nil {
		return err
	}
	w.Write(all.Bytes()[:all.Len()/2])
	return errBroken
}

// After the first byte there is no other source to turn to; and one that has
// something else under the same name does not count.
func TestFirstWriteNAR(t *testing.T) {
	m, paths := filled("a")
	info, err := m.Info(t.Context(), paths[0].Hash())
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	err = substitute.First(half{m}, m).WriteNAR(t.Context(), &got, info)
	if !errors.Is(err, errBroken) || int64(got.Len()) != info.NarSize/2 {
		t.Errorf("wrote %d bytes, error %v; want half and the error", got.Len(), err)
	}
	var other substitutetest.Memory
	other.Add(paths[0], substitutetest.FileNAR("something else"), "")
	got.Reset()
	if err := substitute.First(&other, m).WriteNAR(t.Context(), &got, info); err != nil {
		t.Fatal(err)
	}
	if int64(got.Len()) != info.NarSize {
		t.Errorf("archive of %d bytes, want %d", got.Len(), info.NarSize)
	}
}
