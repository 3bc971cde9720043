package agent

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/nar"
)

// linkSize is the size from which files are deduplicated:
// %deduplication-minimum-size of (guix store deduplication).
const linkSize = 8192

func (a *Agent) restoreOptions() *nar.RestoreOptions {
	if a.Links == "" || !a.Options.Deduplicate {
		return nil
	}
	return &nar.RestoreOptions{Link: a.link, LinkSize: linkSize}
}

// link makes file and the store's file of that hash one, as deduplicate of (guix store
// deduplication) does. Where the file system has no room for more links the
// file just stays as it is.
func (a *Agent) link(file string, sum [sha256.Size]byte) error {
	shared := filepath.Join(a.Links, substitute.EncodeBase32(sum[:]))
	err := os.Link(file, shared)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Mkdir(a.Links, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
			err = os.Link(file, shared)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		err = a.replace(file, shared)
	}
	if noRoom(err) {
		return nil
	}
	return err
}

// replace makes file a link to shared, which has the same contents, unless it has been damaged.
func (a *Agent) replace(file, shared string) error {
	if same, err := alike(file, shared); err != nil || !same {
		return err
	}
	temp := filepath.Join(a.Links, ".tmp-link-"+rand.Text())
	if err := os.Link(shared, temp); err != nil {
		return ignoreGone(err) // collected at this moment
	}
	if err := os.Rename(temp, file); err != nil {
		os.Remove(temp)
		return err
	}
	return nil
}

// alike reports whether the shared file can be what its name says, going by its inode.
func alike(file, shared string) (bool, error) {
	ours, err := os.Lstat(file)
	if err != nil {
		return false, err
	}
	theirs, err := os.Lstat(shared)
	if err != nil {
		return false, ignoreGone(err)
	}
	return theirs.Mode() == ours.Mode() && theirs.Size() == ours.Size(), nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func noRoom(err error) bool {
	return errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EPERM)
}
