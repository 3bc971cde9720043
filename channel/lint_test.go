package channel_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

// A network is a set of channels by name, all introduced and signed by alice.
type network map[string]channel.Channel

// add makes a channel with these dependencies and returns it, pinned to its one commit.
func (n network) add(t *testing.T, name, metadata string) channel.Channel {
	t.Helper()
	files := map[string]string{"m.scm": name}
	if metadata != "" {
		files[".guix-channel"] = metadata
	}
	repo, intro := newRepo(t, files)
	c := repo.Channel(name, intro)
	c.Commit = intro.Commit
	n[name] = c
	return c
}

// file returns a channels.scm of these channels.
func (n network) file(t *testing.T, list ...channel.Channel) *channel.File {
	t.Helper()
	var b strings.Builder
	if _, err := channel.List(list).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	f, err := channel.ReadFile("channels.scm", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// codes returns "CODE CHANNEL" of each finding.
func codes(all []channel.Finding) (short []string) {
	for _, f := range all {
		short = append(short, strings.TrimSpace(string(f.Code)+" "+f.Channel))
	}
	return short
}

func lint(t *testing.T, f *channel.File) []channel.Finding {
	t.Helper()
	findings, _, err := newResolver(t).Lint(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Log(f)
		if f.Message == "" || f.Remedy == "" || f.Place.File == "" {
			t.Errorf("incomplete: %+v", f)
		}
	}
	return findings
}

func with(c channel.Channel, change func(*channel.Channel)) channel.Channel {
	change(&c)
	return c
}

func TestLint(t *testing.T) {
	n := network{}
	guix := n.add(t, "guix", "")
	low := n.add(t, "low", "")
	middle := n.add(t, "middle", channeltest.Metadata("", low))
	top := n.add(t, "top", channeltest.Metadata("", middle))
	repo, intro := newRepo(t, nil)
	moving := repo.Channel("moving", intro)
	must := func(c channel.Commit, err error) channel.Commit {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	side := must(repo.CommitTo("side", channeltest.CommitOptions{Message: "Side.", Parents: []channel.Commit{intro.Commit}, Key: alice}))
	head := must(repo.Commit("master", "More.", nil, alice))
	if err := repo.Tag("v1", head, ""); err != nil {
		t.Fatal(err)
	}
	at := func(c channel.Commit) channel.Channel {
		return with(moving, func(m *channel.Channel) { m.Commit = c })
	}
	wants := func(name string, c channel.Channel) channel.Channel {
		return n.add(t, name, channeltest.Metadata("", c))
	}

	for _, test := range []struct {
		name string
		list []channel.Channel
		want []string
	}{
		{"all is well", []channel.Channel{guix, middle, low}, nil},
		{"unpinned", []channel.Channel{guix, moving}, []string{"unpinned moving"}},
		{"a tag", []channel.Channel{guix, at("v1")}, []string{"floating-pin moving"}},
		{"an abbreviation", []channel.Channel{guix, at(head[:8])}, []string{"floating-pin moving"}},
		{"no introduction", []channel.Channel{guix, with(low, func(c *channel.Channel) { c.Introduction = nil })}, []string{"missing-introduction low"}},
		{"bug 68797", []channel.Channel{guix, top}, []string{"transitive-gap top"}},
		{"off its branch", []channel.Channel{guix, at(side)}, []string{"not-on-branch moving"}},
		{"another commit below", []channel.Channel{guix, at(head), wants("a", at(intro.Commit))}, []string{"conflicting-commit moving"}},
		{"a newer commit below", []channel.Channel{guix, at(intro.Commit), wants("b", at(head))},
			[]string{"conflicting-commit moving", "pin-not-contained moving"}},
		{"another url, branch and introduction", []channel.Channel{guix, low, wants("c", with(low, func(c *channel.Channel) {
			c.URL, c.Branch, c.Introduction = "file:///elsewhere", "other", &channel.Introduction{Commit: ones, Signer: bob.Fingerprint()}
		}))}, []string{"conflicting-branch low", "conflicting-introduction low", "conflicting-url low"}},
		{"a mirror", []channel.Channel{guix, with(n.add(t, "m", `(channel (version 0) (url "https://example.org/m"))`),
			func(c *channel.Channel) { c.Commit = "" })}, []string{"stale-mirror m", "unpinned m"}},
		{"unknown keys", []channel.Channel{guix, n.add(t, "k", `(channel (version 0) (keyring "k"))`)}, []string{"unknown-key"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := codes(lint(t, n.file(t, test.list...)))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A dependency on which Guix dies is found, not died of, and does not hide what else there is.
func TestLintIncomplete(t *testing.T) {
	n := network{}
	guix := n.add(t, "guix", "")
	low := with(n.add(t, "low", ""), func(c *channel.Channel) { c.Commit = "" })
	const text = "(channel (version 0) (odd)\n (dependencies\n  (channel (name x))\n  (channel (url \"u\"))\n  12))"
	bad := n.add(t, "bad", text)
	own := []string{"unknown-key", "incomplete-dependency x", "incomplete-dependency", "incomplete-dependency"}
	all := lint(t, n.file(t, guix, low, bad))
	if diff := cmp.Diff(append([]string{"unpinned low"}, own...), codes(all)); diff != "" {
		t.Error(diff)
	}
	for i, line := range []int{1, 3, 4, 5} {
		if at := all[i+1].Place; at.Line != line || at.File != bad.URL+"@"+bad.Commit.Short()+":.guix-channel" {
			t.Errorf("%+v, want line %d", all[i+1], line)
		}
	}
	_, err := channel.ReadFile(".guix-channel", []byte(text))
	if diff := cmp.Diff(own, codes(channel.LintError([]byte(text), err))); diff != "" {
		t.Error(diff)
	}
}

// So is one that cannot be read at all.
func TestLintUnreadable(t *testing.T) {
	n := network{}
	guix := n.add(t, "guix", "")
	bad := n.add(t, "bad", "(channel (version 0)\n (directory 1))")
	if diff := cmp.Diff([]string{"unreadable"}, codes(lint(t, n.file(t, guix, bad)))); diff != "" {
		t.Error(diff)
	}
	_, err := channel.ReadFile("channels.scm", []byte("(list\n (channel (name 'x)))"))
	got := channel.LintError(nil, err)
	if len(got) != 1 || got[0].Code != channel.Unreadable || got[0].Place != (channel.Place{File: "channels.scm", Line: 2, Column: 2}) {
		t.Errorf("findings %+v", got)
	}
	if got := channel.LintError(nil, errors.New("no network")); got != nil {
		t.Errorf("findings %+v", got)
	}
}

// The .guix-channel of a checkout is checked in its own CI.
func TestLintMetadata(t *testing.T) {
	n := network{}
	low := n.add(t, "low", "")
	middle := n.add(t, "middle", channeltest.Metadata("", low))
	f, err := channel.ReadFile(".guix-channel", []byte(channeltest.Metadata("", middle)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"transitive-gap low"}, codes(lint(t, f))); diff != "" {
		t.Error(diff)
	}
}

func TestExplain(t *testing.T) {
	n := network{}
	guix, low := n.add(t, "guix", ""), n.add(t, "low", "")
	floating := with(low, func(c *channel.Channel) { c.Commit = "" })
	a := n.add(t, "a", channeltest.Metadata("", floating))
	b := n.add(t, "b", channeltest.Metadata("", low))
	e, err := newResolver(t).Explain(t.Context(), n.file(t, guix, a, b))
	if err != nil {
		t.Fatal(err)
	}
	all := e.Of("low")
	if len(all) != 2 || !all[0].Won || all[0].By != "b" || all[1].Won || all[1].By != "a" {
		t.Fatalf("declarations %+v", all)
	}
	if want := "channel b (" + b.URL + "@" + b.Commit.Short() + ":.guix-channel:1:"; !strings.HasPrefix(all[1].Why, want) ||
		!strings.HasSuffix(all[1].Why, "names a commit, which this does not") {
		t.Errorf("it lost because %s", all[1].Why)
	}
	if all := e.Of("guix"); len(all) != 1 || all[0].Place != (channel.Place{File: "channels.scm", Line: 1, Column: 7}) {
		t.Errorf("guix: %+v", all[0])
	}
}

func TestDrift(t *testing.T) {
	f, err := channel.ReadFile(".guix-channel", []byte(`(channel (version 0) (dependencies
 (channel (name x) (url "u") (commit "`+string(ones)+`"))
 (channel (name y) (url "elsewhere") (commit "`+string(ones)+`"))
 (channel (name z) (url "w"))))`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"drift x", "conflicting-url y", "unpinned z"}, codes(f.Drift(lockOf()))); diff != "" {
		t.Error(diff)
	}
}

// Only who is trusted may name repositories on this machine, commands, or options.
func TestUntrustedURLs(t *testing.T) {
	n := network{}
	guix, low := n.add(t, "guix", ""), n.add(t, "low", "")
	for _, url := range []string{"ext::sh -c true", "--upload-pack=x", "ssh://-oProxyCommand=x/y", "-x:y"} {
		dependent := n.add(t, "d", channeltest.Metadata("", with(low, func(c *channel.Channel) { c.URL = url })))
		_, err := newResolver(t).Resolve(t.Context(), channel.List{guix, dependent})
		if err == nil || !strings.Contains(err.Error(), "not the url") {
			t.Errorf("%s: error %v", url, err)
		}
	}
}
