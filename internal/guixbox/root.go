package guixbox

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// suite is the only one of Debian's that has Guix 1.5.
const suite = "sid"

// packages are those of the root: Guix, what the stand-ins are made of, and what
// tests call. Changing the list makes a new root.
var packages = []string{
	"guix", "ca-certificates", "git", "gnupg", "passwd", "login", "netbase",
	"guile-3.0", "guile-fibers", "guile-zlib", "guile-zstd", "guile-lzlib", "shepherd",
	"kmod", "libcap2-bin", "libpam-modules", "libpam-modules-bin", "util-linux", "mount",
	"fuse3", "inetutils-ping", "inetutils-syslogd", "bash", "coreutils", "gzip", "zstd",
	"texinfo", "install-info", "locales", "kbd", "xfonts-utils", "sudo", "tzdata",
	"procps", "iproute2",
}

// finish makes a fresh Debian root one that guix-daemon can work in.
const finish = `set -e
groupadd --system guixbuild
for i in 1 2 3 4 5 6 7 8; do
    useradd -g guixbuild -G guixbuild -d /var/empty -s /usr/sbin/nologin \
            -c "Guix build user $i" --system "guixbuilder$i"
done
mkdir -p /gnu/store /var/empty /var/lib/guixbox /etc/guix
chgrp guixbuild /gnu/store
chmod 1775 /gnu/store
git config --system safe.directory '*'
`

// without are directories of files nobody reads in a box.
const without = `printf 'path-exclude=/usr/share/%s/*\n' doc man info locale > "$1/etc/dpkg/dpkg.cfg.d/guixbox"`

// rootDir is where the root of this very recipe is, or would be.
func (b *Box) rootDir() string {
	h := sha256.New()
	fmt.Fprintln(h, suite, packages, finish, without)
	return b.path("root-" + hex.EncodeToString(h.Sum(nil))[:12])
}

// root returns the root file system, building it if need be: beside its final
// name, so that what has that name is complete.
func (b *Box) root(ctx context.Context) (string, error) {
	root := b.rootDir()
	if exists(root) {
		return root, nil
	}
	if err := b.removeAttempts(); err != nil {
		return "", err
	}
	mmdebstrap, err := b.mmdebstrap(ctx)
	if err != nil {
		return "", err
	}
	making, err := os.MkdirTemp(b.dir(), "making-")
	if err != nil {
		return "", fmt.Errorf("make root: %v", err)
	}
	defer os.RemoveAll(making)
	if err := b.install(ctx, mmdebstrap, filepath.Join(making, "root")); err != nil {
		return "", err
	}
	if out, err := contained(ctx, "chroot", filepath.Join(making, "root"), "/bin/sh", "-c", finish).CombinedOutput(); err != nil {
		return "", fmt.Errorf("finish root: %w: %s", cmp.Or(context.Cause(ctx), err), out)
	}
	if err := os.Rename(filepath.Join(making, "root"), root); err != nil {
		return "", fmt.Errorf("make root: %v", err)
	}
	return root, nil
}

// removeAttempts deletes what killed runs left. The caller has the lock.
func (b *Box) removeAttempts() error {
	old, err := filepath.Glob(b.path("making-*"))
	for _, dir := range old {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("remove unfinished root: %v", err)
	}
	return nil
}

// contained returns a command in its own mount and process namespaces: when it ends, or is
// killed, or this process dies, its mounts and its children are gone too.
func contained(ctx context.Context, name string, args ...string) *exec.Cmd {
	return command(ctx, "unshare", append([]string{"--mount", "--propagation", "private",
		"--pid", "--fork", "--kill-child", "--mount-proc", name}, args...)...)
}

func (b *Box) install(ctx context.Context, mmdebstrap, root string) error {
	b.say("installing GNU Guix from Debian %s, once, into %s", suite, b.dir())
	args := []string{"--variant=apt", "--mode=root",
		// A mirror of sid may be past the validity it states.
		`--aptopt=Acquire::Check-Valid-Until "false"`,
		`--aptopt=Acquire::Languages "none"`,
		"--dpkgopt=force-unsafe-io",
		"--essential-hook=" + without,
		"--include=" + strings.Join(packages, " "),
		suite, root}
	if mirror := cmp.Or(b.Mirror, os.Getenv("GUIXBOX_MIRROR")); mirror != "" {
		args = append(args, mirror)
	}
	cmd := contained(ctx, mmdebstrap, args...)
	start := time.Now()
	var tail lastLines
	err := run(cmd, func(line string) {
		tail.add(line)
		if text, ok := strings.CutPrefix(line, "I: "); ok && !strings.HasPrefix(text, "success") {
			b.say("%4.0f s  %s", time.Since(start).Seconds(), text)
		}
	})
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("install Debian %s: %w", suite, context.Cause(ctx))
	}
	return fmt.Errorf("install Debian %s: %v%s\n%s", suite, err, remedy(tail.String()), tail.String())
}

// remedy guesses from what apt said what to do about it.
func remedy(output string) string {
	for _, hint := range []struct{ sign, text string }{
		{"No space left on device", "no space left: free some, or set GUIXBOX_DIR to a directory elsewhere"},
		{"Temporary failure resolving", "Debian's archive cannot be reached: check the network, or set GUIXBOX_MIRROR to an archive that can"},
		{"Could not connect", "Debian's archive cannot be reached: check the network, or set GUIXBOX_MIRROR to an archive that can"},
		{"Failed to fetch", "Debian's archive does not give everything: try again, or set GUIXBOX_MIRROR to another archive"},
		{"does not have a Release file", "there is no Debian archive at that address: correct GUIXBOX_MIRROR"},
		{"Unable to locate package", "that archive lacks a package: set GUIXBOX_MIRROR to a complete one"},
	} {
		if strings.Contains(output, hint.sign) {
			return ": " + hint.text
		}
	}
	return ""
}

// mmdebstrap returns the program that installs Debian, fetching it into the
// box's directory if the machine has none: nothing is installed on the machine.
func (b *Box) mmdebstrap(ctx context.Context) (string, error) {
	if name, err := exec.LookPath("mmdebstrap"); err == nil {
		return name, nil
	}
	name := b.path("tools/usr/bin/mmdebstrap")
	if exists(name) {
		return name, nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", errors.New("prepare box: no mmdebstrap on this machine, and no apt-get to fetch it with: install the package mmdebstrap, or Guix itself")
	}
	b.say("fetching mmdebstrap")
	work, err := os.MkdirTemp(b.dir(), "making-tools-")
	if err != nil {
		return "", fmt.Errorf("fetch mmdebstrap: %v", err)
	}
	defer os.RemoveAll(work)
	cmd := command(ctx, "/bin/sh", "-e", "-c", `
cd "$1"
mkdir -p lists/partial cache/archives/partial
set -- -o Dir::State::lists="$1/lists" -o Dir::Cache="$1/cache" -o APT::Sandbox::User=root
apt-get "$@" -qq update
apt-get "$@" -qq download mmdebstrap
mkdir tools
dpkg-deb --extract mmdebstrap_*.deb tools`, "sh", work)
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("fetch mmdebstrap: %w", context.Cause(ctx))
		}
		return "", fmt.Errorf("fetch mmdebstrap: %v%s: install the package mmdebstrap and try again\n%s", err, remedy(string(out)), out)
	}
	os.RemoveAll(b.path("tools"))
	if err := os.Rename(filepath.Join(work, "tools"), b.path("tools")); err != nil {
		return "", fmt.Errorf("fetch mmdebstrap: %v", err)
	}
	return name, nil
}

// run runs cmd and hands what it prints, on both outputs, to line.
func run(cmd *exec.Cmd, line func(string)) error {
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	done := make(chan struct{})
	go func() {
		defer close(done)
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			line(sc.Text())
		}
		io.Copy(io.Discard, r)
	}()
	err := cmd.Run()
	w.Close()
	<-done
	return err
}

// lastLines keeps the end of an output.
type lastLines []string

func (l *lastLines) add(line string) {
	if *l = append(*l, line); len(*l) > 30 {
		*l = (*l)[1:]
	}
}

func (l lastLines) String() string { return strings.Join(l, "\n") }
