package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// replaceFile gives a file new content in one step, keeping its mode. Of a link the
// file it leads to is replaced. One that is not there is made, for its owner only.
func replaceFile(name string, content []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %q: %w", name, err)
		}
	}()
	target, mode := name, fs.FileMode(0o600)
	if _, err := os.Lstat(name); err == nil {
		if target, err = filepath.EvalSymlinks(name); err != nil {
			return err
		}
		info, err := os.Stat(target)
		if err != nil {
			return err
		}
		mode = info.Mode().Perm()
	}
	temp, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+"-*")
	if err != nil {
		return err
	}
	_, err = temp.Write(content)
	if err == nil {
		err = errors.Join(temp.Chmod(mode), temp.Sync())
	}
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), target)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	dir, err := os.Open(filepath.Dir(target))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
