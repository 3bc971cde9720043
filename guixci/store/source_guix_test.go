package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
)

// tree makes a directory with one of everything.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "sub", "empty"), 0o755),
		os.WriteFile(filepath.Join(dir, "data"), []byte("data\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "sub", "run"), []byte("#!/bin/sh\n"), 0o755),
		os.Symlink("../data", filepath.Join(dir, "sub", "link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSource(t *testing.T) {
	c := dial(t)
	item, err := c.AddTree(t.Context(), "a-tree", tree(t))
	if err != nil {
		t.Fatal(err)
	}
	var pool store.Pool
	defer pool.Close()
	info, err := pool.Info(t.Context(), item.Hash())
	if err != nil {
		t.Fatal(err)
	}
	if hash := run(t, "guix", "hash", "-rx", string(item)); "sha256:"+hash[0] != info.NarHash.String() {
		t.Errorf("hash %v, guix hash says %v", info.NarHash, hash)
	}
	for how, write := range map[string]func(io.Writer) error{
		"store": func(w io.Writer) error { return pool.WriteNAR(t.Context(), w, info) },
		"export": func(w io.Writer) error {
			return store.ExportNAR(&pool, t.Context(), w, info)
		},
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		if int64(b.Len()) != info.NarSize || sha256.Sum256(b.Bytes()) != info.NarHash {
			t.Errorf("%s: archive of %d bytes is not that of %+v", how, b.Len(), info)
		}
	}
}

func TestSourceLacks(t *testing.T) {
	c := dial(t)
	var pool store.Pool
	defer pool.Close()
	gone, err := c.AddText(t.Context(), "gone", []byte(t.Name()), nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := pool.Info(t.Context(), gone.Hash())
	if err != nil {
		t.Fatal(err)
	}
	c.Close() // its temporary root would keep the item
	storetest.Remove(t, &pool, gone)
	for _, part := range []string{gone.Hash(), "", "..", strings.Repeat("e", 32), strings.Repeat("0", 31)} {
		if _, err := pool.Info(t.Context(), part); !errors.Is(err, substitute.ErrNotFound) {
			t.Errorf("info of %q: %v, want ErrNotFound", part, err)
		}
	}
	var b bytes.Buffer
	if err := pool.WriteNAR(t.Context(), &b, info); !errors.Is(err, substitute.ErrNotFound) || b.Len() != 0 {
		t.Errorf("archive: %v and %d bytes, want ErrNotFound and none", err, b.Len())
	}
}

func TestNotFound(t *testing.T) {
	c := dial(t)
	const no = "/gnu/store/00000000000000000000000000000000-no"
	ctx := t.Context()
	for what, ask := range map[string]func() error{
		"path info":  func() error { _, err := c.PathInfo(ctx, no); return err },
		"references": func() error { _, err := c.References(ctx, no); return err },
		"hash part":  func() error { _, err := c.PathFromHashPart(ctx, no[11:43]); return err },
		"export":     func() error { return c.ExportPath(ctx, io.Discard, no, false) },
	} {
		if err := ask(); !errors.Is(err, substitute.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", what, err)
		}
	}
	if valid, err := c.Valid(ctx, no); valid || err != nil {
		t.Errorf("valid: %v, %v", valid, err)
	}
}

func TestRelations(t *testing.T) {
	c := dial(t)
	kit := storetest.New(t, c)
	lib := kit.Add(storetest.Spec{Name: "lib", Script: "echo >$out"})
	user := kit.Add(storetest.Spec{Name: "user", Script: "echo $lib >$out", Inputs: []*storetest.Build{lib}})
	if err := c.Build(t.Context(), []store.StorePath{user.Derivation}, store.BuildOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	type question func(context.Context, store.StorePath) ([]store.StorePath, error)
	for _, test := range []struct {
		what string
		ask  question
		of   store.StorePath
		want store.StorePath
	}{
		{"references", c.References, user.Out(), lib.Out()},
		{"referrers", c.Referrers, lib.Out(), user.Out()},
		{"derivers", c.Derivers, user.Out(), user.Derivation},
		{"outputs", c.DerivationOutputs, user.Derivation, user.Out()},
	} {
		got, err := test.ask(t.Context(), test.of)
		if err != nil || !slices.Equal(got, []store.StorePath{test.want}) {
			t.Errorf("%s of %s: %q, %v, want %s", test.what, test.of, got, err, test.want)
		}
	}
	closure, err := c.Closure(t.Context(), user.Out())
	if want := []store.StorePath{lib.Out(), user.Out()}; err != nil || !slices.Equal(closure, want) {
		t.Errorf("closure %q, %v, want %q", closure, err, want)
	}
}

func TestRootsKeep(t *testing.T) {
	c := dial(t)
	var pool store.Pool
	defer pool.Close()
	item, err := c.AddText(t.Context(), "kept", []byte(t.Name()), nil)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "root")
	if err := os.Symlink(string(item), link); err != nil {
		t.Fatal(err)
	}
	if err := c.AddIndirectRoot(t.Context(), link); err != nil {
		t.Fatal(err)
	}
	roots, err := c.FindRoots(t.Context())
	if err != nil || !slices.Contains(values(roots), item) {
		t.Errorf("roots lack %s (%v)", item, err)
	}
	c.Close()
	err = pool.Do(t.Context(), func(c *store.Client) error {
		_, err := c.Delete(t.Context(), item)
		return err
	})
	var said *store.DaemonError
	if !errors.As(err, &said) || !strings.Contains(said.Message, string(item)) {
		t.Errorf("deleting a root: %v, want a *DaemonError naming it", err)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	storetest.Remove(t, &pool, item)
}

func values(m map[string]store.StorePath) (all []store.StorePath) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

func TestBundle(t *testing.T) {
	c := dial(t)
	item, err := c.AddText(t.Context(), "travels", []byte(t.Name()), nil)
	if err != nil {
		t.Fatal(err)
	}
	var bundle bytes.Buffer
	if err := c.ExportPath(t.Context(), &bundle, item, false); err != nil {
		t.Fatal(err)
	}
	hdr, err := nar.NewReader(bytes.NewReader(bundle.Bytes())).Next()
	if err != nil || hdr.Mode != nar.ModeRegular {
		t.Errorf("bundle begins with %+v, %v", hdr, err)
	}
	// Unsigned: refused, and the connection survives the refusal.
	framed := append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, bundle.Bytes()...)
	framed = append(framed, make([]byte, 8)...)
	_, err = c.ImportPaths(t.Context(), bytes.NewReader(framed))
	var said *store.DaemonError
	if !errors.As(err, &said) {
		t.Errorf("import of an unsigned bundle: %v, want a *DaemonError", err)
	}
	if valid, err := c.Valid(t.Context(), item); !valid || err != nil {
		t.Errorf("afterwards: valid %v, %v", valid, err)
	}
}
