package inferior

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
)

// replaceFile writes a file that others read: it is the old one or the new
// one, whole, also after a crash.
func replaceFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// A watcher is a writer that calls found, once, when text passes.
type watcher struct {
	text  []byte
	found func()
	seen  []byte // the end of what passed, shorter than text
}

func (w *watcher) Write(b []byte) (int, error) {
	if w.found == nil {
		return len(b), nil
	}
	w.seen = append(w.seen, b...)
	if bytes.Contains(w.seen, w.text) {
		w.found()
		w.found, w.seen = nil, nil
		return len(b), nil
	}
	w.seen = w.seen[max(0, len(w.seen)-len(w.text)+1):]
	return len(b), nil
}
