package channeltest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// TestGitAgrees has git check what was written without it.
func TestGitAgrees(t *testing.T) {
	alice, bob := channeltest.NewKey("alice"), channeltest.NewKey("bob")
	r, intro, err := channeltest.New(t.TempDir(), alice, map[string]string{
		"a.scm": "1", "a/b.scm": "2", "a-b/c.scm": "3", "run": "#!/bin/sh\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	side, err := r.CommitTo("side", channeltest.CommitOptions{
		Message: "Side.", Parents: []channel.Commit{intro.Commit}, Files: map[string]string{"a/b.scm": channeltest.Deleted}, Key: bob,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Merge("master", []channel.Commit{side}, map[string]string{"d/e/f": "4"}, alice); err != nil {
		t.Fatal(err)
	}
	if err := r.Tag("v1", side, "One."); err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) string {
		return run(t, r.Dir, "git", append([]string{"-c", "safe.directory=*"}, args...)...)
	}
	git("fsck", "--strict", "--full")
	if got, want := git("ls-tree", "-r", "--name-only", "master"),
		".guix-authorizations\na-b/c.scm\na.scm\na/b.scm\nd/e/f\nrun\n"; got != want {
		t.Errorf("master holds\n%swant\n%s", got, want)
	}
	if got := git("ls-tree", "-r", "--name-only", "side"); strings.Contains(got, "a/b.scm") {
		t.Errorf("side holds\n%s", got)
	}
	if got := strings.TrimSpace(git("log", "--format=%an", "master")); got != "alice\nbob\nalice" {
		t.Errorf("authors: %q", got)
	}
}

// TestGnuPGAgrees has gpg import the keys and check a signature of each kind.
func TestGnuPGAgrees(t *testing.T) {
	rsa, err := channeltest.NewRSAKey("rita", 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []*channeltest.Key{channeltest.NewKey("alice"), rsa} {
		key.AddSubkey(channeltest.NewKey("sub of " + key.Name))
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		text, err := key.ArmoredPublic()
		if err != nil {
			t.Fatal(err)
		}
		signature, err := key.Sign([]byte("some data"), channeltest.Signature{})
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"key": text, "data": "some data", "sig": signature} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		run(t, dir, "gpg", "--homedir", dir, "--batch", "--quiet", "--import", "key")
		out := run(t, dir, "gpg", "--homedir", dir, "--batch", "--status-fd", "1", "--verify", "sig", "data")
		if want := "VALIDSIG " + strings.ReplaceAll(key.Fingerprint().String(), " ", ""); !strings.Contains(out, want) {
			t.Errorf("gpg said\n%swithout %q", out, want)
		}
	}
}

func TestHistoriesAreReproducible(t *testing.T) {
	var commits [2]channel.Commit
	for i := range commits {
		_, intro, err := channeltest.New(t.TempDir(), channeltest.NewKey("alice"), map[string]string{"a": "b"})
		if err != nil {
			t.Fatal(err)
		}
		commits[i] = intro.Commit
	}
	if commits[0] != commits[1] {
		t.Errorf("%s differs from %s", commits[0], commits[1])
	}
}
