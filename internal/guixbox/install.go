package guixbox

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// install makes a Debian root file system, as mmdebstrap does.
func (b *Box) install(ctx context.Context, mmdebstrap, root string) error {
	b.say("installing GNU Guix from Debian %s, once, into %s", suite, b.dir())
	args := append(recipe(), root)
	if mirror := cmp.Or(b.Mirror, os.Getenv("GUIXBOX_MIRROR")); mirror != "" {
		args = append(args, mirror)
	}
	cmd := contained(mmdebstrap, append([]string{"--verbose"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	o := output{say: b.say, start: time.Now(), remedy: len(remedies)}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.read(r)
	}()
	err := runBound(ctx, cmd, withoutSync)
	w.Close()
	<-done
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("install Debian %s: %w", suite, context.Cause(ctx))
	}
	return fmt.Errorf("install Debian %s: %v\n%s", suite, o.reason(err), strings.Join(o.tail, "\n"))
}

// output follows what mmdebstrap and apt print.
type output struct {
	say    func(format string, args ...any)
	start  time.Time
	phase  string
	count  int      // packages set up or unpacked in this phase
	told   int      // the last count that was told
	tail   []string // the last lines
	remedy int      // index of the most telling remedy so far
}

func (o *output) read(r io.Reader) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		o.line(sc.Text())
	}
	io.Copy(io.Discard, r)
}

var worked = regexp.MustCompile(`^(Unpacking|Setting up) `)

func (o *output) line(line string) {
	if o.tail = append(o.tail, line); len(o.tail) > 15 {
		o.tail = o.tail[1:]
	}
	o.remedy = min(o.remedy, remedy(line))
	if worked.MatchString(line) {
		if o.count++; o.count >= o.told+50 {
			o.told = o.count
			o.tell(fmt.Sprintf("%s: %d steps", o.phase, o.count))
		}
		return
	}
	text, ok := strings.CutPrefix(line, "I: ")
	text = strings.TrimSuffix(text, "...")
	// What a hook is called says nothing to whoever waits.
	if !ok || strings.HasPrefix(text, "success") || strings.HasPrefix(text, "running --") {
		return
	}
	o.phase, o.count, o.told = text, 0, 0
	o.tell(text)
}

func (o *output) tell(text string) {
	o.say("%4.0f s  %s", time.Since(o.start).Seconds(), text)
}

const (
	noSpace   = "no space left: free some, or set GUIXBOX_DIR to a directory elsewhere"
	noArchive = "Debian's archive cannot be reached: check the network, or set GUIXBOX_MIRROR to one that can"
	noKey     = "the archive's key is not known: install the package debian-archive-keyring"
)

// remedies say what to do when a line of mmdebstrap, apt or dpkg has a sign, the most telling first.
var remedies = []struct{ sign, text string }{
	{"No space left on device", noSpace},
	{"have enough free space", noSpace},
	{"Could not resolve", noArchive},
	{"Temporary failure resolving", noArchive},
	{"Could not connect", noArchive},
	{"Cannot initiate the connection", noArchive},
	{"onnection timed out", noArchive},
	{"Network is unreachable", noArchive},
	{"NO_PUBKEY", noKey},
	{"Missing key", noKey},
	{"does not have a Release file", "there is no Debian archive at that address: correct GUIXBOX_MIRROR"},
	{"is not signed", "there is no signed Debian archive at that address: correct GUIXBOX_MIRROR"},
	{"Unable to locate package", "that archive lacks a package: set GUIXBOX_MIRROR to a complete one"},
	{"Can't locate", "mmdebstrap lacks a module of Perl: install the package mmdebstrap"},
	{"Hash Sum mismatch", "Debian's archive is changing: try again, or set GUIXBOX_MIRROR to another one"},
	{"Failed to fetch", "Debian's archive does not give everything: try again, or set GUIXBOX_MIRROR to another one"},
}

// remedy returns the index of what to do about a line, beyond the last if nothing is known.
func remedy(line string) int {
	for i, known := range remedies {
		if strings.Contains(line, known.sign) {
			return i
		}
	}
	return len(remedies)
}

// reason says why the installation failed and what to do about it, as far as that is known.
func (o *output) reason(err error) string {
	if o.remedy < len(remedies) {
		return remedies[o.remedy].text
	}
	return err.Error()
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
	defer removeAll(work)
	cmd := contained("/bin/sh", "-e", "-c", `
cd "$1"
mkdir -p lists/partial cache/archives/partial
set -- -o Dir::State::lists="$1/lists" -o Dir::Cache="$1/cache" -o APT::Sandbox::User=root
apt-get "$@" -qq update
apt-get "$@" -qq download mmdebstrap
mkdir tools
dpkg-deb --extract mmdebstrap_*.deb tools`, "sh", work)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := runBound(ctx, cmd, nil); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("fetch mmdebstrap: %w", context.Cause(ctx))
		}
		return "", fmt.Errorf("fetch mmdebstrap: %v: install the package mmdebstrap and try again\n%s", err, bytes.TrimSpace(out.Bytes()))
	}
	err = errors.Join(removeAll(b.path("tools")), os.Rename(filepath.Join(work, "tools"), b.path("tools")))
	if err != nil {
		return "", fmt.Errorf("fetch mmdebstrap: %v", err)
	}
	return name, nil
}
