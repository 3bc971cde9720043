package guixci_test

import (
	"path/filepath"
	"testing"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/guixci"
)

// one → two on master; other begins elsewhere
func TestDescends(t *testing.T) {
	key := channeltest.NewKey("alice")
	dir := filepath.Join(t.TempDir(), "origin")
	repo, intro, err := channeltest.New(dir, key, map[string]string{"a": "1"})
	if err != nil {
		t.Fatal(err)
	}
	commit := func(branch, text string) channel.Commit {
		t.Helper()
		c, err := repo.Commit(branch, text, map[string]string{"a": text}, key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one, two := commit("master", "one"), commit("master", "two")
	url := repo.Channel("sample", intro).URL
	descends := guixci.Descends(&channel.Repositories{Dir: t.TempDir()})
	for _, c := range []struct {
		old, new channel.Commit
		want     bool
	}{
		{one, two, true}, {two, one, false}, {one, one, true},
		{channel.Commit("0123456789012345678901234567890123456789"), two, false},
	} {
		// Where it was fetched from before does not matter.
		got, err := descends(t.Context(), container.Channel{Name: "sample", URL: "https://gone.example.org", Commit: string(c.old)},
			container.Channel{Name: "sample", URL: url, Commit: string(c.new)})
		if err != nil || got != c.want {
			t.Errorf("%s to %s: %v, %v", c.old, c.new, got, err)
		}
	}
	if _, err := descends(t.Context(), container.Channel{Name: "sample", URL: url, Commit: string(one)},
		container.Channel{Name: "sample", URL: filepath.Join(t.TempDir(), "gone"), Commit: string(two)}); err == nil {
		t.Error("a channel that cannot be asked descends, or does not")
	}
}
