package guixbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// complaint brings the box up, which must fail, and returns what it says.
func (f *fixture) complaint() string {
	f.Helper()
	err := f.box.Up(f.Context())
	if err == nil {
		f.Fatal("Up succeeds")
	}
	if exists(f.box.rootDir()) {
		f.Errorf("a root is there after %v", err)
	}
	if left, _ := filepath.Glob(f.box.path("making-*")); len(left) > 0 {
		f.Errorf("%q is left after %v", left, err)
	}
	return err.Error()
}

func (f *fixture) wants(got, what, remedy string) {
	f.Helper()
	first, _, _ := strings.Cut(got, "\n")
	if !strings.Contains(first, what) || !strings.Contains(first, remedy) {
		f.Errorf("says %q, not that %q and %q", first, what, remedy)
	}
}

func TestInstallationFails(t *testing.T) {
	for name, want := range map[string][2]string{
		"full":      {"no space left", "set GUIXBOX_DIR"},
		"refused":   {"cannot be reached", "check the network, or set GUIXBOX_MIRROR"},
		"resolve":   {"cannot be reached", "check the network, or set GUIXBOX_MIRROR"},
		"norelease": {"no signed Debian archive", "correct GUIXBOX_MIRROR"},
		"nopackage": {"lacks a package", "set GUIXBOX_MIRROR"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			file, err := filepath.Abs("testdata/" + name + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			t.Setenv(failEnv, file)
			got := f.complaint()
			f.wants(got, want[0], want[1])
			if !strings.HasSuffix(got, "E: mmdebstrap failed to run") {
				t.Errorf("does not say how it ended: %q", got)
			}
			t.Setenv(failEnv, "")
			f.up()
		})
	}
}

func TestCancelled(t *testing.T) {
	f := newFixture(t)
	why := errors.New("told to")
	ctx, cancel := context.WithCancelCause(t.Context())
	pipe := f.pipe()
	t.Setenv(hangEnv, pipe)
	go func() {
		if r, err := os.Open(pipe); err == nil {
			cancel(why)
			drain(r)
			r.Close()
		}
	}()
	if err := f.box.Up(ctx); !errors.Is(err, why) {
		t.Errorf("cancelled Up: %v", err)
	}
	f.nobody()
}

// path makes PATH of links to the named programs and nothing else.
func (f *fixture) path(names ...string) string {
	f.Helper()
	dir := f.TempDir()
	for _, name := range names {
		file, err := exec.LookPath(name)
		if err != nil {
			f.Fatal(err)
		}
		if err := os.Symlink(file, filepath.Join(dir, name)); err != nil {
			f.Fatal(err)
		}
	}
	f.Setenv("PATH", dir)
	return dir
}

func TestToolsMissing(t *testing.T) {
	f := newFixture(t)
	tools := []string{"unshare", "nsenter", "mount", "pivot_root", "true", "sh"}
	f.path("mount")
	f.wants(f.complaint(), `no "unshare" on this machine`, "install the packages util-linux and mount")
	t.Setenv("PATH", f.bin+":/usr/sbin:/usr/bin:/sbin:/bin")
	f.path(tools...)
	f.wants(f.complaint(), "no mmdebstrap on this machine, and no apt-get", "install the package mmdebstrap")
}

// With apt-get, mmdebstrap is fetched; here that fails, then works.
func TestFetchMmdebstrap(t *testing.T) {
	f := newFixture(t)
	self := filepath.Join(f.bin, "mmdebstrap")
	full := os.Getenv("PATH")
	dir := f.path("unshare", "nsenter", "mount", "pivot_root", "true", "sh", "mkdir", "cp", "mv", "chroot")
	script := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nPATH="+full+"\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script("apt-get", "echo 'E: Some index files failed to download.'; exit 100")
	got := f.complaint()
	f.wants(got, "fetch mmdebstrap: exit status 100", "install the package mmdebstrap")
	if !strings.Contains(got, "Some index files") {
		t.Errorf("does not show what apt-get said: %q", got)
	}
	script("apt-get", `case "$*" in *download*) touch mmdebstrap_1_all.deb ;; esac`)
	script("dpkg-deb", `mkdir -p "$3/usr/bin"; cp -L `+self+` "$3/usr/bin/mmdebstrap"`)
	mm, err := f.box.mmdebstrap(t.Context())
	if err != nil || mm != f.box.path("tools/usr/bin/mmdebstrap") || !exists(mm) {
		t.Fatalf("%q, %v", mm, err)
	}
	os.Remove(filepath.Join(dir, "apt-get")) // not needed the second time
	if again, err := f.box.mmdebstrap(t.Context()); again != mm || err != nil {
		t.Errorf("second time: %q, %v", again, err)
	}
}

func TestNamespacesForbidden(t *testing.T) {
	for kind, want := range map[string][2]string{
		"--mount": {"forbids mount or process namespaces (unshare: unshare failed: Operation not permitted)", "CAP_SYS_ADMIN"},
		"--user":  {"forbids user namespaces, which system containers need (unshare: unshare failed: Operation not permitted)", "max_user_namespaces"},
	} {
		f := newFixture(t)
		real, err := exec.LookPath("unshare")
		if err != nil {
			t.Fatal(err)
		}
		script := `#!/bin/sh
case "$*" in *` + kind + `*) echo "unshare: unshare failed: Operation not permitted" >&2; exit 1 ;; esac
exec ` + real + ` "$@"`
		if err := os.WriteFile(filepath.Join(f.bin, "unshare"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		f.wants(f.complaint(), want[0], want[1])
		os.Remove(filepath.Join(f.bin, "unshare")) // for Down
	}
}

func TestFileSystemUnfit(t *testing.T) {
	f := newFixture(t)
	at := f.TempDir()
	f.box.Dir = filepath.Join(at, "not", "yet", "there")
	for options, want := range map[string]string{
		"size=100m":        "only 100 MiB free at " + at + ", 3072 MiB are needed",
		"noexec,size=4g":   "is mounted noexec",
		"nodev,ro,size=4g": "is mounted ",
	} {
		var flags uintptr
		data := []string{}
		for _, o := range strings.Split(options, ",") {
			switch o {
			case "noexec":
				flags |= unix.MS_NOEXEC
			case "nodev":
				flags |= unix.MS_NODEV
			case "ro":
				flags |= unix.MS_RDONLY
			default:
				data = append(data, o)
			}
		}
		if err := unix.Mount("none", at, "tmpfs", flags, strings.Join(data, ",")); err != nil {
			t.Fatal(err)
		}
		got := f.box.Up(t.Context())
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if got == nil {
			t.Fatalf("%s: Up succeeds", options)
		}
		f.wants(got.Error(), want, "set GUIXBOX_DIR to a directory elsewhere")
	}
}

func TestNotRoot(t *testing.T) {
	f := newFixture(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Where it is, nobody else may look.
	dir, err := os.MkdirTemp("", "guixbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	text, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "guixbox"), text, 0o755)
	}
	if err = errors.Join(err, os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "guixbox"), "up")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GUIXBOX_DIR=" + filepath.Join(dir, "box")}
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("up succeeds without root")
	}
	f.wants(string(out), "this needs root", "run it with sudo")
}

func TestPhases(t *testing.T) {
	var said []string
	o := output{say: func(_ string, args ...any) { said = append(said, args[1].(string)) }, remedy: len(remedies)}
	lines := "I: running --setup-hook in shell: sh -c 'x'\nI: extracting archives...\n" +
		strings.Repeat("Unpacking x (1) ...\nSetting up x (1) ...\n", 30) + "I: success in 1 seconds\n"
	o.read(strings.NewReader(lines))
	if len(said) != 2 || said[0] != "extracting archives" || said[1] != "extracting archives: 50 steps" {
		t.Errorf("said %q", said)
	}
}
