package nar_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/genenetwork/guixci/substitute/nar"
)

func TestFS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	for name, contents := range map[string]string{"a/b/c": "see", "a/empty": "", "z": "zed"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(contents), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := nar.Dump(&b, dir); err != nil {
		t.Fatal(err)
	}
	fsys, err := nar.NewFS(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(fsys, "a/b/c", "a/empty", "z"); err != nil {
		t.Error(err)
	}
	if text, err := fs.ReadFile(fsys, "a/b/c"); err != nil || string(text) != "see" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := nar.NewFS(bytes.NewReader(append(b.Bytes(), 0)), int64(b.Len()+1)); err == nil {
		t.Error("a byte after the archive was not noticed")
	}
}

func TestFSLinkAndSingle(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/nowhere", link); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := nar.Dump(&b, link); err != nil {
		t.Fatal(err)
	}
	fsys, err := nar.NewFS(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if target, err := fsys.ReadLink("root"); err != nil || target != "/nowhere" {
		t.Errorf("%q, %v", target, err)
	}
	if _, err := fsys.Open("root"); err == nil {
		t.Error("a link was opened")
	}
}
