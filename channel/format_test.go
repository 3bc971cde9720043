package channel_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

func TestFormats(t *testing.T) {
	guix := channel.DefaultGuix()
	guix.Commit = ones
	want := channel.List{guix, {Name: "x", URL: "https://example.org/x", Branch: "devel", Commit: twos}}
	for _, format := range []channel.Format{channel.FormatChannels, channel.FormatSansIntroduction, channel.FormatJSON, channel.FormatRecutils} {
		var b bytes.Buffer
		if err := want.WriteFormat(&b, format); err != nil {
			t.Fatal(err)
		}
		text := b.String()
		got, err := channel.ReadDescription("f", &b)
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if format == channel.FormatSansIntroduction {
			got[0].Introduction = guix.Introduction
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s\n%s", format, text, diff)
		}
	}
	if err := want.WriteFormat(&bytes.Buffer{}, "human"); err == nil {
		t.Error("format human was written")
	}
}

func TestReadDescription(t *testing.T) {
	x := channel.List{{Name: "x", URL: "u", Branch: "master", Commit: "c"}}
	for _, test := range []struct {
		text string
		want channel.List
		err  string
	}{
		{`{"name":"x","url":"u","branch":"master","commit":"c"}`, x, ""},
		{` [{"name":"x","url":"u","commit":"c"}]`, x, ""},
		{`{"channels":[{"name":"x","url":"u","commit":"c"}]}`, x, ""},
		{"name: x\nurl: u\ncommit: c\nother: field\n", x, ""},
		{`(list (channel (name 'x) (url "u") (commit "c")))`, x, ""},
		{`[{"name":"x"}]`, nil, "lacks a name or a url"},
		{`{}`, nil, "lacks a name or a url"},
		{`[{]`, nil, "invalid character"},
		{"name: x\n", nil, "lacks a name or a url"},
		{"name: x\nnonsense\n", nil, "f:2:1: "},
		{"name: x\nurl: u\nintroductionsigner: 12\n", nil, "f:3:1: "},
		{"[" + strings.Repeat(" ", 5<<20), nil, "larger than"},
	} {
		got, err := channel.ReadDescription("f", strings.NewReader(test.text))
		if test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) || test.err == "" && err != nil {
			t.Errorf("%.60s: error %v, want %q", test.text, err, test.err)
		}
		if diff := cmp.Diff(test.want, got); test.err == "" && diff != "" {
			t.Errorf("%s: %s", test.text, diff)
		}
	}
}

func TestReadProvenance(t *testing.T) {
	got, err := channel.ReadProvenance("provenance", []byte(`(provenance (version 0)
 (channels (channel (name x) (url "u") (branch "b") (commit "c")) (channel (name y) (url "v") (branch "b") (commit "d")))
 (configuration-file "/etc/config.scm"))`))
	want := channel.List{{Name: "x", URL: "u", Branch: "b", Commit: "c"}, {Name: "y", URL: "v", Branch: "b", Commit: "d"}}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := channel.ReadProvenance("p", []byte(`(provenance (version 1))`)); err == nil {
		t.Error("version 1 was read")
	}
}

// News that was there before is not new, and nothing after it is looked at.
func TestNews(t *testing.T) {
	repo, intro := newRepo(t, nil)
	commit := func(message string, files map[string]string) channel.Commit {
		c, err := repo.Commit("master", message, files, alice)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	old := commit("Old.", nil)
	fresh := commit("New.", nil)
	if err := repo.Tag("v1", fresh, "One."); err != nil {
		t.Fatal(err)
	}
	entry := func(about, title string) string {
		return `(entry (` + about + `) (title (en "` + title + `") (fr "nouveau")) (body (en "…")))`
	}
	last := commit("News.", map[string]string{
		".guix-channel": `(channel (version 0) (news-file "etc/news.txt"))`,
		"etc/news.txt": `;; news
(channel-news (version 0) ` + entry(`tag "v1"`, "tagged") + entry(`commit "`+string(fresh)+`"`, "fresh") +
			entry(`commit "`+string(old)+`"`, "old") + entry(`commit "`+string(fresh)+`"`, "hidden") + `)`,
	})
	r, err := channel.OpenLocal(repo.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	titles := func(from channel.Commit) (all []string) {
		news, err := r.News(t.Context(), from, last)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range news {
			all = append(all, e.Title["en"])
		}
		return all
	}
	expect(t, "from the introduction", titles(intro.Commit), "tagged", "fresh", "old", "hidden")
	expect(t, "from the old one", titles(old), "tagged", "fresh")
	expect(t, "from the last one", titles(last))
	for _, bad := range []string{"(news)", "(channel-news (version 0) (entry))", `(channel-news (version 0) (entry (title (en "x"))))`} {
		if _, err := channel.ReadNews("n", []byte(bad)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
	if news, err := channel.ReadNews("n", []byte("(channel-news (version 7) ?)")); news != nil || err != nil {
		t.Errorf("version 7: %v, %v", news, err)
	}
}

// A work tree, one linked to another, and a bare repository are all opened.
func TestOpenLocal(t *testing.T) {
	repo, intro := newRepo(t, nil)
	dir := t.TempDir()
	tree, linked := filepath.Join(dir, "tree"), filepath.Join(dir, "linked")
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(repo.Dir, filepath.Join(tree, ".git")); err != nil {
		t.Fatal(err)
	}
	meta := filepath.Join(repo.Dir, "worktrees/linked")
	write(filepath.Join(linked, ".git"), "gitdir: "+meta+"\n")
	write(filepath.Join(meta, "commondir"), "../..\n")
	write(filepath.Join(meta, "HEAD"), "ref: refs/heads/topic\n")
	topic, err := repo.CommitTo("topic", channeltest.CommitOptions{Message: "Topic.", Parents: []channel.Commit{intro.Commit}, Key: alice})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		dir, branch string
		head        channel.Commit
	}{{repo.Dir, "master", intro.Commit}, {tree, "master", intro.Commit}, {linked, "topic", topic}} {
		r, err := channel.OpenLocal(test.dir)
		if err != nil {
			t.Fatal(err)
		}
		if head, err := r.Head(); err != nil || head != test.head {
			t.Errorf("%s: head %s, %v", test.dir, head, err)
		}
		if branch, err := r.CurrentBranch(); err != nil || branch != test.branch {
			t.Errorf("%s: branch %q, %v", test.dir, branch, err)
		}
		r.Close()
	}
	if _, err := channel.OpenLocal(dir); err == nil || !strings.Contains(err.Error(), "not a git repository") {
		t.Errorf("error %v", err)
	}
}

// Every error says where.
func TestDescriptionErrors(t *testing.T) {
	for text, want := range map[string]string{
		"[{\"name\": \"x\",\n \"url\": \"u\",}]":                                     "f:2:13: invalid character '}'",
		"[{\"name\": \"x\", \"url\": \"u\"},\n  {\"name\": \"y\"}]":                  "f:2:3: the channel lacks a name or a url",
		"[{\"name\": \"x\", \"url\": \"u\"},\n  {\"name\": \"é\", \"url\": 3}]":      "f:2:24: a JSON number where there must not be one",
		"[{\"name\": \"x\", \"url\": \"u\", \"introduction\": {\"signer\": \"A\"}}]": `f:1:2: parse fingerprint "A": 1 hexadecimal digits`,
		"\n{\"name\": \"x\"}": "f:1:1: the channel lacks a name or a url",
		"{\"channels\": [{\"name\": \"x\", \"url\": \"u\"},\n 12]}": "f:2:3: a JSON number",
		"{\"channels\":\n \"x\"}":                                   "f:2:",
		"[{\"name\": \"x\", \"url\": \"u\"}":                        "f:1:",
		"name: x\nurl: u\n\nname: y\n":                              "f:4:1: the channel lacks a name or a url",
		"name: x\nnonsense\n":                                       `f:2:1: "nonsense" is not a field`,
		"name: x\nintroductioncommit: 12\n":                         "f:2:1: parse commit",
	} {
		_, err := channel.ReadDescription("f", strings.NewReader(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
		if !strings.HasPrefix(text, "{") {
			continue
		}
		if _, err := channel.ReadLock("f", strings.NewReader(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("as a lock: %q: error %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"\n (provenance (version 1))":                              "f:2:2: not the provenance",
		"(provenance (version 0) (channels\n (channel (name x))))": "f:2:2: channel x lacks a url",
		"(provenance (version 0) (channels\n (chanel)))":           "f:2:2: (repository (version 0) …) is wanted",
	} {
		if _, err := channel.ReadProvenance("f", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"\n (manifesto)": "f:2:2: not the manifest",
		"(manifest (version 4) (packages ((\"x\" \"1\" \"out\" \"/p\"\n (properties ((source\n  (repository (version 0) (name x)))))))))": "f:3:3: channel x lacks a url",
	} {
		if _, err := channel.ReadManifest("f", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}
