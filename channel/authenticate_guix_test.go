package channel_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// TestGuixAgrees tells every story to "guix git authenticate" and compares
// the verdicts.
func TestGuixAgrees(t *testing.T) {
	guixtest.Require(t)
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, story)
			_, ours := s.authenticate(&channel.Authenticator{})
			accepted, said := s.guixGitAuthenticate(t)
			switch agree := accepted == (ours == nil); {
			case !agree && story.differs == "":
				t.Errorf("we said: %v\nGuix accepts %v:\n%s", ours, accepted, said)
			case agree && story.differs != "":
				t.Errorf("no difference any more, although %s:\n%s", story.differs, said)
			}
			if !accepted && strings.Contains(said, "usage") {
				t.Errorf("Guix did not judge:\n%s", said)
			}
			t.Logf("Guix said: %s", said)
		})
	}
}

// guixGitAuthenticate has Guix judge the scene, and returns what it said.
func (s *scene) guixGitAuthenticate(t *testing.T) (accepted bool, said string) {
	t.Helper()
	home := t.TempDir()
	args := []string{"git", "authenticate", "--repository=" + s.repo.Dir, "--keyring=" + s.keyring,
		"--end=" + string(s.target), "--cache-key=story"}
	if s.historical != nil {
		var entries []string
		for _, f := range s.historical {
			entries = append(entries, `("`+f.String()+`")`)
		}
		file := filepath.Join(home, "historical")
		text := "(authorizations (version 0) (" + strings.Join(entries, " ") + "))"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--historical-authorizations="+file)
	}
	args = append(args, string(s.intro.Commit), s.intro.Signer.String())
	cmd := exec.CommandContext(t.Context(), "guix", args...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home)
	out, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return err == nil, string(out)
}
