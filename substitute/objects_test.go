package substitute_test

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

func TestObjects(t *testing.T) {
	dir := t.TempDir()
	substitutetest.TestObjects(t, substitute.Directory(dir))
	names, _ := os.ReadDir(dir)
	for _, e := range names {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	t.Run("memory", func(t *testing.T) { substitutetest.TestObjects(t, new(substitutetest.Objects)) })
}

func TestExporter(t *testing.T) {
	var objects substitutetest.Objects
	server := httptest.NewServer(&objects)
	defer server.Close()
	t.Run("service", func(t *testing.T) { testExporter(t, &objects, server.URL) })
	dir := filepath.Join(t.TempDir(), "made")
	t.Run("directory", func(t *testing.T) { testExporter(t, substitute.Directory(dir), "file://"+dir) })
}

// What is exported to anything that serves objects can be fetched from there, at url; it is
// complete at any moment, and what is there is not put again.
func testExporter(t *testing.T, objects substitute.Objects, url string) {
	var m substitutetest.Memory
	var roots []substitute.StorePath
	for i := range 20 {
		roots = append(roots, m.AddFile("item", strconv.Itoa(i), roots[max(0, i-3):i]...).StorePath)
	}
	roots = append(roots, m.AddFile("source.tar.gz", "").StorePath)
	c := clientOf(t, url)
	count := 0
	e := &substitute.Exporter{To: objects, Key: vectorKey(t), Workers: 4, Done: func(info *substitute.Info) {
		count++
		for _, ref := range info.References {
			if _, err := c.Info(t.Context(), ref.Hash()); err != nil {
				t.Errorf("%s is there before what it refers to: %v", info.StorePath, err)
			}
		}
	}}
	if err := e.Export(t.Context(), &m, roots[19:]...); err != nil || count != 21 {
		t.Fatalf("%d items, %v", count, err)
	}
	substitutetest.TestSource(t, c, roots)
	if err := e.Export(t.Context(), unwritable{&m}, roots[19:]...); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, err := objects.Get(t.Context(), "nix-cache-info"); err != nil {
		t.Error(err)
	}
	// A new key signs what is there.
	e.Key, e.Done = substitute.GenerateKey(), nil
	if err := e.Export(t.Context(), unwritable{&m}, roots[19:]...); err != nil {
		t.Errorf("with another key: %v", err)
	}
	c = &substitute.Client{URLs: []string{url}, ACL: substitute.NewACL(e.Key.Public())}
	substitutetest.TestSource(t, c, roots)
	missing := m.AddFile("broken", "", substitutetest.Path("absent", ""))
	if err := e.Export(t.Context(), &m, missing.StorePath); !errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("incomplete closure: %v", err)
	}
}

// An archive that has gone although its narinfo is there, by a crash or somebody's hand, is put again.
func TestExporterHeals(t *testing.T) {
	var m substitutetest.Memory
	item, packed := m.AddFile("item", strings.Repeat("text", 1000)), m.AddFile("source.tar.gz", "")
	dir := t.TempDir()
	e := &substitute.Exporter{To: substitute.Directory(dir), Key: vectorKey(t)}
	archives := []string{"nar/gzip/" + item.StorePath.Base(), "nar/" + packed.StorePath.Base()}
	for range 2 {
		if err := e.Export(t.Context(), &m, item.StorePath, packed.StorePath); err != nil {
			t.Fatal(err)
		}
		for _, name := range archives {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
	}
}

// Who evicts at the moment when an item is put may take its archives for the old ones: they are put again.
func TestExporterEvicted(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("item", strings.Repeat("text", 1000))
	dir := t.TempDir()
	gone := 0
	e := &substitute.Exporter{To: evictingObjects{substitute.Directory(dir), func() {
		if gone++; gone < 3 {
			os.Remove(filepath.Join(dir, "nar", "zstd", info.StorePath.Base()))
		}
	}}, Key: vectorKey(t)}
	if err := e.Add(t.Context(), &m, info); err != nil {
		t.Fatal(err)
	}
	substitutetest.TestSource(t, clientOf(t, "file://"+dir), []substitute.StorePath{info.StorePath})
}

// evictingObjects call evict after each narinfo.
type evictingObjects struct {
	substitute.Objects
	evict func()
}

func (e evictingObjects) Put(ctx context.Context, name, contentType string, write func(io.Writer) error) error {
	err := e.Objects.Put(ctx, name, contentType, write)
	if strings.HasSuffix(name, ".narinfo") {
		e.evict()
	}
	return err
}

// Items that refer to each other in a circle, which only a hostile cache has, are no reason to wait for ever.
func TestExporterCircle(t *testing.T) {
	var m substitutetest.Memory
	a, b := substitutetest.Path("a", ""), substitutetest.Path("b", "")
	m.Add(a, substitutetest.FileNAR("a"), "", b)
	m.Add(b, substitutetest.FileNAR("b"), "", a, b)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	e := &substitute.Exporter{To: new(substitutetest.Objects), Key: vectorKey(t)}
	if err := e.Export(ctx, &m, a); err != nil {
		t.Error(err)
	}
}

// unwritable is a Source whose archives nobody should need.
type unwritable struct{ substitute.Source }

func (unwritable) WriteNAR(context.Context, io.Writer, *substitute.Info) error {
	return errors.New("read again")
}

// A wrong archive, and a service that fails, leave nothing that anybody would fetch.
func TestExporterFails(t *testing.T) {
	var m substitutetest.Memory
	info := m.AddFile("item", "contents")
	var objects substitutetest.Objects
	e := &substitute.Exporter{To: &objects, Key: vectorKey(t)}
	if err := e.Add(t.Context(), liar{&m}, info); err == nil {
		t.Error("a wrong archive was put")
	}
	down := errors.New("service is down")
	for _, name := range []string{"nar/zstd/", "nar/gzip/", info.StorePath.Hash()} {
		e := &substitute.Exporter{To: failingObjects{&objects, name, down}, Key: vectorKey(t)}
		if err := e.Add(t.Context(), &m, info); !errors.Is(err, down) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := objects.Get(t.Context(), info.StorePath.Hash()+".narinfo"); !errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("narinfo: %v", err)
	}
	if err := e.Add(t.Context(), &m, info); err != nil {
		t.Error(err)
	}
}

// failingObjects fail for names that begin so.
type failingObjects struct {
	substitute.Objects
	begin string
	err   error
}

func (f failingObjects) Put(ctx context.Context, name, contentType string, write func(io.Writer) error) error {
	if strings.HasPrefix(name, f.begin) {
		write(io.Discard)
		return f.err
	}
	return f.Objects.Put(ctx, name, contentType, write)
}
