package channel_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

// A server that never ends its list of references is not listened to for ever.
func TestEndlessReferences(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		out := bufio.NewWriter(w)
		line := func(text string) error {
			_, err := fmt.Fprintf(out, "%04x%s", len(text)+4, text)
			return err
		}
		line("# service=git-upload-pack\n")
		out.WriteString("0000")
		line(strings.Repeat("1", 40) + " refs/heads/master\x00agent=x\n")
		for i := 0; r.Context().Err() == nil; i++ {
			if line(fmt.Sprintf("%040x refs/heads/%s%08d\n", i+1, strings.Repeat("long", 4000), i)) != nil {
				return
			}
		}
	}))
	defer server.Close()
	_, err := (&channel.Repositories{Dir: t.TempDir()}).References(t.Context(), server.URL+"/x.git")
	var failed *channel.RepositoryError
	if !errors.As(err, &failed) || !strings.Contains(err.Error(), "too large") {
		t.Errorf("error %v", err)
	}
}

func TestMillionReferences(t *testing.T) {
	repo, intro := newRepo(t, nil)
	f, err := os.Create(filepath.Join(repo.Dir, "packed-refs"))
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewWriter(f)
	for i := range 1_000_000 {
		fmt.Fprintf(out, "%s refs/heads/b%07d\n", intro.Commit, i)
	}
	if err := errors.Join(out.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	s := &channel.Repositories{Dir: t.TempDir()}
	_, listed := s.References(t.Context(), repo.URL())
	_, fetched := s.Fetch(t.Context(), repo.URL())
	for _, err := range []error{listed, fetched} {
		if err == nil || !strings.Contains(err.Error(), "too large") {
			t.Errorf("error %v", err)
		}
	}
}

// A commit of 100 MB is refused, here and out of a pack, without being read as a whole.
func TestHugeCommit(t *testing.T) {
	s := newScene(t, story{tell: func(s *scene) {
		s.commit("master", alice, nil)
		s.odd(channeltest.CommitOptions{Message: strings.Repeat("x", 100<<20)})
	}})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	err := s.ours(t)
	runtime.ReadMemStats(&after)
	if verdictOf(err) != string(channel.TooLarge) {
		t.Errorf("error %v", err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Errorf("%d MiB used", used>>20)
	}
	if _, err := s.authenticate(&channel.Authenticator{}); verdictOf(err) != string(channel.TooLarge) {
		t.Errorf("through a mirror: error %v", err)
	}
}

func TestHugeKeyring(t *testing.T) {
	s := newScene(t, story{tell: func(s *scene) {
		block, err := alice.Public()
		s.must(err)
		var b strings.Builder
		for i := range 10_000 { // all different: the date is a part of them
			key := []byte(block)
			i1, i2 := byte(i>>8), byte(i)
			key[9], key[10] = i1, i2
			b.Write(key)
		}
		s.keyFile("many.key", b.String())
		s.commit("master", alice, nil)
	}})
	if err := s.ours(t); verdictOf(err) != string(channel.MalformedKeyring) || !strings.Contains(err.Error(), "more than 5000 keys") {
		t.Errorf("error %v", err)
	}
}

// A tree that contains itself many times over does not take for ever.
func TestKeyringBomb(t *testing.T) {
	s := newScene(t, story{tell: func(s *scene) {
		tree, err := s.repo.Object("tree", nil)
		s.must(err)
		for range 40 {
			var raw []byte
			for _, name := range []string{"a", "b", "c", "d"} {
				raw = fmt.Appendf(raw, "40000 %s\x00", name)
				raw = append(raw, unhex(s, tree)...)
			}
			tree, err = s.repo.Object("tree", raw)
			s.must(err)
		}
		_, err = s.repo.CommitTo("keyring", channeltest.CommitOptions{Message: "Bomb.", Tree: tree})
		s.must(err)
		s.commit("master", alice, nil)
	}})
	if err := s.ours(t); verdictOf(err) != string(channel.MissingKey) {
		t.Errorf("error %v", err)
	}
}

func unhex(s *scene, id string) []byte {
	raw := make([]byte, len(id)/2)
	for i := range raw {
		_, err := fmt.Sscanf(id[2*i:2*i+2], "%02x", &raw[i])
		s.must(err)
	}
	return raw
}
