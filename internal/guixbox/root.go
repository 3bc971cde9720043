package guixbox

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// root makes sure that the root file system is there and whole: it is built beside its
// final name, so that what has that name was complete once. Nothing is known to run in
// it; what does nevertheless is ended. The caller has the lock.
func (b *Box) root(ctx context.Context) error {
	if !exists(b.dir()) {
		return fmt.Errorf("make root: %s is gone", b.dir())
	}
	if err := b.end(ctx, b.id()); err != nil {
		return err
	}
	if err := b.removeAttempts(); err != nil {
		return err
	}
	if exists(b.rootDir()) {
		missing, err := damage(b.rootDir())
		if err != nil {
			return fmt.Errorf("check root: %v", err)
		}
		if missing == "" {
			return b.checkStandIns()
		}
		b.say("%s was there and is gone: making a new root", filepath.Join(b.rootDir(), missing))
		if err := b.discard(b.rootDir()); err != nil {
			return err
		}
	}
	return b.make(ctx)
}

func (b *Box) make(ctx context.Context) error {
	mmdebstrap, err := b.mmdebstrap(ctx)
	if err != nil {
		return err
	}
	making, err := os.MkdirTemp(b.dir(), "making-")
	if err != nil {
		return fmt.Errorf("make root: %v", err)
	}
	defer removeAll(making)
	root := filepath.Join(making, "root")
	if err := b.install(ctx, mmdebstrap, root); err != nil {
		return err
	}
	cmd := contained("chroot", root, "/bin/sh", "-c", finish)
	cmd.Env = ownEnvironment()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := runBound(ctx, cmd, withoutSync); err != nil {
		return fmt.Errorf("finish root: %w: %s", cmp.Or(context.Cause(ctx), err), bytes.TrimSpace(out.Bytes()))
	}
	if err := syncFileSystem(root); err != nil {
		return fmt.Errorf("make root: %v", err)
	}
	if err := os.Rename(root, b.rootDir()); err != nil {
		return fmt.Errorf("make root: %v", err)
	}
	return nil
}

// damage returns the first of Debian's files that a root has no more, empty when
// it has them all.
func damage(root string) (missing string, err error) {
	f, err := os.Open(filepath.Join(root, scriptDir, "files"))
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(scriptDir, "files"), nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if _, err := os.Lstat(root + sc.Text()); errors.Is(err, fs.ErrNotExist) {
			return sc.Text(), nil
		} else if err != nil {
			return "", err
		}
	}
	return "", sc.Err()
}

// checkStandIns forgets that there are stand-ins when one is missing in the store.
func (b *Box) checkStandIns() error {
	standIns := filepath.Join(b.rootDir(), "var/guix/gcroots/standins")
	links, err := fs.Glob(os.DirFS(standIns), "*")
	if err != nil || !b.hasStandIns() {
		return err
	}
	whole := len(links) > 0 && exists(filepath.Join(b.rootDir(), "var/guix/db/db.sqlite"))
	for _, link := range links {
		item, err := os.Readlink(filepath.Join(standIns, link))
		whole = whole && err == nil && exists(filepath.Join(b.rootDir(), item))
	}
	if whole {
		return nil
	}
	if err := os.Remove(b.standInsMark()); err != nil {
		return fmt.Errorf("check stand-ins: %v", err)
	}
	return nil
}

// removeAttempts deletes what killed runs left. The caller has the lock.
func (b *Box) removeAttempts() error {
	old, err := fs.Glob(os.DirFS(b.dir()), "making-*")
	for _, name := range old {
		err = errors.Join(err, removeAll(b.path(name)))
	}
	if err != nil {
		return fmt.Errorf("remove unfinished root: %v", err)
	}
	return nil
}

// discard removes a root in which nothing runs. It has another name at once.
func (b *Box) discard(root string) error {
	away, err := os.MkdirTemp(b.dir(), "making-")
	if err == nil {
		err = os.Rename(root, filepath.Join(away, "root"))
	}
	if err = errors.Join(err, removeAll(away)); err != nil {
		return fmt.Errorf("remove root: %v", err)
	}
	return nil
}

// removeAll is os.RemoveAll for a tree in which processes that were killed
// may be writing their last.
func removeAll(dir string) (err error) {
	for range 5 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
	}
	return err
}

// removeOthers removes the roots of other recipes unless something runs in them beyond
// what keeps a box up: they are 1 GB each. The caller has the lock.
func (b *Box) removeOthers(ctx context.Context) {
	all, err := b.inhabitants()
	if err != nil {
		return
	}
	roots, _ := fs.Glob(os.DirFS(b.dir()), "root-*")
	for _, name := range roots {
		id, root := strings.TrimPrefix(name, "root-"), b.path(name)
		if id == b.id() {
			continue
		}
		if n := busy(all[id]); n > 0 {
			b.say("keeping the root of another recipe, in which %d processes run: %s", n, root)
			continue
		}
		b.say("removing the root of another recipe, %s", root)
		os.Remove(b.path("running-" + id + ".json"))
		if err = b.end(ctx, id); err == nil {
			err = b.discard(root)
		}
		if err != nil {
			b.say("%v", err)
		}
	}
}

// busy counts the processes that are not those that keep a box up: the holder, guix-daemon
// and its shell.
func busy(pids []int) (n int) {
	for _, pid := range pids {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		argv := strings.Split(string(line), "\x00")
		idle := argv[0] == "sleep" && argv[1] == "infinity" || argv[0] == "guix-daemon" ||
			strings.HasSuffix(string(line), daemonScript+"\x00daemon.sh\x00")
		if err == nil && !idle {
			n++
		}
	}
	return n
}
