package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/genenetwork/guixci/internal/cli"
)

// Half an export is none: whoever is killed has not made the file.
func TestWriteTo(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "export")
	no := errors.New("no")
	half := func(w io.Writer) error {
		io.WriteString(w, "half of it")
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is there before it is whole: %v", err)
		}
		return no
	}
	if err := writeTo(name, half); !errors.Is(err, no) {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	whole := func(w io.Writer) error { _, err := io.WriteString(w, "all of it"); return err }
	if err := writeTo(name, whole); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for _, name := range []string{name, filepath.Join(dir, "nowhere", "export")} {
		called := false
		err := writeTo(name, func(io.Writer) error { called = true; return nil })
		if cli.ExitCode(err) != cli.Usage || called {
			t.Errorf("%s: error %v, called: %v", name, err, called)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}
