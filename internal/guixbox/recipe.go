package guixbox

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// suite is the only one of Debian's that has Guix 1.5.
const suite = "sid"

// packages are those of the root: Guix, what the stand-ins are made of
// (scheme/table.scm), git, which tests and Guix call, and what production has that
// our tests compare with: systemd, ip, lzip.
var packages = []string{
	"guix", "git", "netbase", "tzdata",
	"guile-3.0", "guile-fibers", "guile-zlib", "guile-zstd", "guile-lzlib", "shepherd",
	"bash", "coreutils", "gzip", "zstd", "install-info", "locales", "xfonts-utils",
	"passwd", "login", "sudo", "util-linux", "mount", "fuse3", "kmod", "libcap2-bin",
	"libpam-modules", "libpam-modules-bin", "inetutils-ping", "inetutils-syslogd",
	"systemd", "dbus", "iproute2", "lzip",
}

// without are directories of files nobody reads in a box.
const without = `mkdir -p "$1/etc/dpkg/dpkg.cfg.d" && ` +
	`printf 'path-exclude=/usr/share/%s/*\n' doc man info locale > "$1/etc/dpkg/dpkg.cfg.d/guixbox"`

// recipe are the arguments of mmdebstrap, without where to and from where.
func recipe() []string {
	return []string{"--variant=essential", "--mode=root",
		// A mirror of sid may be past the validity it states.
		`--aptopt=Acquire::Check-Valid-Until "false"`,
		`--aptopt=Acquire::Languages "none"`,
		"--dpkgopt=force-unsafe-io",
		"--setup-hook=" + without,
		"--include=" + strings.Join(packages, " "),
		suite}
}

// finish makes a fresh Debian root one that guix-daemon can work in.
const finish = `set -e
umask 022
groupadd --system guixbuild
for i in 1 2 3 4 5 6 7 8; do
    useradd -g guixbuild -G guixbuild -d /var/empty -s /usr/sbin/nologin \
            -c "Guix build user $i" --system "guixbuilder$i"
done
mkdir -p /gnu/store /var/empty /etc/guix ` + scriptDir + `
chgrp guixbuild /gnu/store
chmod 1775 /gnu/store
git config --system safe.directory '*'
# What Debian put here, for damage to be noticed.
cat /var/lib/dpkg/info/*.list | sort -u | while read -r file; do
    if [ -e "$file" ] || [ -L "$file" ]; then echo "$file"; fi
done > ` + scriptDir + `/files
`

// id names the recipe: another one makes another root.
func (b *Box) id() string {
	h := sha256.Sum256(fmt.Append(nil, recipe(), finish))
	return hex.EncodeToString(h[:6])
}

// rootDir is where the root of this very recipe is, or would be.
func (b *Box) rootDir() string { return b.path("root-" + b.id()) }
