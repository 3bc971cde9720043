package substitutetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/genenetwork/guixci/substitute"
)

// Objects is [substitute.Objects] in memory. The zero value is empty. Its methods may be
// called concurrently.
type Objects struct {
	mu  sync.Mutex // guards all
	all map[string]object
}

type object struct {
	data        []byte
	contentType string
}

// Put implements [substitute.Objects].
func (o *Objects) Put(ctx context.Context, name, contentType string, write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = make(map[string]object)
	}
	o.all[name] = object{b.Bytes(), contentType}
	return nil
}

// Get implements [substitute.Objects].
func (o *Objects) Get(_ context.Context, name string) ([]byte, error) {
	data, _, ok := o.find(name)
	if !ok {
		return nil, fmt.Errorf("%w: %q", substitute.ErrNotFound, name)
	}
	return data, nil
}

// Has implements [substitute.Objects].
func (o *Objects) Has(_ context.Context, name string) (bool, error) {
	_, _, ok := o.find(name)
	return ok, nil
}

func (o *Objects) find(name string) (data []byte, contentType string, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	found, ok := o.all[name]
	return found.data, found.contentType, ok
}

// ServeHTTP lets clients fetch the objects, as from any web server.
func (o *Objects) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, contentType, ok := o.find(strings.TrimPrefix(r.URL.Path, "/"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", contentType)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// TestObjects checks that objects behaves as [substitute.Objects] says. It must be empty, and
// is not afterwards.
func TestObjects(t *testing.T, objects substitute.Objects) {
	t.Run("put", func(t *testing.T) { testPut(t, objects) })
	t.Run("fails", func(t *testing.T) { testPutFails(t, objects) })
	t.Run("nested", func(t *testing.T) { testPutNested(t, objects) })
	t.Run("concurrent", func(t *testing.T) { testPutConcurrent(t, objects) })
}

// put puts an object in two pieces.
func put(t *testing.T, objects substitute.Objects, name, text string) error {
	t.Helper()
	return objects.Put(t.Context(), name, "text/plain", func(w io.Writer) error {
		_, err := io.WriteString(w, text[:len(text)/2])
		if err == nil {
			_, err = io.WriteString(w, text[len(text)/2:])
		}
		return err
	})
}

func checkObject(t *testing.T, objects substitute.Objects, name, want string) {
	t.Helper()
	got, err := objects.Get(t.Context(), name)
	if err != nil || string(got) != want {
		t.Errorf("%s: %q, %v; want %q", name, got, err, want)
	}
	if has, err := objects.Has(t.Context(), name); err != nil || !has {
		t.Errorf("has %s: %v, %v; want that it does", name, has, err)
	}
}

func checkNoObject(t *testing.T, objects substitute.Objects, name string) {
	t.Helper()
	if got, err := objects.Get(t.Context(), name); !errors.Is(err, substitute.ErrNotFound) {
		t.Errorf("%s: %q, %v; want ErrNotFound", name, got, err)
	}
	if has, err := objects.Has(t.Context(), name); err != nil || has {
		t.Errorf("has %s: %v, %v; want that it does not", name, has, err)
	}
}

func testPut(t *testing.T, objects substitute.Objects) {
	for _, name := range []string{"top", "nar/zstd/" + Path("with+plus=1?_", "").Base()} {
		checkNoObject(t, objects, name)
		for _, text := range []string{"some text", "", strings.Repeat("other ", 100_000)} {
			if err := put(t, objects, name, text); err != nil {
				t.Fatal(err)
			}
			checkObject(t, objects, name, text)
		}
	}
	checkNoObject(t, objects, "nar/zstd")
}

func testPutFails(t *testing.T, objects substitute.Objects) {
	if err := put(t, objects, "kept", "before"); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for _, name := range []string{"kept", "none"} {
		err := objects.Put(t.Context(), name, "text/plain", func(w io.Writer) error {
			io.WriteString(w, strings.Repeat("half of it ", 100_000))
			return broken
		})
		if !errors.Is(err, broken) {
			t.Errorf("error %v, want that of the writing function", err)
		}
	}
	checkObject(t, objects, "kept", "before")
	checkNoObject(t, objects, "none")
}

// An archive is put under several names while it is read once.
func testPutNested(t *testing.T, objects substitute.Objects) {
	broken := errors.New("broken")
	nested := func(fails error) error {
		return objects.Put(t.Context(), "outer", "text/plain", func(outer io.Writer) error {
			return objects.Put(t.Context(), "inner", "text/plain", func(inner io.Writer) error {
				_, err := io.WriteString(io.MultiWriter(outer, inner), "text")
				return errors.Join(err, fails)
			})
		})
	}
	if err := nested(broken); !errors.Is(err, broken) {
		t.Errorf("error %v, want that of the writing function", err)
	}
	checkNoObject(t, objects, "outer")
	checkNoObject(t, objects, "inner")
	if err := nested(nil); err != nil {
		t.Fatal(err)
	}
	checkObject(t, objects, "outer", "text")
	checkObject(t, objects, "inner", "text")
}

// Several may put one object: it is that of one of them.
func testPutConcurrent(t *testing.T, objects substitute.Objects) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 5 {
				if err := put(t, objects, "shared", strings.Repeat(fmt.Sprint(i), 10_000)); err != nil {
					t.Error(err)
				}
				got, err := objects.Get(t.Context(), "shared")
				if err != nil || len(got) != 10_000 || strings.Trim(string(got), string(got[:1])) != "" {
					t.Errorf("%d bytes of several, %v", len(got), err)
				}
			}
		})
	}
	all.Wait()
}
