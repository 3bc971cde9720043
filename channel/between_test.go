package channel_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

// c1 - c2 - c3 - m - c4 on master, and c2 - s1 - s2 - m on the side.
func TestBetween(t *testing.T) {
	key := channeltest.NewKey("alice")
	repo, _, err := channeltest.New(filepath.Join(t.TempDir(), "r.git"), key, map[string]string{"a": "1"})
	if err != nil {
		t.Fatal(err)
	}
	commit := func(branch, subject string) channel.Commit {
		t.Helper()
		c, err := repo.Commit(branch, subject+"\n\nMore.\n", map[string]string{subject: subject}, key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c1, _ := repo.Head("master")
	c2 := commit("master", "c2")
	if err := repo.SetBranch("side", c2); err != nil {
		t.Fatal(err)
	}
	c3, s1, s2 := commit("master", "c3"), commit("side", "s1"), commit("side", "s2")
	m, err := repo.Merge("master", []channel.Commit{s2}, nil, key)
	if err != nil {
		t.Fatal(err)
	}
	c4 := commit("master", "c4")
	mirrors := &channel.Repositories{Dir: t.TempDir()}
	r, err := mirrors.Open(t.Context(), repo.URL())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		from, to channel.Commit
		max      int
		want     []channel.Commit // any order among equally old ones
		total    int
	}{
		{c4, c4, 9, nil, 0},
		{c3, c4, 9, []channel.Commit{c4, m, s2, s1}, 4},
		{s2, c4, 9, []channel.Commit{c4, m, c3}, 3},
		{c1, c2, 9, []channel.Commit{c2}, 1},
		{c2, c1, 9, nil, 0}, // backwards
		{c3, s2, 9, []channel.Commit{s2, s1}, 2},
		{c3, c4, 2, []channel.Commit{c4, m}, 4},
	}
	for _, test := range tests {
		notes, total, err := r.Between(t.Context(), test.from, test.to, test.max)
		var got []channel.Commit
		for _, n := range notes {
			got = append(got, n.Commit)
		}
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" || total != test.total {
			t.Errorf("from %s to %s: total %d, want %d, %v (-want +got):\n%s", test.from.Short(), test.to.Short(), total, test.total, err, diff)
		}
	}
	notes, _, err := r.Between(t.Context(), c3, c4, 1)
	if err != nil || notes[0].Subject != "c4" || notes[0].Author == "" || notes[0].Time.IsZero() {
		t.Errorf("notes %+v %v", notes, err)
	}
	if _, _, err := r.Between(t.Context(), channel.Commit(fmt.Sprintf("%040d", 1)), c4, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("from a commit that is not there: %v", err)
	}
}

func TestWriteTree(t *testing.T) {
	key := channeltest.NewKey("alice")
	repo, _, err := channeltest.New(filepath.Join(t.TempDir(), "r.git"), key, map[string]string{"a/b/c.scm": "text", "d": ""})
	if err != nil {
		t.Fatal(err)
	}
	head, _ := repo.Head("master")
	mirrors := &channel.Repositories{Dir: t.TempDir()}
	r, err := mirrors.Open(t.Context(), repo.URL())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := r.WriteTree(t.Context(), head, dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a/b/c.scm": "text", "d": ""} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(text) != want {
			t.Errorf("%s: %q %v, want %q", name, text, err, want)
		}
	}

	// What a hostile tree could do.
	blob, err := repo.Object("blob", []byte("evil"))
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "outside")
	link, err := repo.Object("blob", []byte(outside))
	if err != nil {
		t.Fatal(err)
	}
	evil, err := repo.Object("tree", tree(t, "100755 run", blob, "120000 to", link))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		tree []byte
		ok   bool
	}{
		"link":        {tree(t, "120000 l", link, "100755 run", blob, "160000 sub", string(head)), true},
		"dots":        {tree(t, "40000 ..", evil), false},
		"slash":       {tree(t, "100644 ../x", blob), false},
		"git":         {tree(t, "40000 .GIT", evil), false},
		"through":     {tree(t, "120000 l", link, "40000 l", evil), false},
		"link's file": {tree(t, "120000 l", link, "100644 l", blob), false},
	} {
		id, err := repo.Object("tree", test.tree)
		if err != nil {
			t.Fatal(err)
		}
		c, err := repo.Object("commit", []byte("tree "+id+"\nauthor A <a> 1 +0000\ncommitter A <a> 1 +0000\n\nEvil.\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := repo.SetBranch("evil", channel.Commit(c)); err != nil {
			t.Fatal(err)
		}
		r, err := mirrors.Fetch(t.Context(), repo.URL())
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := r.WriteTree(t.Context(), channel.Commit(c), dir); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(outside); err == nil {
			t.Fatalf("%s: wrote outside", name)
		}
		if !test.ok {
			continue
		}
		if to, err := os.Readlink(filepath.Join(dir, "l")); err != nil || to != outside {
			t.Errorf("%s: link to %q %v", name, to, err)
		}
		if info, err := os.Stat(filepath.Join(dir, "run")); err != nil || info.Mode().Perm()&0o111 == 0 {
			t.Errorf("%s: program %v %v", name, info, err)
		}
		if info, err := os.Stat(filepath.Join(dir, "sub")); err != nil || !info.IsDir() {
			t.Errorf("%s: submodule %v %v", name, info, err)
		}
	}
}

// tree is the bytes of a tree object: MODE NAME and id of each entry.
func tree(t *testing.T, entries ...string) []byte {
	t.Helper()
	var raw []byte
	for i := 0; i < len(entries); i += 2 {
		raw = append(raw, entries[i]...)
		raw = append(raw, 0)
		id, err := hex.DecodeString(entries[i+1])
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, id...)
	}
	return raw
}
