// Package substitutetest helps to test what implements or uses
// [substitute.Source].
//
// [TestSource] is the suite that each implementation should pass; [Memory] is an
// implementation that needs no store:
//
//	var m substitutetest.Memory
//	info := m.AddFile("greeting", "hello")
//	server := httptest.NewServer(&substitute.Handler{Source: &m})
package substitutetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
)

// Memory is a Source that holds archives in memory. The zero value is empty.
// Its methods may be called concurrently.
type Memory struct {
	mu    sync.RWMutex // guards items
	items map[string]item
}

type item struct {
	info *substitute.Info
	nar  []byte
}

// Add adds an item, replacing the one with the same hash part, and returns what
// is now known of it. The archive is not checked.
func (m *Memory) Add(path substitute.StorePath, archive []byte, deriver substitute.StorePath, references ...substitute.StorePath) *substitute.Info {
	info := &substitute.Info{
		StorePath:  path,
		NarHash:    sha256.Sum256(archive),
		NarSize:    int64(len(archive)),
		References: slices.Sorted(slices.Values(references)),
		Deriver:    deriver,
	}
	m.AddInfo(info, archive)
	return info
}

// AddInfo adds an item of which info is claimed, true or not: for tests of those
// who should notice.
func (m *Memory) AddInfo(info *substitute.Info, archive []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.items == nil {
		m.items = make(map[string]item)
	}
	m.items[info.StorePath.Hash()] = item{info, archive}
}

// AddFile adds an item that is a regular file, under a path made of name and
// contents.
func (m *Memory) AddFile(name, contents string, references ...substitute.StorePath) *substitute.Info {
	return m.Add(Path(name, contents), FileNAR(contents), "", references...)
}

// Remove forgets an item, as garbage collection does.
func (m *Memory) Remove(path substitute.StorePath) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.items, path.Hash())
}

// Info implements [substitute.Source].
func (m *Memory) Info(ctx context.Context, hashPart string) (*substitute.Info, error) {
	found, err := m.find(ctx, hashPart)
	return found.info, err
}

// WriteNAR implements [substitute.Source].
func (m *Memory) WriteNAR(ctx context.Context, w io.Writer, info *substitute.Info) error {
	found, err := m.find(ctx, info.StorePath.Hash())
	if err != nil {
		return err
	}
	if _, err := w.Write(found.nar); err != nil {
		return fmt.Errorf("write archive of %s: %w", info.StorePath, err)
	}
	return nil
}

func (m *Memory) find(ctx context.Context, hashPart string) (item, error) {
	if err := ctx.Err(); err != nil {
		return item{}, context.Cause(ctx)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	found, ok := m.items[hashPart]
	if !ok {
		return item{}, fmt.Errorf("%w: %q", substitute.ErrNotFound, hashPart)
	}
	return found, nil
}

// Path is a store path for name that seed determines. It is well formed, and
// not the one that Guix would compute. It panics if name is none of a store item.
func Path(name, seed string) substitute.StorePath {
	sum := sha256.Sum256([]byte(seed + "\x00" + name))
	p, err := substitute.ParseStorePath(substitute.StoreDir + "/" + substitute.EncodeBase32(sum[:20]) + "-" + name)
	if err != nil {
		panic(err)
	}
	return p
}

// FileNAR is the archive of a regular file.
func FileNAR(contents string) []byte {
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	err := w.WriteHeader(&nar.Header{Mode: nar.ModeRegular, Size: int64(len(contents))})
	if err == nil {
		_, err = io.WriteString(w, contents)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // a buffer takes everything
	}
	return b.Bytes()
}
