package guixci_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/internal/samples"
)

// A commit that spoils .guix-channel is the channel's fault, told with its place;
// a repository that is gone is nobody's that we know of.
func TestLockErrors(t *testing.T) {
	dir := t.TempDir()
	set, err := samples.Make(filepath.Join(dir, "samples"), "lock")
	if err != nil {
		t.Fatal(err)
	}
	p, err := guixci.Open(filepath.Join(dir, "state"), guixci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	spec := guixci.Specification{Name: "sample", Channels: set.Channels()}
	if _, err := p.Lock(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	spoilt := "(channel (version 0)\n  (dependencies (channel (name nowhere))))\n"
	if _, err := set.Repo(samples.Project).Commit("master", "Depend on more.", map[string]string{".guix-channel": spoilt}, set.Alice); err != nil {
		t.Fatal(err)
	}
	_, err = p.Lock(t.Context(), spec)
	var fault *guixci.LockError
	if !errors.As(err, &fault) || fault.ExitCode() != 1 {
		t.Fatalf("a spoilt .guix-channel: %v, want a *LockError", err)
	}
	for _, part := range []string{samples.Project, ".guix-channel:2:"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not name %q", err, part)
		}
	}
	spec.Channels[0].URL = "file://" + filepath.Join(dir, "gone.git")
	if _, err := p.Lock(t.Context(), spec); err == nil || errors.As(err, &fault) {
		t.Errorf("a repository that is gone: %v, want an error that is no *LockError", err)
	}
}
